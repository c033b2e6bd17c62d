// What the files that know Python share: checks of dtype, contiguity and bounds, and hand-over of results without a copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <string>
#include <type_traits>

#include "cpu.hpp"
#include "deadline.hpp"
#include "topk.hpp"

namespace rerank {

namespace py = pybind11;

constexpr double kNever = std::numeric_limits<double>::infinity();  // seconds to a deadline where there is none

// No conversion and no copy: an array of another dtype or layout is an error of the caller's, not a hidden cost.
template <class T>
std::span<const T> view(const py::array& array, const char* name) {
    const bool aligned = array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if (!py::isinstance<py::array_t<T, py::array::c_style>>(array) || !aligned)
        throw py::type_error(std::string(name) + ": got dtype " + py::str(array.dtype()).cast<std::string>() +
                             (array.flags() & py::array::c_style ? "" : ", not contiguous") + (aligned ? "" : ", not aligned") +
                             "; expected a contiguous, aligned array of " +
                             py::str(py::dtype::of<T>()).cast<std::string>());
    return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

inline void check_offsets(std::span<const std::int64_t> offsets, std::size_t total, const char* name) {
    bool ok = !offsets.empty() && offsets.front() == 0 && offsets.back() == static_cast<std::int64_t>(total);
    for (std::size_t i = 1; ok && i < offsets.size(); ++i) ok = offsets[i - 1] <= offsets[i];
    if (!ok) throw py::value_error(std::string(name) + ": must start at 0, never fall, and end at " + std::to_string(total));
}

template <class T>
void check_range(std::span<const T> values, std::int64_t end, const char* name) {
    for (const T v : values)
        if (v < 0 || v >= end)
            throw py::value_error(std::string(name) + ": " + std::to_string(v) + " is outside [0, " + std::to_string(end) + ")");
}

// Hands a vector over to numpy without copying it.
template <class T>
py::array_t<T> to_numpy(std::vector<T>&& values) {
    auto* owner = new std::vector<T>(std::move(values));
    py::capsule release(owner, [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array_t<T>(static_cast<py::ssize_t>(owner->size()), owner->data(), release);
}

inline py::tuple to_numpy(PackedHits&& hits) {
    return py::make_tuple(to_numpy(std::move(hits.offsets)), to_numpy(std::move(hits.ids)), to_numpy(std::move(hits.scores)));
}

inline py::tuple to_numpy(const std::vector<Hit>& hits) {
    std::vector<std::int64_t> ids;
    std::vector<float> scores;
    for (const Hit& hit : hits) {
        ids.push_back(hit.id);
        scores.push_back(hit.score);
    }
    return py::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(scores)));
}

template <class Enum>
Enum named(const std::string& name, std::initializer_list<std::pair<const char*, Enum>> known, const char* what) {
    for (const auto& [key, value] : known)
        if (name == key) return value;
    throw py::value_error(std::string(what) + ": unknown '" + name + "'");
}

inline Isa isa_of(const std::string& name) {
    if (name.empty()) return best_isa();
    return named<Isa>(name, {{"baseline", Isa::baseline}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}, {"avx512vnni", Isa::avx512vnni}}, "isa");
}

void bind_lexical(py::module_& m);
void bind_late(py::module_& m);
void bind_trees(py::module_& m);

}  // namespace rerank

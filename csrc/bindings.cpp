// The only file that knows Python: checks dtype, contiguity and bounds, releases the GIL, calls. Values are the ops' concern.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "bm25.hpp"
#include "cpu.hpp"
#include "fuse.hpp"
#include "mmr.hpp"

namespace py = pybind11;
using namespace rerank;

namespace {

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

void check_offsets(std::span<const std::int64_t> offsets, std::size_t total, const char* name) {
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

py::tuple to_numpy(PackedHits&& hits) {
    return py::make_tuple(to_numpy(std::move(hits.offsets)), to_numpy(std::move(hits.ids)), to_numpy(std::move(hits.scores)));
}

py::tuple to_numpy(const std::vector<Hit>& hits) {
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

Isa isa_of(const std::string& name) {
    if (name.empty()) return best_isa();
    return named<Isa>(name, {{"baseline", Isa::baseline}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}}, "isa");
}

py::tuple py_topk(const py::array& scores, const py::array& ids, std::size_t k) {
    const auto s = view<float>(scores, "scores");
    const auto i = view<std::int64_t>(ids, "ids");
    if (!i.empty() && i.size() != s.size()) throw py::value_error("topk: ids and scores differ in length");
    std::vector<Hit> hits;
    {
        py::gil_scoped_release release;
        hits = topk(s, i, k);
    }
    return to_numpy(hits);
}

// ids, scores: a list of arrays each, list l of query q at q * L + l; no scores at all will do for RRF.
// (offsets, ids, scores), and if asked for contributions and places, both flat.
template <bool explain>
py::tuple py_fuse(const py::list& ids, const py::list& scores, const py::array& weights, const std::string& method, const std::string& norm,
                  double k, std::size_t top, int threads) {
    const auto w = view<double>(weights, "weights");
    if (w.empty() || ids.size() % w.size() != 0) throw py::value_error("fuse: expected one list per weight for every query");
    if (!scores.empty() && scores.size() != ids.size()) throw py::value_error("fuse: expected as many lists of scores as of ids");
    std::vector<ListView> lists(ids.size());
    for (std::size_t l = 0; l < lists.size(); ++l) {
        lists[l].ids = view<std::int64_t>(py::cast<py::array>(ids[l]), "ids");
        if (!scores.empty()) lists[l].scores = view<float>(py::cast<py::array>(scores[l]), "scores");
    }
    FuseOptions options{named<FuseMethod>(method, {{"rrf", FuseMethod::rrf}, {"sum", FuseMethod::sum}, {"mnz", FuseMethod::mnz}}, "method"),
                        named<FuseNorm>(norm, {{"none", FuseNorm::none}, {"min-max", FuseNorm::min_max}, {"z-score", FuseNorm::z_score}}, "norm"),
                        k, top, threads, explain};
    for (const ListView& list : lists)
        if ((!scores.empty() || options.method != FuseMethod::rrf) && list.ids.size() != list.scores.size())
            throw py::value_error("fuse: ids and scores differ in length");
    FusedHits hits;
    {
        py::gil_scoped_release release;
        hits = fuse(lists, w, options);
    }
    if constexpr (!explain) return to_numpy(static_cast<PackedHits&&>(hits));
    return py::make_tuple(to_numpy(std::move(hits.offsets)), to_numpy(std::move(hits.ids)), to_numpy(std::move(hits.scores)),
                          to_numpy(std::move(hits.contributions)), to_numpy(std::move(hits.places)));
}

py::tuple py_mmr(const py::array& relevance, const py::array& vectors, std::size_t k, double lambda, const std::string& isa) {
    const auto r = view<float>(relevance, "relevance");
    const auto v = view<float>(vectors, "vectors");
    if (vectors.ndim() != 2 || vectors.shape(0) != relevance.size()) throw py::value_error("mmr: expected one vector per relevance");
    const auto d = static_cast<std::size_t>(vectors.shape(1));
    const Kernels table = kernels(isa_of(isa));
    std::vector<Hit> hits;
    {
        py::gil_scoped_release release;
        hits = mmr(r, v, d, {k, lambda}, table);
    }
    return to_numpy(hits);
}

py::tuple py_mmr_for_query(const py::array& query, const py::array& vectors, std::size_t k, double lambda, const std::string& isa) {
    const auto q = view<float>(query, "query");
    const auto v = view<float>(vectors, "vectors");
    if (vectors.ndim() != 2 || vectors.shape(1) != query.size()) throw py::value_error("mmr: expected vectors of the query's dimension");
    const auto n = static_cast<std::size_t>(vectors.shape(0));
    const Kernels table = kernels(isa_of(isa));
    std::vector<Hit> hits;
    {
        py::gil_scoped_release release;
        hits = mmr_for_query(q, v, n, {k, lambda}, table);
    }
    return to_numpy(hits);
}

py::tuple py_build_postings(const py::array& tokens, const py::array& offsets, std::int64_t n_terms) {
    const auto t = view<std::int32_t>(tokens, "tokens");
    const auto o = view<std::int64_t>(offsets, "offsets");
    check_offsets(o, t.size(), "offsets");
    check_range(t, n_terms, "tokens");
    if (n_terms < 0) throw py::value_error("n_terms: " + std::to_string(n_terms) + " is below 0");
    Postings postings;
    {
        py::gil_scoped_release release;
        postings = build_postings(t, o, n_terms);
    }
    return py::make_tuple(to_numpy(std::move(postings.term_offsets)), to_numpy(std::move(postings.rows)), to_numpy(std::move(postings.counts)));
}

// Queries are checked here, the postings as they are read: an index from a damaged file must not read outside its arrays.
py::tuple py_bm25(const py::array& term_offsets, const py::array& rows, const py::array& impacts, std::int64_t n_rows, const py::array& terms,
                  const py::array& weights, const py::array& query_offsets, std::size_t k, int threads) {
    const Bm25View index{view<std::int64_t>(term_offsets, "term_offsets"), view<std::int32_t>(rows, "rows"), view<float>(impacts, "impacts"), n_rows};
    const auto t = view<std::int32_t>(terms, "terms");
    const auto w = view<float>(weights, "weights");
    const auto o = view<std::int64_t>(query_offsets, "query_offsets");
    check_offsets(o, t.size(), "query_offsets");
    if (index.term_offsets.empty() || index.rows.size() != index.impacts.size() ||
        index.term_offsets.back() != static_cast<std::int64_t>(index.rows.size()))
        throw py::value_error("bm25: term_offsets, rows and impacts do not fit together");
    if (w.size() != t.size()) throw py::value_error("bm25: expected one weight per term");
    check_range(t, static_cast<std::int64_t>(index.term_offsets.size()) - 1, "terms");
    PackedHits hits;
    {
        py::gil_scoped_release release;
        hits = bm25(index, t, w, o, k, threads);
    }
    return to_numpy(std::move(hits));
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    using namespace py::literals;
    m.doc() = "The C++ core of rerank_engine. Call it through rerank_engine.ops, which checks values and explains errors.";
    m.def("best_isa", [] { return std::string(isa_name(best_isa())); });
    m.def("usable_isas", [] {
        std::vector<std::string> names;
        for (const Isa isa : usable_isas()) names.emplace_back(isa_name(isa));
        return names;
    });
    m.def("topk", &py_topk, "scores"_a.noconvert(), "ids"_a.noconvert(), "k"_a);
    m.def("fuse", &py_fuse<false>, "ids"_a, "scores"_a, "weights"_a, "method"_a, "norm"_a, "k"_a, "top"_a, "threads"_a);
    m.def("fuse_explained", &py_fuse<true>, "ids"_a, "scores"_a, "weights"_a, "method"_a, "norm"_a, "k"_a, "top"_a, "threads"_a);
    m.def("mmr", &py_mmr, "relevance"_a, "vectors"_a, "k"_a, "lambda_"_a, "isa"_a = "");
    m.def("mmr_for_query", &py_mmr_for_query, "query"_a, "vectors"_a, "k"_a, "lambda_"_a, "isa"_a = "");
    m.def("build_postings", &py_build_postings, "tokens"_a, "offsets"_a, "n_terms"_a);
    m.def("bm25", &py_bm25, "term_offsets"_a, "rows"_a, "impacts"_a, "n_rows"_a, "terms"_a, "weights"_a, "query_offsets"_a, "k"_a, "threads"_a);
}

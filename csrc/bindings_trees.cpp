#include "bindings.hpp"
#include "trees.hpp"

namespace rerank {
namespace {

// Checks what memory safety needs; the arrays are copied.
Trees py_trees(const py::dict& arrays, std::size_t n_features, double base, double divisor, bool narrow) {
    const auto of = [&](const char* name) { return py::cast<py::array>(arrays[name]); };
    TreesView trees;
    trees.node_offsets = view<std::int64_t>(of("node_offsets"), "node_offsets");
    trees.leaf_offsets = view<std::int64_t>(of("leaf_offsets"), "leaf_offsets");
    trees.set_offsets = view<std::int64_t>(of("set_offsets"), "set_offsets");
    trees.feature = view<std::int32_t>(of("feature"), "feature");
    trees.left = view<std::int32_t>(of("left"), "left");
    trees.right = view<std::int32_t>(of("right"), "right");
    trees.threshold = view<double>(of("threshold"), "threshold");
    trees.leaves = view<double>(of("leaves"), "leaves");
    trees.flags = view<std::uint8_t>(of("flags"), "flags");
    trees.sets = view<std::uint32_t>(of("sets"), "sets");
    trees.base = base, trees.divisor = divisor, trees.narrow = narrow;
    return Trees(trees, n_features);
}

template <class T>
py::array_t<double> scored(const Trees& trees, const py::array& features, int threads, const Kernels& table) {
    const auto rows = view<T>(features, "features");
    const auto n = static_cast<std::size_t>(features.shape(0));
    std::vector<double> out(n);
    {
        py::gil_scoped_release release;
        trees.score<T>(rows, n, out, threads, table);
    }
    return to_numpy(std::move(out));
}

// features float32 or float64 [n, n_features] -> float64 [n].
py::array_t<double> py_score(const Trees& trees, const py::array& features, int threads, const std::string& isa) {
    if (features.ndim() != 2 || static_cast<std::size_t>(features.shape(1)) != trees.n_features())
        throw py::value_error("trees: expected features [n, " + std::to_string(trees.n_features()) + "]");
    const Kernels table = kernels(isa_of(isa));
    return py::isinstance<py::array_t<float>>(features) ? scored<float>(trees, features, threads, table) : scored<double>(trees, features, threads, table);
}

}  // namespace

void bind_trees(py::module_& m) {
    using namespace py::literals;
    py::class_<Trees>(m, "Trees")
        .def(py::init(&py_trees), "arrays"_a, "n_features"_a, "base"_a, "divisor"_a, "narrow"_a)
        .def("score", &py_score, "features"_a.noconvert(), "threads"_a = 1, "isa"_a = "");
}

}  // namespace rerank

// The files called bindings* alone know Python: they check dtype, contiguity and bounds, release the GIL, call. Values are the ops' concern.
#include "bindings.hpp"

#include <pybind11/stl.h>

#include "cpu.hpp"
#include "fuse.hpp"
#include "mmr.hpp"

using namespace rerank;

namespace {

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

py::tuple py_mmr(const py::array& relevance, const py::array& vectors, std::size_t k, double lambda, const std::string& isa, double seconds) {
    const auto r = view<float>(relevance, "relevance");
    const auto v = view<float>(vectors, "vectors");
    if (vectors.ndim() != 2 || vectors.shape(0) != relevance.size()) throw py::value_error("mmr: expected one vector per relevance");
    const auto d = static_cast<std::size_t>(vectors.shape(1));
    const Kernels table = kernels(isa_of(isa));
    std::vector<Hit> hits;
    {
        py::gil_scoped_release release;
        hits = mmr(r, v, d, {k, lambda, Deadline(seconds)}, table);
    }
    return to_numpy(hits);
}

py::tuple py_mmr_for_query(const py::array& query, const py::array& vectors, std::size_t k, double lambda, const std::string& isa, double seconds) {
    const auto q = view<float>(query, "query");
    const auto v = view<float>(vectors, "vectors");
    if (vectors.ndim() != 2 || vectors.shape(1) != query.size()) throw py::value_error("mmr: expected vectors of the query's dimension");
    const auto n = static_cast<std::size_t>(vectors.shape(0));
    const Kernels table = kernels(isa_of(isa));
    std::vector<Hit> hits;
    {
        py::gil_scoped_release release;
        hits = mmr_for_query(q, v, n, {k, lambda, Deadline(seconds)}, table);
    }
    return to_numpy(hits);
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
    m.def("mmr", &py_mmr, "relevance"_a, "vectors"_a, "k"_a, "lambda_"_a, "isa"_a = "", "seconds"_a = kNever);
    m.def("mmr_for_query", &py_mmr_for_query, "query"_a, "vectors"_a, "k"_a, "lambda_"_a, "isa"_a = "", "seconds"_a = kNever);
    bind_lexical(m);
    bind_late(m);
    bind_trees(m);
}

// Vectors for Python, of documents and of tokens: see bindings.cpp.
#include "bindings.hpp"

#include <cmath>

#include "centroid.hpp"
#include "inner.hpp"
#include "maxsim.hpp"
#include "residual.hpp"

using namespace rerank;

namespace {

// Token vectors [total, dim] of one of the three types.
struct Values {
    TokenType type;
    std::size_t total, dim, size;  // size: bytes of a value
    const std::uint8_t* data;
};

Values values_of(const py::array& array, const std::string& name = "values") {
    if (array.ndim() != 2) throw py::value_error(name + ": expected two dimensions");
    const auto total = static_cast<std::size_t>(array.shape(0)), dim = static_cast<std::size_t>(array.shape(1));
    const auto* data = static_cast<const std::uint8_t*>(array.data());
    if (array.dtype().kind() == 'f' && array.itemsize() == 2) {
        if (!(array.flags() & py::array::c_style) || reinterpret_cast<std::uintptr_t>(data) % 2 || array.dtype().byteorder() != '=')
            throw py::type_error(name + ": expected a contiguous, aligned array in this machine's order of bytes");
        return {TokenType::f16, total, dim, 2, data};
    }
    if (py::isinstance<py::array_t<std::int8_t>>(array)) return {TokenType::i8, total, dim, 1, (view<std::int8_t>(array, "values"), data)};
    view<float>(array, name.c_str());
    return {TokenType::f32, total, dim, 4, data};
}

// rows: int64 [m], or none for all. (products float32 [q, m], how many of the first rows were multiplied before the deadline)
py::tuple py_inner_products(const py::array& queries, const py::array& vectors, const py::object& rows, int threads, const std::string& isa,
                            double seconds) {
    const auto q = view<float>(queries, "queries");
    const Values v = values_of(vectors, "vectors");
    if (queries.ndim() != 2 || static_cast<std::size_t>(queries.shape(1)) != v.dim || v.type == TokenType::i8)
        throw py::value_error("inner_products: expected float32 [q, dim] and float32 or float16 [n, dim]");
    InnerCall call{q, static_cast<std::size_t>(queries.shape(0)), v.dim, v.type, v.data, nullptr, v.total, threads, Deadline(seconds)};
    if (!rows.is_none()) {
        const auto chosen = view<std::int64_t>(py::cast<py::array>(rows), "rows");
        check_range(chosen, static_cast<std::int64_t>(v.total), "rows");
        call.rows = chosen.data(), call.n_rows = chosen.size();
    }
    py::array_t<float> out({queries.shape(0), static_cast<py::ssize_t>(call.n_rows)});
    float* data = out.mutable_data();
    const Isa chosen = isa_of(isa);
    std::size_t done = 0;
    {
        py::gil_scoped_release release;
        done = inner_products(call, data, chosen);
    }
    return py::make_tuple(out, done);
}

// starts, lengths: the tokens of each document in values; both within it.
std::vector<DocTokens> documents_of(const Values& values, std::span<const float> scales, const py::array& starts, const py::array& lengths) {
    const auto s = view<std::int64_t>(starts, "starts"), n = view<std::int64_t>(lengths, "lengths");
    if (s.size() != n.size()) throw py::value_error("starts and lengths differ in length");
    if (values.type == TokenType::i8 ? scales.size() != values.total : !scales.empty())
        throw py::value_error("scales: expected one a token for int8, and none otherwise");
    const auto total = static_cast<std::int64_t>(values.total);
    std::vector<DocTokens> out(s.size());
    for (std::size_t i = 0; i < s.size(); ++i) {
        if (s[i] < 0 || n[i] < 0 || s[i] > total || n[i] > total - s[i]) throw py::value_error("documents: outside the values");
        const auto first = static_cast<std::size_t>(s[i]);
        out[i] = {values.data + first * values.dim * values.size, scales.empty() ? nullptr : scales.data() + first, static_cast<std::size_t>(n[i])};
    }
    return out;
}

// Totals of documents by a query; see maxsim.
std::size_t add_maxima(const py::array& query, const py::array& weights, std::size_t dim, TokenType type, const std::vector<DocTokens>& docs,
                       std::span<double> totals, int threads, const std::string& isa, double seconds) {
    const auto q = view<float>(query, "query"), w = view<float>(weights, "weights");
    if (query.ndim() != 2 || static_cast<std::size_t>(query.shape(1)) != dim || static_cast<std::size_t>(query.shape(0)) != w.size())
        throw py::value_error("query: expected [weights, dim]");
    const Isa chosen = isa_of(isa);
    const Deadline deadline(seconds);
    py::gil_scoped_release release;
    return maxsim(q, w, dim, type, docs, totals, threads, chosen, deadline);
}

// (scores, first document with a product that is not finite or n); NaN for those that the deadline left
py::tuple scored(const py::array& query, const py::array& weights, std::size_t dim, TokenType type, const std::vector<DocTokens>& docs, int threads,
                 const std::string& isa, double seconds) {
    std::vector<double> totals(docs.size());
    std::size_t bad = add_maxima(query, weights, dim, type, docs, totals, threads, isa, seconds);
    std::vector<float> scores(totals.begin(), totals.end());
    for (std::size_t i = 0; i < bad; ++i)
        if (docs[i].n && std::isinf(scores[i])) bad = i;  // a total beyond float32
    return py::make_tuple(to_numpy(std::move(scores)), bad);
}

py::tuple py_maxsim(const py::array& query, const py::array& weights, const py::array& values, const py::array& scales, const py::array& starts,
                    const py::array& lengths, int threads, const std::string& isa, double seconds) {
    const Values v = values_of(values);
    return scored(query, weights, v.dim, v.type, documents_of(v, view<float>(scales, "scales"), starts, lengths), threads, isa, seconds);
}

// The same of a part of a query, on top of `before`, the float64 totals of the parts in front of it: (totals, bad).
py::tuple py_maxsim_more(const py::array& query, const py::array& weights, const py::array& values, const py::array& scales, const py::array& starts,
                         const py::array& lengths, const py::array& before, int threads, double seconds) {
    const Values v = values_of(values);
    const auto b = view<double>(before, "before");
    std::vector<double> totals(b.begin(), b.end());
    if (b.size() != static_cast<std::size_t>(starts.size())) throw py::value_error("before: expected a total for each document");
    const std::size_t bad =
        add_maxima(query, weights, v.dim, v.type, documents_of(v, view<float>(scales, "scales"), starts, lengths), totals, threads, "", seconds);
    return py::make_tuple(to_numpy(std::move(totals)), bad);
}

// One array a document, all of one type and dimension, none copied.
py::tuple py_maxsim_list(const py::array& query, const py::array& weights, const py::list& documents, int threads, const std::string& isa,
                         double seconds) {
    std::vector<DocTokens> docs;
    Values first{};
    for (std::size_t i = 0; i < documents.size(); ++i) {
        const Values v = values_of(py::cast<py::array>(documents[i]));
        if (i == 0) first = v;
        if (v.type != first.type || v.type == TokenType::i8 || v.dim != first.dim) throw py::value_error("documents: differ in dtype or dimension");
        docs.push_back({v.data, nullptr, v.total});
    }
    return scored(query, weights, first.dim, first.type, docs, threads, isa, seconds);
}

ResidualPath path_of(const std::string& name) {
    return named<ResidualPath>(name, {{"auto", ResidualPath::automatic}, {"auto8", ResidualPath::automatic8}, {"dot8", ResidualPath::dot8}, {"decode", ResidualPath::decode}, {"lookup16", ResidualPath::lookup16},
                                      {"lookup8", ResidualPath::lookup8}}, "path");
}

const char* name_of(ResidualPath path) {
    return path == ResidualPath::decode ? "decode" : path == ResidualPath::lookup16 ? "lookup16" : path == ResidualPath::lookup8 ? "lookup8" : "dot8";
}

ResidualStore store_of(const py::array& centroids, const py::array& weights, float radius, const py::array& ids, const py::array& codes,
                       const py::array& inverse_norms) {
    const auto c = view<float>(centroids, "centroids"), w = view<float>(weights, "bucket_weights"), n = view<float>(inverse_norms, "inverse_norms");
    if (centroids.ndim() != 2 || (w.size() != 2 && w.size() != 4 && w.size() != 16)) throw py::value_error("codec: expected [K, dim] and 2, 4 or 16 weights");
    const auto count = static_cast<std::size_t>(centroids.shape(0)), dim = static_cast<std::size_t>(centroids.shape(1));
    const std::size_t nbits = w.size() == 2 ? 1 : w.size() == 4 ? 2 : 4;
    const bool wide = py::isinstance<py::array_t<std::int32_t>>(ids);
    const void* id = wide ? static_cast<const void*>(view<std::int32_t>(ids, "centroid_ids").data()) : view<std::uint16_t>(ids, "centroid_ids").data();
    const auto r = view<std::uint8_t>(codes, "residuals");
    if (dim * nbits % 8 || static_cast<std::size_t>(ids.size()) != n.size() || r.size() != n.size() * (dim * nbits / 8))
        throw py::value_error("tokens: expected dim * nbits / 8 bytes, an id and a norm a token");
    return {c.data(), count, dim, nbits, w.data(), radius, id, wide, r.data(), n.data()};
}

std::vector<TokenRange> ranges_of(const py::array& starts, const py::array& lengths, py::ssize_t total) {
    const auto s = view<std::int64_t>(starts, "starts"), n = view<std::int64_t>(lengths, "lengths");
    if (s.size() != n.size()) throw py::value_error("starts and lengths differ in length");
    std::vector<TokenRange> out(s.size());
    for (std::size_t i = 0; i < s.size(); ++i) {
        if (s[i] < 0 || n[i] < 0 || s[i] > total || n[i] > total - s[i]) throw py::value_error("documents: outside the tokens");
        out[i] = {static_cast<std::size_t>(s[i]), static_cast<std::size_t>(n[i])};
    }
    return out;
}

// centroid_scores: none, or float32 [K, stride] of which the first columns are the query's.
// (scores, first document with a value that is not finite or n, slack, path, tokens, centroids multiplied)
py::tuple py_residual(const py::array& query, const py::array& weights, const py::array& centroids, const py::array& bucket_weights, float radius, const py::array& ids,
                      const py::array& codes, const py::array& inverse_norms, const py::array& starts, const py::array& lengths,
                      const py::object& centroid_scores, const std::string& path, int threads, const std::string& isa, double seconds,
                      std::size_t whole_tokens, std::size_t whole_products) {
    const auto q = view<float>(query, "query"), w = view<float>(weights, "weights");
    ResidualCall call{q, w, store_of(centroids, bucket_weights, radius, ids, codes, inverse_norms), {}, nullptr, 0, path_of(path), threads, isa_of(isa), Deadline(seconds),
                      whole_tokens, whole_products};
    if (query.ndim() != 2 || static_cast<std::size_t>(query.shape(0)) != w.size() || static_cast<std::size_t>(query.shape(1)) != call.store.dim)
        throw py::value_error("query: expected [weights, dim]");
    const std::vector<TokenRange> docs = ranges_of(starts, lengths, ids.size());
    call.docs = docs;
    if (!centroid_scores.is_none()) {
        const auto given = py::cast<py::array>(centroid_scores);
        call.centroid_scores = view<float>(given, "centroid_scores").data();
        if (given.ndim() != 2 || given.shape(0) != centroids.shape(0) || given.shape(1) % residual_lanes || given.shape(1) < query.shape(0))
            throw py::value_error("centroid_scores: expected [K, query tokens rounded up to 32]");
        call.stride = static_cast<std::size_t>(given.shape(1));
    }
    std::vector<float> scores(docs.size()), slack(docs.size());
    ResidualWork work{};
    std::size_t bad = 0;
    {
        py::gil_scoped_release release;
        bad = residual_maxsim(call, scores, slack, work);
    }
    return py::make_tuple(to_numpy(std::move(scores)), bad, to_numpy(std::move(slack)), name_of(work.path), work.tokens, work.centroids);
}

// float32 [K, query tokens rounded up to 32], zeros behind the last token.
py::array_t<float> py_centroid_scores(const py::array& query, const py::array& centroids, int threads, const std::string& isa) {
    const auto q = view<float>(query, "query"), c = view<float>(centroids, "centroids");
    if (query.ndim() != 2 || centroids.ndim() != 2 || query.shape(1) != centroids.shape(1)) throw py::value_error("centroid_scores: dimensions differ");
    const auto n = static_cast<std::size_t>(query.shape(0)), dim = static_cast<std::size_t>(query.shape(1));
    const std::size_t stride = (n + residual_lanes - 1) / residual_lanes * residual_lanes;
    py::array_t<float> out({centroids.shape(0), static_cast<py::ssize_t>(stride)});
    float* data = out.mutable_data();
    const Isa chosen = isa_of(isa);
    {
        py::gil_scoped_release release;
        rerank::centroid_scores(q, n, c, dim, stride, data, threads, chosen);
    }
    return out;
}

// table: float32 [K, stride], stride a multiple of 32. (scores, first document with a score that is not finite or n)
py::tuple py_centroid_maxsim(const py::array& table, const py::array& weights, const py::array& ids, const py::array& starts, const py::array& lengths, int threads,
                             double seconds) {
    const auto t = view<float>(table, "table"), w = view<float>(weights, "weights");
    if (table.ndim() != 2 || table.shape(1) % residual_lanes || w.size() > static_cast<std::size_t>(table.shape(1)))
        throw py::value_error("table: expected [K, query tokens rounded up to 32]");
    const bool wide = py::isinstance<py::array_t<std::int32_t>>(ids);
    const void* id = wide ? static_cast<const void*>(view<std::int32_t>(ids, "centroid_ids").data()) : view<std::uint16_t>(ids, "centroid_ids").data();
    const std::vector<TokenRange> docs = ranges_of(starts, lengths, ids.size());
    const CentroidCall call{t.data(), static_cast<std::size_t>(table.shape(1)), w, id, wide, static_cast<std::size_t>(table.shape(0)), docs, threads, Deadline(seconds)};
    std::vector<float> scores(docs.size());
    std::size_t bad = 0;
    {
        py::gil_scoped_release release;
        bad = centroid_maxsim(call, scores);
    }
    return py::make_tuple(to_numpy(std::move(scores)), bad);
}

}  // namespace

namespace rerank {

void bind_late(py::module_& m) {
    using namespace py::literals;
    m.def("inner_products", &py_inner_products, "queries"_a, "vectors"_a, "rows"_a, "threads"_a, "isa"_a = "", "seconds"_a = kNever);
    m.def("maxsim", &py_maxsim, "query"_a, "weights"_a, "values"_a, "scales"_a, "starts"_a, "lengths"_a, "threads"_a, "isa"_a = "", "seconds"_a = kNever);
    m.def("maxsim_more", &py_maxsim_more, "query"_a, "weights"_a, "values"_a, "scales"_a, "starts"_a, "lengths"_a, "before"_a, "threads"_a,
          "seconds"_a = kNever);
    m.def("maxsim_list", &py_maxsim_list, "query"_a, "weights"_a, "documents"_a, "threads"_a, "isa"_a = "", "seconds"_a = kNever);
    m.def("residual_maxsim", &py_residual, "query"_a, "weights"_a, "centroids"_a, "bucket_weights"_a, "radius"_a, "centroid_ids"_a, "residuals"_a, "inverse_norms"_a,
          "starts"_a, "lengths"_a, "centroid_scores"_a, "path"_a, "threads"_a, "isa"_a = "", "seconds"_a = kNever, "whole_tokens"_a = 0,
          "whole_products"_a = 0);
    m.def("centroid_maxsim", &py_centroid_maxsim, "table"_a, "weights"_a, "centroid_ids"_a, "starts"_a, "lengths"_a, "threads"_a, "seconds"_a = kNever);
    m.def("centroid_scores", &py_centroid_scores, "query"_a, "centroids"_a, "threads"_a, "isa"_a = "");
}

}  // namespace rerank

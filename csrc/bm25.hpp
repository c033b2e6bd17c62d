// BM25: postings of a packed corpus, and exact top-k over them. The formula stands in rerank_engine/ops/bm25.py.
#pragma once

#include <cstdint>
#include <span>

#include "topk.hpp"

namespace rerank {

// Compressed sparse rows by term: the postings of term t are [term_offsets[t], term_offsets[t + 1]), rows ascending.
struct Postings {
    std::vector<std::int64_t> term_offsets;
    std::vector<std::int32_t> rows, counts;
};

// tokens: term ids of all documents behind one another, each in [0, n_terms); document i is [offsets[i], offsets[i + 1]).
Postings build_postings(std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets, std::int64_t n_terms);

struct Bm25View {
    std::span<const std::int64_t> term_offsets;
    std::span<const std::int32_t> rows;
    std::span<const float> impacts;  // [n_postings]: the finished contribution of each posting
    std::int64_t n_rows;
};

// The k best documents of each query that hold at least one of its terms. Query q is terms [query_offsets[q], query_offsets[q + 1]),
// with one weight a term. The answer does not depend on the number of threads.
PackedHits bm25(const Bm25View& index, std::span<const std::int32_t> terms, std::span<const float> weights,
                std::span<const std::int64_t> query_offsets, std::size_t k, int threads);

}  // namespace rerank

// Maximal marginal relevance. The formula stands in rerank_engine/ops/mmr.py.
#pragma once

#include <span>

#include "cpu.hpp"
#include "deadline.hpp"
#include "topk.hpp"

namespace rerank {

struct MmrOptions {
    std::size_t k = 0;
    double lambda = 0.5;
    Deadline deadline{};  // no further pick after it
};

// relevance [n], vectors [n, d] row-major: picks min(k, n) rows, each the best of those left, ties to the lower row. O(n d k) at most.
// Throws std::overflow_error where a relevance, or a product that the choice depends on, is not finite.
std::vector<Hit> mmr(std::span<const float> relevance, std::span<const float> vectors, std::size_t d, const MmrOptions& options,
                     const Kernels& kernels);

// The same with the products of the query [d] and the n vectors as relevance.
std::vector<Hit> mmr_for_query(std::span<const float> query, std::span<const float> vectors, std::size_t n, const MmrOptions& options,
                               const Kernels& kernels);

}  // namespace rerank

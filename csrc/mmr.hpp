// Maximal marginal relevance. The formula stands in rerank_engine/ops/mmr.py.
#pragma once

#include <span>

#include "cpu.hpp"
#include "topk.hpp"

namespace rerank {

// relevance [n], vectors [n, d] row-major: picks min(k, n) rows, each the best of those left, ties to the lower row. O(n d k).
std::vector<Hit> mmr(std::span<const float> relevance, std::span<const float> vectors, std::size_t d, std::size_t k, double lambda,
                     const Kernels& kernels);

}  // namespace rerank

// Rank fusion of several result lists per query. The formulas stand in rerank_engine/ops/fuse.py.
#pragma once

#include <cstdint>
#include <span>

#include "topk.hpp"

namespace rerank {

enum class FuseMethod { rrf, sum };
enum class FuseNorm { none, min_max, z_score };

struct FuseOptions {
    FuseMethod method = FuseMethod::rrf;
    FuseNorm norm = FuseNorm::none;
    double k = 60;        // the constant of RRF
    std::size_t top = 0;  // hits kept per query, 0 = all
    int threads = 1;
};

// List l of query q is ids/scores [offsets[q * L + l], offsets[q * L + l + 1]), best first, with L = weights.size().
// An id that stands twice in one list counts once, at its better place. Sums are float64 in the order of the lists.
PackedHits fuse(std::span<const std::int64_t> ids, std::span<const float> scores, std::span<const std::int64_t> offsets,
                std::span<const double> weights, const FuseOptions& options);

}  // namespace rerank

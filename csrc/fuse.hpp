// Rank fusion of several result lists per query. The formulas stand in rerank_engine/ops/fuse.py.
#pragma once

#include <cstdint>
#include <span>

#include "topk.hpp"

namespace rerank {

enum class FuseMethod { rrf, sum, mnz };
enum class FuseNorm { none, min_max, z_score };

struct FuseOptions {
    FuseMethod method = FuseMethod::rrf;
    FuseNorm norm = FuseNorm::none;
    double k = 60;        // the constant of RRF
    std::size_t top = 0;  // hits kept per query, 0 = all
    int threads = 1;
    bool explain = false;
};

// With `explain`, for hit h and list l, at h * L + l: what the list adds to the score, and the hit's place in it from 0 (-1: not there).
struct FusedHits : PackedHits {
    std::vector<double> contributions;
    std::vector<std::int32_t> places;
};

// One result list, best first. The scores may be left out for RRF.
struct ListView {
    std::span<const std::int64_t> ids;
    std::span<const float> scores;
};

// List l of query q is lists[q * L + l] with L = weights.size(). An id that stands twice in one list counts once, at its better place.
// Sums are float64 in the order of the lists. Throws std::overflow_error for scores that are not finite, given or made.
FusedHits fuse(std::span<const ListView> lists, std::span<const double> weights, const FuseOptions& options);

}  // namespace rerank

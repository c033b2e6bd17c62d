// THE order of the engine: score descending, then id ascending. Every op that ranks uses `before` and nothing else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace rerank {

struct Hit {
    float score;
    std::int64_t id;
};

inline bool before(const Hit& a, const Hit& b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

// A sum that overflowed float32 has no place in an order, and a NaN would break `before`: every op that computes scores asks this first.
inline void require_finite(float score) {
    if (!std::isfinite(score)) throw std::overflow_error("a score is beyond float32");
}

// Keeps the first k of `hits` in order, O(n + k log k). Scores must not be NaN.
inline void keep_best(std::vector<Hit>& hits, std::size_t k) {
    if (k < hits.size()) {
        std::nth_element(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(k), hits.end(), before);
        hits.resize(k);
    }
    std::sort(hits.begin(), hits.end(), before);
}

// One result list per query, packed: list q is hits [offsets[q], offsets[q + 1]).
struct PackedHits {
    std::vector<std::int64_t> offsets, ids;
    std::vector<float> scores;
};
PackedHits pack(const std::vector<std::vector<Hit>>& lists);

// The k best of scores [n]; ids [n] or empty (then 0..n-1).
std::vector<Hit> topk(std::span<const float> scores, std::span<const std::int64_t> ids, std::size_t k);

}  // namespace rerank

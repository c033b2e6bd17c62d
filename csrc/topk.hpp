// THE order of the engine: score descending, then id ascending. Every op that ranks uses `before` and nothing else.
#pragma once

#include <algorithm>
#include <bit>
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
    if (!std::isfinite(score)) throw std::overflow_error("a score is not finite or beyond float32");
}

inline void require_finite(std::span<const float> scores) {
    std::uint32_t wrong = 0;
    for (const float score : scores) wrong |= (std::bit_cast<std::uint32_t>(score) & 0x7F800000u) == 0x7F800000u;  // no branch
    if (wrong) throw std::overflow_error("a score is not finite or beyond float32");
}

// Keeps the first k of `hits` in order, O(n + k log k). Scores must not be NaN.
inline void keep_best(std::vector<Hit>& hits, std::size_t k) {
    if (k < hits.size()) {
        std::nth_element(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(k), hits.end(), before);
        hits.resize(k);
    }
    std::sort(hits.begin(), hits.end(), before);
}

// The best k of a stream, O(n + k log k): a buffer of 2k hits, cut back to k whenever it is full. From the first cut on, only hits
// better than the k-th get in.
class Best {
public:
    explicit Best(std::size_t k, std::size_t at_most) : k_(std::min(k, at_most)), room_(std::max<std::size_t>(2 * k_, 64)) {
        hits_.reserve(std::min(room_, at_most));
    }

    void push(const Hit& hit) {
        if (cut_ && !before(hit, worst_)) return;
        hits_.push_back(hit);
        if (hits_.size() < room_ || k_ == 0) return;
        std::nth_element(hits_.begin(), hits_.begin() + static_cast<std::ptrdiff_t>(k_ - 1), hits_.end(), before);
        hits_.resize(k_);
        worst_ = hits_.back();
        cut_ = true;
    }

    std::vector<Hit> take() {
        keep_best(hits_, k_);
        return std::move(hits_);
    }

private:
    std::vector<Hit> hits_;
    std::size_t k_, room_;
    Hit worst_{};
    bool cut_ = false;
};

// One result list per query, packed: list q is hits [offsets[q], offsets[q + 1]).
struct PackedHits {
    std::vector<std::int64_t> offsets, ids;
    std::vector<float> scores;
};
PackedHits pack(const std::vector<std::vector<Hit>>& lists);

// The k best of scores [n]; ids [n] or empty (then 0..n-1).
std::vector<Hit> topk(std::span<const float> scores, std::span<const std::int64_t> ids, std::size_t k);

}  // namespace rerank

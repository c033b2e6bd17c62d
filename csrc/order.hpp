// Sorts many scored things by `before` (topk.hpp) nearly without comparing them: one pass throws them into buckets by the bits of their
// float32 score, one mends the order inside the buckets. 1,300 fused hits: a sixth of std::sort's time, which guesses wrong at every second
// comparison. A bucket that many share (equal scores, one score far off) is sorted by std::sort, so that it never takes n^2.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rerank {

// The bits of a score so that a lower number stands for a higher score. -0 becomes 0, with which it ties. Not for NaN.
inline std::uint32_t descending_bits(float score) {
    const auto bits = std::bit_cast<std::uint32_t>(score + 0.0f);
    return bits >> 31 ? bits : bits ^ 0x7FFFFFFFu;
}
inline float score_of_bits(std::uint32_t bits) { return std::bit_cast<float>(bits >> 31 ? bits : bits ^ 0x7FFFFFFFu); }

// Something to sort: the bits of its score, and where it is kept.
struct Ranked {
    std::uint32_t bits, index;
    float score() const { return score_of_bits(bits); }
};

// Its memory is used again from one sort to the next.
class BucketSort {
public:
    // By score, then by id_of(index).
    template <class IdOf>
    void operator()(std::vector<Ranked>& things, IdOf id_of) {
        const auto less = [&](const Ranked& a, const Ranked& b) {
            return a.bits < b.bits || (a.bits == b.bits && id_of(a.index) < id_of(b.index));
        };
        const std::size_t n = things.size();
        if (n > 32) scatter(things, less);
        for (std::size_t i = 1; i < n; ++i) {
            const Ranked moved = things[i];
            std::size_t j = i;
            for (; j > 0 && less(moved, things[j - 1]); --j) things[j] = things[j - 1];
            things[j] = moved;
        }
    }

private:
    template <class Less>
    void scatter(std::vector<Ranked>& things, Less less) {
        constexpr std::uint32_t crowded = 16;
        const std::size_t n = things.size();
        std::uint32_t low = things[0].bits, high = low;
        for (const Ranked& thing : things) {
            low = std::min(low, thing.bits);
            high = std::max(high, thing.bits);
        }
        const int shift = std::max(0, static_cast<int>(std::bit_width(high - low)) - static_cast<int>(std::bit_width(n)) - 2);  // 2 to 4 buckets a thing
        ends_.assign(((high - low) >> shift) + 1, 0);
        for (const Ranked& thing : things) ++ends_[(thing.bits - low) >> shift];
        std::uint32_t sum = 0, most = 0;
        for (std::uint32_t& end : ends_) {
            most = std::max(most, end);
            sum += end;
            end = sum;
        }
        spare_.resize(n);
        for (std::size_t i = n; i-- > 0;) spare_[--ends_[(things[i].bits - low) >> shift]] = things[i];  // now ends_ holds the beginnings
        things.swap(spare_);
        if (most <= crowded) return;
        for (std::size_t b = 0; b < ends_.size(); ++b) {
            const std::size_t begin = ends_[b], end = b + 1 < ends_.size() ? ends_[b + 1] : n;
            if (end - begin > crowded) std::sort(things.data() + begin, things.data() + end, less);
        }
    }

    std::vector<Ranked> spare_;
    std::vector<std::uint32_t> ends_;
};

}  // namespace rerank

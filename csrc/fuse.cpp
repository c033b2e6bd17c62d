#include "fuse.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "pool.hpp"

namespace rerank {
namespace {

// Open addressing from id to its running sum. A slot is free when its `query` is not the present one, so nothing is cleared
// between queries and every int64 is a valid id.
class Sums {
public:
    void start(std::size_t expected) {
        const std::size_t want = std::bit_ceil(std::max<std::size_t>(64, 2 * expected));
        if (slots_.size() < want) {
            slots_.assign(want, Slot{});
            query_ = 0;
        }
        shift_ = 64 - std::bit_width(slots_.size() - 1);
        used_.clear();
        ++query_;
    }

    void add(std::int64_t id, std::uint32_t list, double value) {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = (static_cast<std::uint64_t>(id) * 0x9E3779B97F4A7C15ull) >> shift_;
        while (slots_[i].query == query_ && slots_[i].id != id) i = (i + 1) & mask;
        Slot& slot = slots_[i];
        if (slot.query != query_) {
            slot = {id, value, query_, list};
            used_.push_back(i);
        } else if (slot.list != list) {  // the same id again in one list: its better place has been counted
            slot.sum += value;
            slot.list = list;
        }
    }

    void hits(std::vector<Hit>& out) const {
        out.clear();
        out.reserve(used_.size());
        for (const std::size_t i : used_) {
            const auto score = static_cast<float>(slots_[i].sum);
            require_finite(score);
            out.push_back({score, slots_[i].id});
        }
    }

private:
    struct Slot {
        std::int64_t id = 0;
        double sum = 0;
        std::uint64_t query = 0;
        std::uint32_t list = 0;
    };
    std::vector<Slot> slots_;
    std::vector<std::size_t> used_;
    std::uint64_t query_ = 0;
    int shift_ = 58;
};

// value = (score - shift) / scale. A list without spread gives 0 everywhere, as in ranx (which divides by 1e-9).
struct Affine {
    double shift = 0, scale = 1;
};

Affine normaliser(std::span<const float> scores, FuseNorm norm) {
    if (norm == FuseNorm::none || scores.empty()) return {};
    constexpr double tiny = 1e-9;
    if (norm == FuseNorm::min_max) {
        const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
        return {*low, std::max(static_cast<double>(*high) - *low, tiny)};
    }
    double mean = 0, variance = 0;
    for (const float s : scores) mean += s;
    mean /= static_cast<double>(scores.size());
    for (const float s : scores) variance += (s - mean) * (s - mean);
    return {mean, std::max(std::sqrt(variance / static_cast<double>(scores.size())), tiny)};
}

}  // namespace

PackedHits fuse(std::span<const std::int64_t> ids, std::span<const float> scores, std::span<const std::int64_t> offsets,
                std::span<const double> weights, const FuseOptions& options) {
    const std::size_t n_lists = weights.size();
    const std::size_t n_queries = (offsets.size() - 1) / n_lists;
    std::vector<std::vector<Hit>> fused(n_queries);
    parallel_for(n_queries, options.threads, [&] {
        return [&, sums = Sums()](std::size_t q) mutable {
            const auto at = [&](std::size_t l) { return static_cast<std::size_t>(offsets[q * n_lists + l]); };
            sums.start(at(n_lists) - at(0));
            for (std::size_t l = 0; l < n_lists; ++l) {
                const auto list = static_cast<std::uint32_t>(l);
                const std::size_t begin = at(l), n = at(l + 1) - begin;
                if (options.method == FuseMethod::rrf) {
                    for (std::size_t r = 0; r < n; ++r) sums.add(ids[begin + r], list, weights[l] / (options.k + static_cast<double>(r) + 1));
                } else {
                    const Affine a = normaliser(scores.subspan(begin, n), options.norm);
                    for (std::size_t r = 0; r < n; ++r) sums.add(ids[begin + r], list, weights[l] * ((scores[begin + r] - a.shift) / a.scale));
                }
            }
            sums.hits(fused[q]);
            keep_best(fused[q], options.top == 0 ? fused[q].size() : options.top);
        };
    });
    return pack(fused);
}

}  // namespace rerank

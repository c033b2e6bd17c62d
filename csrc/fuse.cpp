#include "fuse.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "order.hpp"
#include "pool.hpp"

namespace rerank {
namespace {

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

struct Input {
    std::span<const ListView> lists;
    std::span<const double> weights;
    FuseOptions options;

    std::span<const ListView> query(std::size_t q) const { return lists.subspan(q * weights.size(), weights.size()); }
    std::size_t most(std::size_t q) const {  // documents it can have
        std::size_t sum = 0;
        for (const ListView& list : query(q)) sum += list.ids.size();
        return sum;
    }
};

// Fuses one query after the other; its memory is used again.
class Fuser {
public:
    explicit Fuser(const Input& input) : in_(input), addends_(input.weights.size()) {}

    void fuse(std::size_t q, FusedHits& out) {
        start(in_.most(q));
        for (std::size_t l = 0; l < in_.weights.size(); ++l) {
            const ListView& list = in_.query(q)[l];
            fill(l, list);
            add(l, list.ids);
        }
        rank();
        append(out);
    }

private:
    // A document of the present query. It remembers the list that added to it last: the same id again in it has been counted at its
    // better place.
    struct Entry {
        std::int64_t id;
        double sum;
        std::uint32_t list, lists;
    };

    void start(std::size_t most) {
        if (most > std::numeric_limits<std::int32_t>::max()) throw std::length_error("fuse: a query with more than 2^31 results");
        const std::size_t size = std::bit_ceil(std::max<std::size_t>(64, 2 * most));
        slots_.assign(size, 0);
        shift_ = 64 - static_cast<int>(std::bit_width(size - 1));
        if (entries_.size() < most) entries_.resize(most);
        n_entries_ = 0;
        if (in_.options.explain) {
            contributions_.assign(most * in_.weights.size(), 0);
            places_.assign(most * in_.weights.size(), -1);
        }
    }

    // addends_[l][r]: what list l adds for the document at place r. Those of RRF depend on nothing else, and are kept for the next query.
    void fill(std::size_t l, const ListView& list) {
        auto& addends = addends_[l];
        const double weight = in_.weights[l];
        require_finite(list.scores);
        const std::size_t n = list.ids.size();
        if (in_.options.method == FuseMethod::rrf) {
            for (std::size_t r = addends.size(); r < n; ++r) addends.push_back(weight / (in_.options.k + static_cast<double>(r) + 1));
            return;
        }
        const Affine a = normaliser(list.scores, in_.options.norm);
        addends.resize(n);
        for (std::size_t r = 0; r < n; ++r) addends[r] = weight * ((list.scores[r] - a.shift) / a.scale);
    }

    // Open addressing from id to entry, by numbers of entries (0: free), so that the table of 1,000 documents fits the nearest cache.
    // Whether a document is new is as good as random in the second list, so that nothing branches on it.
    void add(std::size_t l, std::span<const std::int64_t> ids) {
        const std::size_t mask = slots_.size() - 1;
        const auto list = static_cast<std::uint32_t>(l);
        const double* addends = addends_[l].data();
        for (std::size_t r = 0; r < ids.size(); ++r) {
            const std::int64_t id = ids[r];
            std::size_t i = (static_cast<std::uint64_t>(id) * 0x9E3779B97F4A7C15ull) >> shift_;
            while (slots_[i] != 0 && entries_[slots_[i] - 1].id != id) i = (i + 1) & mask;
            const bool fresh = slots_[i] == 0;
            n_entries_ += fresh;
            const std::uint32_t e = fresh ? n_entries_ : slots_[i];
            slots_[i] = e;
            Entry& entry = entries_[e - 1];
            const bool counts = fresh || entry.list != list;
            entry = {id, (fresh ? 0.0 : entry.sum) + (counts ? addends[r] : 0.0), list, (fresh ? 0 : entry.lists) + counts};
            if (in_.options.explain && counts) {
                const std::size_t cell = (e - 1) * in_.weights.size() + l;
                contributions_[cell] = addends[r];
                places_[cell] = static_cast<std::int32_t>(r);
            }
        }
    }

    void rank() {
        ranked_.resize(n_entries_);
        const bool mnz = in_.options.method == FuseMethod::mnz;
        for (std::uint32_t e = 0; e < n_entries_; ++e) {
            const auto score = static_cast<float>(mnz ? entries_[e].sum * entries_[e].lists : entries_[e].sum);
            require_finite(score);
            ranked_[e] = {descending_bits(score), e};
        }
        sort_(ranked_, [&](std::uint32_t e) { return entries_[e].id; });
        if (in_.options.top != 0 && in_.options.top < ranked_.size()) ranked_.resize(in_.options.top);
    }

    void append(FusedHits& out) {
        for (const Ranked& hit : ranked_) {
            const Entry& entry = entries_[hit.index];
            out.ids.push_back(entry.id);
            out.scores.push_back(hit.score());
            if (!in_.options.explain) continue;
            const std::size_t n_lists = in_.weights.size(), first = hit.index * n_lists;
            for (std::size_t cell = first; cell < first + n_lists; ++cell) {
                out.contributions.push_back(in_.options.method == FuseMethod::mnz ? contributions_[cell] * entry.lists : contributions_[cell]);
                out.places.push_back(places_[cell]);
            }
        }
        out.offsets.push_back(static_cast<std::int64_t>(out.ids.size()));
    }

    const Input& in_;
    std::vector<std::vector<double>> addends_;
    std::vector<std::uint32_t> slots_;
    std::vector<Entry> entries_;  // the first n_entries_ are the present query's
    std::uint32_t n_entries_ = 0;
    std::vector<double> contributions_;
    std::vector<std::int32_t> places_;
    std::vector<Ranked> ranked_;
    BucketSort sort_;
    int shift_ = 58;
};

template <class T>
void append_to(std::vector<T>& out, const std::vector<T>& more) {
    out.insert(out.end(), more.begin(), more.end());
}

FusedHits joined(std::vector<FusedHits>&& parts) {
    if (parts.size() == 1) return std::move(parts[0]);
    FusedHits out;
    out.offsets.push_back(0);
    for (const FusedHits& part : parts) {
        const auto before_it = static_cast<std::int64_t>(out.ids.size());
        for (std::size_t i = 1; i < part.offsets.size(); ++i) out.offsets.push_back(before_it + part.offsets[i]);
        append_to(out.ids, part.ids);
        append_to(out.scores, part.scores);
        append_to(out.contributions, part.contributions);
        append_to(out.places, part.places);
    }
    return out;
}

}  // namespace

FusedHits fuse(std::span<const ListView> lists, std::span<const double> weights, const FuseOptions& options) {
    const Input input{lists, weights, options};
    const std::size_t n_queries = lists.size() / weights.size();
    // A part is a run of neighbouring queries that writes its own result: one thread copies nothing.
    const std::size_t n_parts = options.threads < 2 ? 1 : std::clamp<std::size_t>(n_queries, 1, 4 * static_cast<std::size_t>(options.threads));
    std::vector<FusedHits> parts(n_parts);
    parallel_for(n_parts, options.threads, [&] {
        return [&, fuser = Fuser(input)](std::size_t p) mutable {
            const std::size_t first = n_queries * p / n_parts, last = n_queries * (p + 1) / n_parts;
            FusedHits& part = parts[p];
            part.offsets.push_back(0);
            std::size_t room = 0;
            for (std::size_t q = first; q < last; ++q) room += options.top == 0 ? input.most(q) : std::min(input.most(q), options.top);
            part.ids.reserve(room);
            part.scores.reserve(room);
            if (options.explain) {
                part.contributions.reserve(room * weights.size());
                part.places.reserve(room * weights.size());
            }
            for (std::size_t q = first; q < last; ++q) fuser.fuse(q, part);
        };
    });
    return joined(std::move(parts));
}

}  // namespace rerank

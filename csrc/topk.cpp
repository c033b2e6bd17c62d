#include "topk.hpp"

namespace rerank {

PackedHits pack(const std::vector<std::vector<Hit>>& lists) {
    PackedHits out;
    out.offsets.reserve(lists.size() + 1);
    out.offsets.push_back(0);
    std::size_t total = 0;
    for (const auto& list : lists) out.offsets.push_back(static_cast<std::int64_t>(total += list.size()));
    out.ids.reserve(total);
    out.scores.reserve(total);
    for (const auto& list : lists)
        for (const Hit& hit : list) {
            out.ids.push_back(hit.id);
            out.scores.push_back(hit.score);
        }
    return out;
}

std::vector<Hit> topk(std::span<const float> scores, std::span<const std::int64_t> ids, std::size_t k) {
    const auto id = [&](std::size_t i) { return ids.empty() ? static_cast<std::int64_t>(i) : ids[i]; };
    std::vector<Hit> hits;
    if (k == 0) return hits;
    // A buffer of up to 2k hits, cut back to k each time it is full: after that only better ones than the k-th get in.
    const std::size_t room = std::min(2 * k, scores.size());
    hits.reserve(room);
    bool cut = false;
    Hit worst{};
    for (std::size_t i = 0; i < scores.size(); ++i) {
        const Hit hit{scores[i], id(i)};
        if (cut && !before(hit, worst)) continue;
        hits.push_back(hit);
        if (hits.size() == room && hits.size() > k) {
            std::nth_element(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(k - 1), hits.end(), before);
            worst = hits[k - 1];
            hits.resize(k);
            cut = true;
        }
    }
    keep_best(hits, k);
    return hits;
}

}  // namespace rerank

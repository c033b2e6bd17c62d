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
    Best best(k, scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) best.push({scores[i], ids.empty() ? static_cast<std::int64_t>(i) : ids[i]});
    return best.take();
}

}  // namespace rerank

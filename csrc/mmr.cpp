#include "mmr.hpp"

#include <limits>

namespace rerank {

std::vector<Hit> mmr(std::span<const float> relevance, std::span<const float> vectors, std::size_t d, std::size_t k, double lambda,
                     const Kernels& kernels) {
    const std::size_t n = relevance.size(), want = std::min(k, n);
    const bool diverse = lambda < 1;  // else the products have no weight, and need not even be finite
    constexpr float none = -std::numeric_limits<float>::infinity();
    std::vector<float> nearest(n, none), similarity(n);  // nearest[i]: similarity of i to the closest row picked so far
    std::vector<bool> picked(n, false);
    std::vector<Hit> out;
    out.reserve(want);
    while (out.size() < want) {
        if (diverse && !out.empty()) {
            kernels.dots(vectors.data() + static_cast<std::size_t>(out.back().id) * d, vectors.data(), n, d, similarity.data());
            for (std::size_t i = 0; i < n; ++i) {
                if (picked[i]) continue;
                require_finite(similarity[i]);
                nearest[i] = std::max(nearest[i], similarity[i]);
            }
        }
        std::size_t best = n;
        double best_value = 0;
        for (std::size_t i = 0; i < n; ++i) {
            if (picked[i]) continue;
            const double redundancy = !diverse || out.empty() ? 0.0 : static_cast<double>(nearest[i]);
            const double value = lambda * static_cast<double>(relevance[i]) - (1 - lambda) * redundancy;
            if (best == n || value > best_value) {
                best = i;
                best_value = value;
            }
        }
        picked[best] = true;
        out.push_back({static_cast<float>(best_value), static_cast<std::int64_t>(best)});
    }
    return out;
}

}  // namespace rerank

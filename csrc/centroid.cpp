#include "centroid.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa_baseline.hpp"
#include "pool.hpp"

namespace rerank {

namespace {

using Vec = Baseline::Vec;
constexpr std::size_t vectors = residual_lanes / Baseline::width;  // of the columns whose maxima stay in registers

template <class Id>
float score_of(const CentroidCall& call, const Id* ids, std::size_t n) {
    double total = 0;
    for (std::size_t at = 0; at < call.weights.size(); at += residual_lanes) {
        Vec best[vectors];
        for (Vec& v : best) v = Vec{} - std::numeric_limits<float>::infinity();
        for (std::size_t j = 0; j < n; ++j) {
            const auto* row = reinterpret_cast<const Baseline::Loose*>(call.table + static_cast<std::size_t>(ids[j]) * call.stride + at);
            for (std::size_t i = 0; i < vectors; ++i) best[i] = Baseline::max(best[i], row[i]);
        }
        const std::size_t columns = std::min(residual_lanes, call.weights.size() - at);
        for (std::size_t i = 0; i < columns; ++i) total += static_cast<double>(call.weights[at + i]) * static_cast<double>(best[i / Baseline::width][i % Baseline::width]);
    }
    return static_cast<float>(total);
}

template <class Id>
std::size_t score_all(const CentroidCall& call, const Id* ids, std::span<float> scores) {
    std::vector<std::size_t> ends(call.docs.size() + 1);
    for (std::size_t i = 0; i < call.docs.size(); ++i) ends[i + 1] = ends[i] + call.docs[i].n * call.weights.size() + 1;
    std::atomic<std::size_t> bad{call.docs.size()};
    parallel_ranges(ends, call.threads, 1 << 17, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            if (call.deadline.passed(i - begin, documents_between_looks)) {
                std::fill(scores.begin() + static_cast<std::ptrdiff_t>(i), scores.begin() + static_cast<std::ptrdiff_t>(end), std::numeric_limits<float>::quiet_NaN());
                return;
            }
            const TokenRange doc = call.docs[i];
            for (std::size_t j = doc.first; j < doc.first + doc.n; ++j)
                if (static_cast<std::size_t>(ids[j]) >= call.n_centroids)  // a negative id is large then
                    throw std::out_of_range("a centroid id is not below the number of centroids, " + std::to_string(call.n_centroids));
            scores[i] = doc.n ? score_of(call, ids + doc.first, doc.n) : -std::numeric_limits<float>::infinity();
            if (doc.n && !std::isfinite(scores[i])) lower(bad, i);
        }
    });
    return bad;
}

}  // namespace

std::size_t centroid_maxsim(const CentroidCall& call, std::span<float> scores) {
    if (call.wide_ids) return score_all(call, static_cast<const std::int32_t*>(call.centroid_ids), scores);
    return score_all(call, static_cast<const std::uint16_t*>(call.centroid_ids), scores);
}

}  // namespace rerank

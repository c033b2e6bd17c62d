// What the files of the native check share: counting checks, comparing rankings, random numbers.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "topk.hpp"

namespace rerank {

inline constexpr std::int64_t lowest_id = std::numeric_limits<std::int64_t>::min(), highest_id = std::numeric_limits<std::int64_t>::max();
inline int passed = 0, failed = 0;

inline void expect(bool ok, const std::string& what) {
    ++(ok ? passed : failed);
    if (!ok) std::printf("FAILED %s\n", what.c_str());
}

template <class Error, class Call>
void expect_throw(Call call, const std::string& what) {
    try {
        call();
    } catch (const Error&) {
        return expect(true, what);
    }
    expect(false, what + ": did not throw");
}

inline void report(const char* group) { std::printf("%-32s %d passed, %d failed so far\n", group, passed, failed); }

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline bool same_bits(const PackedHits& a, const PackedHits& b) {
    return same_bits(a.offsets, b.offsets) && same_bits(a.ids, b.ids) && same_bits(a.scores, b.scores);
}

inline bool near(double got, double want, double relative, double scale) {
    return std::abs(got - want) <= relative * std::max(std::abs(want), scale) + 1e-30;
}

// Hits against the values that brute force found: right values, in the order of `before`, and nothing better left out.
inline bool matches(std::vector<Hit> got, const std::map<std::int64_t, double>& want, std::size_t k, double relative, double scale) {
    if (got.size() != std::min(k, want.size()) || !std::is_sorted(got.begin(), got.end(), before)) return false;
    std::set<std::int64_t> seen;
    for (const Hit& hit : got) {
        const auto found = want.find(hit.id);
        if (found == want.end() || !seen.insert(hit.id).second || !near(hit.score, found->second, relative, scale)) return false;
    }
    const auto left_out = [&](const auto& entry) {
        const double last = got.back().score;
        return !seen.count(entry.first) && entry.second > last && !near(entry.second, last, 2 * relative, scale);
    };
    return got.empty() || std::none_of(want.begin(), want.end(), left_out);
}

inline std::size_t at(const std::vector<std::int64_t>& offsets, std::size_t i) { return static_cast<std::size_t>(offsets[i]); }

inline std::vector<Hit> list(const PackedHits& hits, std::size_t q) {
    std::vector<Hit> out;
    for (std::size_t i = at(hits.offsets, q); i < at(hits.offsets, q + 1); ++i) out.push_back({hits.scores[i], hits.ids[i]});
    return out;
}

struct Random {
    std::mt19937_64 engine{12345};
    std::size_t below(std::size_t n) { return engine() % n; }
    float normal() { return std::normal_distribution<float>()(engine); }
    std::vector<float> normals(std::size_t n, bool ties = false) {
        std::vector<float> out(n);
        for (float& x : out) x = ties ? std::round(normal()) : normal();
        return out;
    }
};

void check_lexical(Random& random);  // lexical.cpp: postings, bm25, merging, forward lists, strings
void check_damaged(Random& random);  // damaged.cpp: the same on bytes that are not what a writer wrote
void check_late(Random& random);     // late.cpp: maxsim, residual codes
void check_trees(Random& random);    // trees.cpp: ensembles of trees

}  // namespace rerank

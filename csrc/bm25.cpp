#include "bm25.hpp"

#include "pool.hpp"

namespace rerank {

Postings build_postings(std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets, std::int64_t n_terms) {
    const std::size_t n_docs = offsets.size() - 1;
    Postings out;
    out.term_offsets.assign(static_cast<std::size_t>(n_terms) + 1, 0);
    std::vector<std::int32_t> doc;
    const auto each_count = [&](auto&& take) {  // take(row, term, count) for every distinct term of every document
        for (std::size_t r = 0; r < n_docs; ++r) {
            doc.assign(tokens.begin() + offsets[r], tokens.begin() + offsets[r + 1]);
            std::sort(doc.begin(), doc.end());
            for (std::size_t i = 0, j; i < doc.size(); i = j) {
                for (j = i + 1; j < doc.size() && doc[j] == doc[i];) ++j;
                take(static_cast<std::int32_t>(r), static_cast<std::size_t>(doc[i]), static_cast<std::int32_t>(j - i));
            }
        }
    };
    each_count([&](std::int32_t, std::size_t term, std::int32_t) { ++out.term_offsets[term + 1]; });
    for (std::size_t t = 1; t < out.term_offsets.size(); ++t) out.term_offsets[t] += out.term_offsets[t - 1];
    out.rows.resize(static_cast<std::size_t>(out.term_offsets.back()));
    out.counts.resize(out.rows.size());
    std::vector<std::int64_t> next(out.term_offsets.begin(), out.term_offsets.end() - 1);
    each_count([&](std::int32_t row, std::size_t term, std::int32_t count) {
        const auto at = static_cast<std::size_t>(next[term]++);
        out.rows[at] = row;
        out.counts[at] = count;
    });
    return out;
}

PackedHits bm25(const Bm25View& index, std::span<const std::int32_t> terms, std::span<const float> weights,
                std::span<const std::int64_t> query_offsets, std::size_t k, int threads) {
    const std::size_t n_queries = query_offsets.size() - 1;
    std::vector<std::vector<Hit>> found(n_queries);
    parallel_for(n_queries, threads, [&] {
        const auto n = static_cast<std::size_t>(index.n_rows);
        return [&, n, sums = std::vector<float>(n, 0.0f), seen = std::vector<std::uint8_t>(n, 0),
                touched = std::vector<std::int32_t>(n + 1)](std::size_t q) mutable {
            std::size_t n_touched = 0;
            for (auto i = static_cast<std::size_t>(query_offsets[q]); i < static_cast<std::size_t>(query_offsets[q + 1]); ++i) {
                const auto term = static_cast<std::size_t>(terms[i]);
                const auto begin = static_cast<std::size_t>(index.term_offsets[term]);
                const auto end = static_cast<std::size_t>(index.term_offsets[term + 1]);
                if (begin > end || end > index.rows.size()) throw std::invalid_argument("bm25: term_offsets leave the postings");
                for (std::size_t p = begin; p < end; ++p) {
                    const std::int32_t row = index.rows[p];
                    if (row < 0 || static_cast<std::size_t>(row) >= n) throw std::invalid_argument("bm25: a posting's row is not in the corpus");
                    touched[n_touched] = row;  // kept only if it is new: no branch to mispredict
                    n_touched += static_cast<std::size_t>(!seen[static_cast<std::size_t>(row)]);
                    seen[static_cast<std::size_t>(row)] = 1;
                    sums[static_cast<std::size_t>(row)] += weights[i] * index.impacts[p];
                }
            }
            Best best(k, n_touched);
            for (std::size_t i = 0; i < n_touched; ++i) {
                const auto r = static_cast<std::size_t>(touched[i]);
                require_finite(sums[r]);
                best.push({sums[r], touched[i]});
                sums[r] = 0;
                seen[r] = 0;
            }
            found[q] = best.take();
        };
    });
    return pack(found);
}

}  // namespace rerank

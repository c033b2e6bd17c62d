#include "maxsim.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "dot8.hpp"
#include "pool.hpp"

namespace rerank {

namespace {
constexpr std::size_t line = 16;  // floats of a cache line: each block starts on one
}

BlockedQuery::BlockedQuery(std::span<const float> query, std::span<const float> token_weights, std::size_t dim_, const MaxSimKernel& kernel)
    : dim(dim_), weights(token_weights) {
    const std::size_t n = weights.size(), most = kernel.width * kernel.vectors;
    std::size_t room = 0;
    for (std::size_t first = 0; first < n; first += most) {
        const std::size_t tokens = std::min(most, n - first), vectors = (tokens + kernel.width - 1) / kernel.width;
        blocks.push_back({first, tokens, vectors, nullptr});
        room += (vectors * kernel.width * dim + line - 1) / line * line;
    }
    storage_.resize(room + line);
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    float* at = storage_.data() + (-(address / sizeof(float)) % line);
    for (Block& block : blocks) {
        const std::size_t lanes = block.vectors * kernel.width;
        block.values = at;
        for (std::size_t t = 0; t < block.tokens; ++t)
            for (std::size_t k = 0; k < dim; ++k) at[k * lanes + t] = query[(block.first + t) * dim + k];
        at += (lanes * dim + line - 1) / line * line;
    }
}

namespace {

// add(i, the document after it) -> false when a product of document i is not finite. The first such document.
template <class MakeAdd>
std::size_t each(std::span<const DocTokens> docs, std::span<double> totals, int threads, Deadline deadline, MakeAdd make_add) {
    std::vector<std::size_t> ends(docs.size() + 1, 0);
    for (std::size_t i = 0; i < docs.size(); ++i) ends[i + 1] = ends[i] + docs[i].n;
    std::atomic<std::size_t> bad{docs.size()};
    parallel_ranges(ends, threads, tokens_per_thread, [&](std::size_t begin, std::size_t end) {
        auto add = make_add();
        for (std::size_t i = begin; i < end; ++i) {
            if (deadline.passed(i - begin, documents_between_looks)) {
                std::fill(totals.begin() + static_cast<std::ptrdiff_t>(i), totals.begin() + static_cast<std::ptrdiff_t>(end), std::numeric_limits<double>::quiet_NaN());
                return;
            }
            if (docs[i].n == 0) {
                totals[i] = -std::numeric_limits<double>::infinity();
                continue;
            }
            if (!add(i, docs[i + 1 < end ? i + 1 : i]) || !std::isfinite(totals[i])) lower(bad, i);
        }
    });
    return bad.load();
}

// int8 by products of bytes, the query in 15 bits.
std::size_t of_bytes(std::span<const float> query, std::span<const float> weights, std::size_t dim, std::span<const DocTokens> docs,
                     std::span<double> totals, int threads, Deadline deadline, const Dot8Kernel& kernel) {
    std::vector<std::size_t> order(dim);
    std::iota(order.begin(), order.end(), std::size_t{0});
    const ByteQuery bytes(query, weights.size(), dim, 2, 0, 1, order, 0);
    const std::size_t width = byte_width(dim);
    return each(docs, totals, threads, deadline, [&] {
        return [&, scratch = std::vector<std::uint8_t>()](std::size_t i, const DocTokens&) mutable {
            const DocTokens& doc = docs[i];
            if (scratch.size() < doc.n * width) scratch.resize(doc.n * width);
            kernel.shift(static_cast<const std::int8_t*>(doc.values), doc.n, dim, width, scratch.data());
            bool finite = true;
            for (const ByteBlock& block : bytes.blocks) {
                float maxima[byte_lanes];
                finite &= kernel.scan(block, {scratch.data(), nullptr, doc.scales}, doc.n, maxima);
                for (std::size_t t = 0; t < block.tokens; ++t) totals[i] += static_cast<double>(weights[block.first + t]) * maxima[t];
            }
            return finite;
        };
    });
}

}  // namespace

std::size_t maxsim(std::span<const float> query, std::span<const float> weights, std::size_t dim, TokenType type,
                   std::span<const DocTokens> docs, std::span<double> totals, int threads, Isa isa, Deadline deadline) {
    const Kernels table = kernels(isa);
    if (type == TokenType::i8 && table.dot8.scan && dim <= most_byte_dim) return of_bytes(query, weights, dim, docs, totals, threads, deadline, table.dot8);
    const BlockedQuery blocked(query, weights, dim, table.maxsim);
    return each(docs, totals, threads, deadline, [&] {
        return [&, scratch = std::vector<float>(table.maxsim.scratch_rows * dim + line)](std::size_t i, const DocTokens& following) mutable {
            return table.maxsim.score(blocked, type, docs[i], following.values, scratch.data(), &totals[i]);
        };
    });
}

}  // namespace rerank

// Late interaction: score(q, d) = sum over query tokens of weight * max over the document's tokens of <query token, document token>.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu.hpp"
#include "deadline.hpp"

namespace rerank {

constexpr std::size_t tokens_per_thread = 2500;  // of documents: fewer are done before a thread is awake

// n tokens of `dim` values behind one another; scales, one a token, for int8 only.
struct DocTokens {
    const void* values;
    const float* scales;
    std::size_t n;
};

// Adds to totals, one a document, the weighted maxima of a query, float32 [q, dim], token by token: what several calls add for parts of a query is
// bit for bit what one adds for all of it. A document without tokens becomes -inf. `weights`: one for each query token.
// Returns the first document with a product that is not finite, or docs.size(): that total means nothing then.
// The totals depend neither on the number of threads nor on the other documents. Those of documents that the deadline left are NaN.
std::size_t maxsim(std::span<const float> query, std::span<const float> weights, std::size_t dim, TokenType type,
                   std::span<const DocTokens> docs, std::span<double> totals, int threads, Isa isa, Deadline deadline = {});

// The query as the kernels read it: blocks of up to `vectors * width` tokens, each [dim][tokens of the block], zeros after the last token.
struct BlockedQuery {
    struct Block {
        std::size_t first, tokens;
        std::size_t vectors;  // of the kernel's width
        const float* values;
    };
    std::vector<Block> blocks;
    std::size_t dim;
    std::span<const float> weights;

    BlockedQuery(std::span<const float> query, std::span<const float> token_weights, std::size_t dim, const MaxSimKernel& kernel);

private:
    std::vector<float> storage_;
};

}  // namespace rerank

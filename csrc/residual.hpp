// MaxSim over ColBERTv2's residual codes: a token is (centroid + bucket weights of its codes) * inverse norm. Scored without decoding:
//
//   <q, token> = (<q, centroid> + sum over code bytes p of table[p][byte p]) * inverse norm
//
// with <q, centroid> for all query tokens q from one product per query, and a table of what each value of each byte adds for 32 query tokens
// at a time, in int16 or uint8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "maxsim.hpp"

namespace rerank {

// Tokens 0..n: centroid_ids uint16 or int32, codes in ColBERT's byte order (dim * nbits / 8 bytes a token).
struct ResidualStore {
    const float* centroids;
    std::size_t n_centroids, dim, nbits;
    const float* bucket_weights;  // [2^nbits]
    float radius;                 // no centroid is longer
    const void* centroid_ids;
    bool wide_ids;  // int32, else uint16
    const std::uint8_t* codes;
    const float* inverse_norms;
};

static inline std::size_t centroid_of(const ResidualStore& store, std::size_t token) {
    return store.wide_ids ? static_cast<std::size_t>(static_cast<const std::int32_t*>(store.centroid_ids)[token])
                          : static_cast<const std::uint16_t*>(store.centroid_ids)[token];
}

struct TokenRange {
    std::size_t first, n;
};

// decode: to float32, then the product. lookup16, lookup8: tables of int16 and uint8. dot8: 4-bit codes as bytes, by products of bytes.
// automatic: the cheapest that is as close as lookup16; automatic8: the cheapest.
enum class ResidualPath { automatic, automatic8, decode, lookup16, lookup8, dot8 };
// centroids: how many were multiplied with the query.
struct ResidualWork {
    ResidualPath path;
    std::size_t tokens, centroids;
};

constexpr std::size_t residual_lanes = 32;  // query tokens of a block: what one line of an int16 table holds

// centroid_scores: null, or [n_centroids][stride], the products of the centroids with the query, stride a multiple of residual_lanes.
// Scores as those of `maxsim`, and what it returns, also for a score beyond float32; slack: float32 [docs], how far a score may be from that of
// decoded tokens. Throws std::out_of_range for a centroid id that is not below n_centroids.
struct ResidualCall {
    std::span<const float> query, weights;  // [q, dim], [q]
    ResidualStore store;
    std::span<const TokenRange> docs;
    const float* centroid_scores;
    std::size_t stride;
    ResidualPath path;
    int threads;
    Isa isa;
    Deadline deadline{};  // scores of documents that it left are NaN
    // Of the whole work that this call is a part of, by which the path is chosen then, so that the parts' scores are those of one call: tokens
    // (0: this is all of it), and products with centroids.
    std::size_t whole_tokens = 0, whole_products = 0;
};
std::size_t residual_maxsim(const ResidualCall& call, std::span<float> scores, std::span<float> slack, ResidualWork& work);

// out[c * stride + t] = <centroid c, query token t>, zeros up to stride.
void centroid_scores(std::span<const float> query, std::size_t n_tokens, std::span<const float> centroids, std::size_t dim, std::size_t stride,
                     float* out, int threads, Isa isa);

// What the kernels share for one block of 32 query tokens.
struct ResidualBlock {
    std::size_t first, tokens;
    const float* query;  // [dim][32], zeros after the last token
    const void* table;   // [bytes of a token][256][32] of int16 or uint8
    float step[residual_lanes], offset[residual_lanes], error[residual_lanes];  // product = offset + step * sum, off by at most error
};

}  // namespace rerank

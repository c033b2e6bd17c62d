// Products of a float32 query with tokens of bytes, by the instructions that multiply unsigned bytes with signed ones and add four at a time.
//
// The query is rounded to integers of 8 bits, or of 15 bits in two planes, value = step * (128 * high + low), per query token. Integer sums are
// exact, so the only error is the rounding of the query: at most step / 2 a dimension.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu.hpp"

namespace rerank {

constexpr std::size_t byte_lanes = 32;  // query tokens of a block
constexpr std::size_t most_byte_dim = 1 << 16;  // 127 * 255 a dimension add up within an int32

// product of a query token with a token of bytes = offset + step * (start + sum over positions of query integer * byte); start takes 128
// off every byte
struct ByteBlock {
    std::size_t first, tokens, planes, width;
    const std::int8_t* values;  // [planes][width / 4][32][4], zeros where there is no token or position
    std::int32_t start[2][byte_lanes];
    float step[byte_lanes], offset[byte_lanes], error[byte_lanes];
};

// value(token) = (base + product) * factor. bases: null, or for each token the 32 sums that its product is added to.
struct ByteTokens {
    const std::uint8_t* values;  // [n][width]
    const float* const* bases;
    const float* factors;
};

// The query in blocks, for bytes that stand for `middle + unit * (byte - 128)`, each off by at most byte_error. order[position] = the dimension
// that lies there. `error` of a lane bounds how far a product may be off.
class ByteQuery {
public:
    ByteQuery(std::span<const float> query, std::size_t n_tokens, std::size_t dim, std::size_t planes, double middle, double unit,
              const std::vector<std::size_t>& order, double byte_error);
    std::vector<ByteBlock> blocks;

private:
    std::vector<std::int8_t> values_;
};

// Positions of a token: a multiple of 64 from the dimension up.
inline std::size_t byte_width(std::size_t dim) { return (dim + 63) / 64 * 64; }

}  // namespace rerank

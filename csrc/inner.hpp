// Inner products of queries with the rows of a matrix of vectors, all of them or a list.
//
//   out[i][j] = sum over k of query_i[k] * row_j[k], float32
//
// Every product is summed in the same order, by lanes of the instruction set's vectors and then by halves, whatever the batch, the place of
// the row, the list and the number of threads: equal rows tie, and a query has the same scores alone and among others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpu.hpp"
#include "deadline.hpp"

namespace rerank {

struct InnerCall {
    std::span<const float> queries;  // [n_queries][dim]
    std::size_t n_queries, dim;
    TokenType type;             // of the vectors: f32, or f16, which is widened
    const void* vectors;        // [any][dim]
    const std::int64_t* rows;   // [n_rows], each a row of vectors; or null: the first n_rows
    std::size_t n_rows;
    int threads;
    Deadline deadline{};
};

// out: float [n_queries][n_rows]. How many of the first rows were multiplied before the deadline: the others' products are undefined.
std::size_t inner_products(const InnerCall& call, float* out, Isa isa);

}  // namespace rerank

// The kernel of inner products: one template, compiled once per instruction set by inner_<isa>.cpp.
//
// A tile holds the sums of R rows x Q queries in registers; each vector of either is loaded once for it. Rows come from far, so they are the
// outer loop: a tile's rows stay in the first cache while all queries pass, and the first of these fetches the next tile's. Everything is
// `static`, as in maxsim_kernel.hpp.
#pragma once

#include <cstring>

#include "inner.hpp"

namespace rerank {

// The sum of N lanes: the upper half on the lower one, until one is left.
template <std::size_t N>
static inline float sum_of(const float* lanes) {
    typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
    Quad part[N / 4];
    for (std::size_t i = 0; i < N / 4; ++i) part[i] = reinterpret_cast<const Quad*>(lanes)[i];
    for (std::size_t half = N / 8; half > 0; half /= 2)
        for (std::size_t i = 0; i < half; ++i) part[i] += part[i + half];
    return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}

// n values, zeros behind them.
template <class I>
static inline typename I::Vec padded(const float* values, std::size_t n) {
    float lanes[I::width] = {};
    std::memcpy(lanes, values, n * sizeof(float));
    return *reinterpret_cast<const typename I::Loose*>(lanes);
}

// next: with Ahead, R rows to fetch meanwhile, of `size` bytes a value.
template <class I, int R, int Q, bool Ahead>
static inline void inner_tile(const float* const* rows, const float* queries, std::size_t dim, const char* const* next, std::size_t size, float* out,
                              std::size_t stride) {
    using Vec = typename I::Vec;
    using Loose = typename I::Loose;
    Vec sum[Q][R] = {};
    std::size_t k = 0;
    for (; k + I::width <= dim; k += I::width) {
        if constexpr (Ahead)
            for (int r = 0; r < R; ++r) __builtin_prefetch(next[r] + k * size);
        Vec x[R];
        for (int r = 0; r < R; ++r) x[r] = *reinterpret_cast<const Loose*>(rows[r] + k);
        for (int q = 0; q < Q; ++q) {
            const Vec y = *reinterpret_cast<const Loose*>(queries + static_cast<std::size_t>(q) * dim + k);
            for (int r = 0; r < R; ++r) sum[q][r] += y * x[r];
        }
    }
    if (k < dim) {
        Vec x[R];
        for (int r = 0; r < R; ++r) x[r] = padded<I>(rows[r] + k, dim - k);
        for (int q = 0; q < Q; ++q) {
            const Vec y = padded<I>(queries + static_cast<std::size_t>(q) * dim + k, dim - k);
            for (int r = 0; r < R; ++r) sum[q][r] += y * x[r];
        }
    }
    for (int q = 0; q < Q; ++q) {
        float lanes[R][I::width];  // by way of memory: to take a register apart would keep all of them there
        for (int r = 0; r < R; ++r) *reinterpret_cast<Loose*>(lanes[r]) = sum[q][r];
        for (int r = 0; r < R; ++r) out[static_cast<std::size_t>(q) * stride + static_cast<std::size_t>(r)] = sum_of<I::width>(lanes[r]);
    }
}

// R rows with query i and those behind it, up to Q at a time.
template <class I, int R, int Q, bool Ahead>
static inline std::size_t inner_some(const float* const* rows, const InnerCall& call, std::size_t i, const char* const* next, std::size_t size, float* out) {
    if constexpr (Q > 1)
        if (i + Q > call.n_queries) return inner_some<I, R, Q / 2, Ahead>(rows, call, i, next, size, out);
    inner_tile<I, R, Q, Ahead>(rows, call.queries.data() + i * call.dim, call.dim, next, size, out + i * call.n_rows, call.n_rows);
    return i + Q;
}

template <class I, int R, int Q>
static inline void inner_rows(const float* const* rows, const InnerCall& call, const char* const* next, std::size_t size, float* out) {
    std::size_t i = inner_some<I, R, Q, true>(rows, call, 0, next, size, out);
    while (i < call.n_queries) i = inner_some<I, R, Q, false>(rows, call, i, next, size, out);
}

// Rows first to first + n of the call. scratch: float [inner_tall * dim] for vectors of float16.
template <class I, int R, int Q>
static void inner_kernel(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out) {
    constexpr std::size_t tall = inner_tall, flat = R;  // rows of a tile of one query, and of more
    const std::size_t dim = call.dim, size = call.type == TokenType::f32 ? 4 : 2, end = first + n;
    const char* at[tall];
    const char* next[tall];
    const float* held[tall];
    const auto find = [&](std::size_t from, std::size_t count, const char** rows) {
        for (std::size_t r = 0; r < count; ++r) {
            const std::size_t place = from + r < end ? from + r : end - 1;
            rows[r] = static_cast<const char*>(call.vectors) + (call.rows ? static_cast<std::size_t>(call.rows[place]) : place) * dim * size;
        }
    };
    const auto fetch = [&](std::size_t from, std::size_t count) {
        find(from, count, at);
        find(from + count, count, next);
        for (std::size_t r = 0; r < count; ++r) {
            held[r] = call.type == TokenType::f32 ? reinterpret_cast<const float*>(at[r]) : scratch + r * dim;
            if (call.type == TokenType::f16) I::widen(reinterpret_cast<const std::uint16_t*>(at[r]), dim, scratch + r * dim);
        }
    };
    std::size_t i = first;
    if (call.n_queries == 1)
        for (; i + tall <= end; i += tall) {
            fetch(i, tall);
            inner_tile<I, static_cast<int>(tall), 1, true>(held, call.queries.data(), dim, next, size, out + i, call.n_rows);
        }
    else
        for (; i + flat <= end; i += flat) {
            fetch(i, flat);
            inner_rows<I, R, Q>(held, call, next, size, out + i);
        }
    for (; i < end; ++i) {
        fetch(i, 1);
        inner_rows<I, 1, Q>(held, call, next, size, out + i);
    }
}

}  // namespace rerank

// The kernel of maxsim: one template, compiled once per instruction set by maxsim_<isa>.cpp.
//
// A tile holds up to `I::rows(NV)` document tokens x NV vectors of query tokens in registers: each value of a document token is broadcast and
// meets the vectors of the query once, the maxima never leave the tile's loop, and there is no matrix of scores. The tokens of a document
// are spread evenly over its tiles, so that none is left with one token alone.
// Everything is `static`: each file keeps a copy of its own. A shared (COMDAT) copy could be the one with the widest instructions.
#pragma once

#include <cmath>
#include <limits>

#include "maxsim.hpp"

namespace rerank {

template <class I>
using VecOf = typename I::Vec;

template <class I>
static inline VecOf<I> all(float x) {
    return x - VecOf<I>{};  // 0 + x would be an addition: it turns -0 into 0
}

// The tokens of the tile after the one being computed: widened, or fetched into the cache, a few at a time between the multiply-adds, whose
// units both leave idle. The rows of a tile are too many streams for the processor to guess.
template <class I>
struct Ahead {
    TokenType type;
    const char* next;   // the next tile's values, of value_bytes each, or null: nothing to widen
    const char* later;  // what comes to be read after it
    float* widened;
    std::size_t rows, value_bytes;

    void step(std::size_t k, std::size_t n) const {
        const std::size_t first = k * rows, count = n * rows;
        for (std::size_t at = 0; at < count * value_bytes; at += 64) __builtin_prefetch(later + first * value_bytes + at);
        if (!widened) return;
        if (type == TokenType::f16) I::widen(reinterpret_cast<const std::uint16_t*>(next) + first, count, widened + first);
        if (type == TokenType::i8) I::widen(reinterpret_cast<const std::int8_t*>(next) + first, count, widened + first);
    }
};

// sum[r][v] = products of row r with the query tokens of vector v. D: the dimension where it is known at compile time, else 0.
template <class I, int NV, int R, int D>
static inline void tile_products(const float* rows, std::size_t d, const float* query, const Ahead<I>& ahead, VecOf<I> (&sum)[R][NV]) {
    using Vec = VecOf<I>;
    const std::size_t dim = D ? D : d;
    for (std::size_t from = 0; from < dim; from += I::width) {
        const std::size_t to = from + I::width < dim ? from + I::width : dim;
        ahead.step(from, to - from);
        for (std::size_t k = from; k < to; ++k) {
            Vec q[NV];
            for (int v = 0; v < NV; ++v) q[v] = reinterpret_cast<const typename I::Loose*>(query + k * NV * I::width)[v];
            for (int r = 0; r < R; ++r) {
                const Vec x = all<I>(rows[r * dim + k]);
                for (int v = 0; v < NV; ++v) sum[r][v] += x * q[v];
            }
        }
    }
}

// Maxima of one tile into `best`. scales: null but for int8.
template <class I, int NV, int R, int D>
static inline void maxsim_tile(const float* rows, std::size_t d, const float* query, const float* scales, const Ahead<I>& ahead, VecOf<I>* best,
                               VecOf<I>& poison) {
    VecOf<I> sum[R][NV] = {};
    tile_products<I, NV, R, D>(rows, d, query, ahead, sum);
    VecOf<I> wrong[R];  // chains of their own, so that they do not wait for one another
    for (int r = 0; r < R; ++r) {
        if (scales)
            for (int v = 0; v < NV; ++v) sum[r][v] *= all<I>(scales[r]);
        wrong[r] = sum[r][0] * 0.0f;
        for (int v = 1; v < NV; ++v) wrong[r] += sum[r][v] * 0.0f;
        for (int v = 0; v < NV; ++v) best[v] = I::max(sum[r][v], best[v]);
    }
    for (int r = 1; r < R; ++r) wrong[0] += wrong[r];
    poison += wrong[0];  // NaN for ever, once a product is not finite
}

template <class I, int NV, int D, int R>
static inline void maxsim_tile_of(std::size_t n, const float* rows, std::size_t d, const float* query, const float* scales, const Ahead<I>& ahead,
                                  VecOf<I>* best, VecOf<I>& poison) {
    if constexpr (R > 0) {
        if (n == R) return maxsim_tile<I, NV, R, D>(rows, d, query, scales, ahead, best, poison);
        maxsim_tile_of<I, NV, D, R - 1>(n, rows, d, query, scales, ahead, best, poison);
    }
}

// scratch: two tiles of float32, the one being computed and the next.
template <class I, int NV, int D>
static bool maxsim_block(const BlockedQuery& query, const BlockedQuery::Block& block, TokenType type, const DocTokens& doc, const void* following,
                         float* scratch, double* total) {
    using Vec = VecOf<I>;
    constexpr int most = I::rows(NV);
    Vec best[NV], poison{};
    for (Vec& b : best) b = all<I>(-std::numeric_limits<float>::infinity());
    const std::size_t value_bytes = type == TokenType::f32 ? 4 : type == TokenType::f16 ? 2 : 1, row_bytes = query.dim * value_bytes;
    const auto values_at = [&](std::size_t token) {
        return token < doc.n ? static_cast<const char*>(doc.values) + token * row_bytes : static_cast<const char*>(following) + (token - doc.n) * row_bytes;
    };
    const std::size_t tiles = (doc.n + most - 1) / most, each = doc.n / tiles, longer = doc.n % tiles;
    const bool widen = type != TokenType::f32;
    float* buffers[2] = {scratch, scratch + most * query.dim};
    if (widen) Ahead<I>{type, values_at(0), values_at(0), buffers[0], each + (longer > 0), value_bytes}.step(0, query.dim);
    for (std::size_t tile = 0, first = 0; tile < tiles; ++tile) {
        const std::size_t n = each + (tile < longer), n_next = each + (tile + 1 < longer);
        const bool more = widen && tile + 1 < tiles;
        const Ahead<I> ahead{type, values_at(first + n), values_at(first + 2 * n), more ? buffers[(tile + 1) % 2] : nullptr, n_next, value_bytes};
        const float* rows = widen ? buffers[tile % 2] : static_cast<const float*>(doc.values) + first * query.dim;
        maxsim_tile_of<I, NV, D, most>(n, rows, query.dim, block.values, doc.scales ? doc.scales + first : nullptr, ahead, best, poison);
        first += n;
    }
    float maxima[NV * I::width], wrong[I::width];
    __builtin_memcpy(maxima, best, sizeof(maxima));
    __builtin_memcpy(wrong, &poison, sizeof(wrong));
    for (std::size_t t = 0; t < block.tokens; ++t) *total += static_cast<double>(query.weights[block.first + t]) * maxima[t];
    bool finite = true;
    for (const float w : wrong) finite &= w == 0.0f;
    return finite;
}

template <class I, int NV>
static bool maxsim_block_of(const BlockedQuery& query, const BlockedQuery::Block& block, TokenType type, const DocTokens& doc, const void* following,
                            float* scratch, double* total) {
    if constexpr (NV > 1)
        if (block.vectors < NV) return maxsim_block_of<I, NV - 1>(query, block, type, doc, following, scratch, total);
    return query.dim == 128 ? maxsim_block<I, NV, 128>(query, block, type, doc, following, scratch, total)
                            : maxsim_block<I, NV, 0>(query, block, type, doc, following, scratch, total);
}

// See MaxSimFn.
template <class I>
static bool maxsim_score(const BlockedQuery& query, TokenType type, const DocTokens& doc, const void* following, float* scratch, double* total) {
    bool finite = true;
    for (const BlockedQuery::Block& block : query.blocks)
        finite &= maxsim_block_of<I, I::vectors>(query, block, type, doc, following, scratch, total);
    return finite;
}

template <class I>
static constexpr MaxSimKernel maxsim_kernel() {
    std::size_t rows = 0;
    for (std::size_t v = 1; v <= I::vectors; ++v) rows = rows < static_cast<std::size_t>(I::rows(v)) ? I::rows(v) : rows;
    return {maxsim_score<I>, I::width, I::vectors, 2 * rows};
}

}  // namespace rerank

#include <immintrin.h>

#include <cmath>
#include <limits>

#include "dot8.hpp"

namespace rerank {
namespace {

typedef std::int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));

// R tokens x 32 query tokens x the planes in registers.
template <int R, int PLANES>
inline void tile(const ByteBlock& block, const ByteTokens& tokens, std::size_t first, Floats* best, Floats& poison) {
    Ints sum[PLANES][R][2] = {};
    const std::uint8_t* rows = tokens.values + first * block.width;
    const std::size_t plane_bytes = block.width * byte_lanes;
    for (std::size_t k = 0; k < block.width; k += 4) {
        __m512i q[PLANES][2];
        for (int p = 0; p < PLANES; ++p)
            for (int v = 0; v < 2; ++v) q[p][v] = _mm512_load_si512(block.values + p * plane_bytes + k * byte_lanes + 64 * v);
        for (int r = 0; r < R; ++r) {
            std::int32_t four;
            __builtin_memcpy(&four, rows + r * block.width + k, 4);
            const __m512i x = _mm512_set1_epi32(four);
            for (int p = 0; p < PLANES; ++p)
                for (int v = 0; v < 2; ++v) sum[p][r][v] = (Ints)_mm512_dpbusd_epi32((__m512i)sum[p][r][v], x, q[p][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < 2; ++v) {
            Floats total{};
            for (int p = 0; p < PLANES; ++p)
                total = total * 128.0f + __builtin_convertvector(sum[p][r][v] + reinterpret_cast<const Ints*>(block.start[p])[v], Floats);
            Floats value = total * reinterpret_cast<const Floats*>(block.step)[v] + reinterpret_cast<const Floats*>(block.offset)[v];
            if (tokens.bases) value += reinterpret_cast<const Floats*>(tokens.bases[first + r])[v];
            value *= tokens.factors[first + r];
            best[v] = _mm512_max_ps(value, best[v]);
            poison += value * 0.0f;
        }
}

template <int PLANES, int R>
inline void tile_of(std::size_t n, const ByteBlock& block, const ByteTokens& tokens, std::size_t first, Floats* best, Floats& poison) {
    if constexpr (R > 0) {
        if (n == R) return tile<R, PLANES>(block, tokens, first, best, poison);
        tile_of<PLANES, R - 1>(n, block, tokens, first, best, poison);
    }
}

template <int PLANES, int MOST>
bool scan_planes(const ByteBlock& block, const ByteTokens& tokens, std::size_t n, float* maxima) {
    const Floats lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    Floats best[2] = {lowest, lowest}, poison{};
    const std::size_t tiles = (n + MOST - 1) / MOST, each = n / tiles, longer = n % tiles;
    for (std::size_t i = 0, first = 0; i < tiles; ++i) {
        const std::size_t rows = each + (i < longer);
        tile_of<PLANES, MOST>(rows, block, tokens, first, best, poison);
        first += rows;
    }
    __builtin_memcpy(maxima, best, sizeof(best));
    bool finite = true;
    for (int l = 0; l < 16; ++l) finite &= poison[l] == 0.0f;
    return finite;
}

bool scan(const ByteBlock& block, const ByteTokens& tokens, std::size_t n, float* maxima) {
    return block.planes == 2 ? scan_planes<2, 6>(block, tokens, n, maxima) : scan_planes<1, 12>(block, tokens, n, maxima);
}

void shift(const std::int8_t* values, std::size_t n, std::size_t dim, std::size_t width, std::uint8_t* out) {
    const __m512i top = _mm512_set1_epi8(static_cast<char>(0x80));
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t k = 0; k < width; k += 64) {
            const __mmask64 there = dim - k >= 64 ? ~__mmask64{0} : (__mmask64{1} << (dim - k)) - 1;
            _mm512_storeu_si512(out + i * width + k, _mm512_xor_si512(top, _mm512_maskz_loadu_epi8(there, values + i * dim + k)));
        }
}

void halves(const std::uint8_t* codes, std::size_t n, std::size_t bytes, const std::uint8_t* table, std::size_t width, std::uint8_t* out) {
    const __m512i lookup = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), low = _mm512_set1_epi8(15);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t k = 0; k < bytes; k += 64) {
            const __mmask64 there = bytes - k >= 64 ? ~__mmask64{0} : (__mmask64{1} << (bytes - k)) - 1;
            const __m512i both = _mm512_maskz_loadu_epi8(there, codes + i * bytes + k);
            const __m512i first = _mm512_shuffle_epi8(lookup, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
            const __m512i second = _mm512_shuffle_epi8(lookup, _mm512_and_si512(both, low));
            _mm512_mask_storeu_epi8(out + i * width + k, there, first);
            _mm512_mask_storeu_epi8(out + i * width + bytes + k, there, second);
        }
}

}  // namespace

Dot8Kernel dot8_avx512vnni() { return {scan, shift, halves}; }

}  // namespace rerank

// What the late-interaction kernels need to know of an instruction set. To be included by the files compiled for it alone.
#pragma once

#include <immintrin.h>
#include <cstddef>
#include <cstdint>

namespace rerank {
namespace {

struct Avx512 {
    typedef float Vec __attribute__((vector_size(64)));
    typedef float Loose __attribute__((vector_size(64), aligned(4), may_alias));  // the same in memory, wherever it lies
    typedef std::int32_t Ints __attribute__((vector_size(64)));  // as many as floats
    typedef std::int16_t Shorts __attribute__((vector_size(32)));
    typedef std::int16_t Table16 __attribute__((vector_size(64), aligned(2), may_alias));  // a register of table entries
    typedef std::uint16_t Table8 __attribute__((vector_size(32), aligned(1), may_alias));
    static constexpr std::size_t width = 16, vectors = 2;
    static constexpr int rows(std::size_t nv) { return nv == 2 ? 12 : 16; }  // 32 registers

    static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
    static void widen(const std::uint16_t* half, std::size_t n, float* out) {
        std::size_t i = 0;
        for (; i + 16 <= n; i += 16)
            _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half + i))));
        for (; i < n; ++i) out[i] = _cvtsh_ss(half[i]);
    }
    static void widen(const std::int8_t* bytes, std::size_t n, float* out) {
        std::size_t i = 0;
        for (; i + 16 <= n; i += 16)
            _mm512_storeu_ps(out + i, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i)))));
        for (; i < n; ++i) out[i] = bytes[i];
    }
};

}  // namespace
}  // namespace rerank

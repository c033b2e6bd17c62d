// One pass over the sums of a window: which reach a bound, and all back to 0. Included by the files that are compiled per instruction set.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "cpu.hpp"

namespace rerank {

std::size_t sweep_baseline(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out);
std::size_t sweep_avx2(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out);

inline constexpr std::size_t kSweep = 64;  // sums that are looked at together

#if defined(__AVX2__)
static inline std::size_t sweep_impl(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out) {
    const __m256i least = _mm256_set1_epi16(static_cast<short>(need)), zero = _mm256_setzero_si256();
    std::size_t found = 0;
    for (std::size_t i = 0; i < n; i += kSweep) {
        auto* at = reinterpret_cast<__m256i*>(sums + i);
        const __m256i a = _mm256_loadu_si256(at), b = _mm256_loadu_si256(at + 1), c = _mm256_loadu_si256(at + 2), d = _mm256_loadu_si256(at + 3);
        const __m256i most = _mm256_max_epu16(_mm256_max_epu16(a, b), _mm256_max_epu16(c, d));
        if (_mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_max_epu16(most, least), most)) != 0) {
            for (std::size_t j = 0; j < 4; ++j) {
                const __m256i v = _mm256_loadu_si256(at + j);
                auto hits = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_max_epu16(v, least), v))) & 0x55555555u;
                for (; hits != 0; hits &= hits - 1) {
                    const std::size_t place = i + 16 * j + static_cast<std::size_t>(std::countr_zero(hits)) / 2;
                    out[found++] = {first + static_cast<std::uint32_t>(place), sums[place]};
                }
            }
        }
        _mm256_storeu_si256(at, zero);
        _mm256_storeu_si256(at + 1, zero);
        _mm256_storeu_si256(at + 2, zero);
        _mm256_storeu_si256(at + 3, zero);
    }
    return found;
}
#elif defined(__SSE2__)
static inline std::size_t sweep_impl(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out) {
    const __m128i least = _mm_set1_epi16(static_cast<short>(need)), zero = _mm_setzero_si128();
    std::size_t found = 0;
    for (std::size_t i = 0; i < n; i += 16) {
        auto* at = reinterpret_cast<__m128i*>(sums + i);
        // need - x saturates to 0 where x >= need
        const __m128i a = _mm_cmpeq_epi16(_mm_subs_epu16(least, _mm_loadu_si128(at)), zero);
        const __m128i b = _mm_cmpeq_epi16(_mm_subs_epu16(least, _mm_loadu_si128(at + 1)), zero);
        auto hits = static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(a, b)));
        for (; hits != 0; hits &= hits - 1) {
            const std::size_t place = i + static_cast<std::size_t>(std::countr_zero(hits));
            out[found++] = {first + static_cast<std::uint32_t>(place), sums[place]};
        }
        _mm_storeu_si128(at, zero);
        _mm_storeu_si128(at + 1, zero);
    }
    return found;
}
#else
static inline std::size_t sweep_impl(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out) {
    std::size_t found = 0;
    for (std::size_t i = 0; i < n; ++i) {
        if (sums[i] >= need) out[found++] = {first + static_cast<std::uint32_t>(i), sums[i]};
        sums[i] = 0;
    }
    return found;
}
#endif

}  // namespace rerank

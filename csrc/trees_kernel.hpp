// The scan of trees.hpp, included by the files that are compiled per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu.hpp"

namespace rerank {
namespace {

// Sixteen values of a column.
template <class T>
struct Lanes;

#if defined(__AVX512F__)

template <>
struct Lanes<float> {
    __m512 x;
    explicit Lanes(const float* from) : x(_mm512_loadu_ps(from)) {}
    __mmask16 above(float threshold) const { return _mm512_cmp_ps_mask(x, _mm512_set1_ps(threshold), _CMP_GT_OQ); }
};
template <>
struct Lanes<double> {
    __m512d x, y;
    explicit Lanes(const double* from) : x(_mm512_loadu_pd(from)), y(_mm512_loadu_pd(from + 8)) {}
    __mmask16 above(double threshold) const {
        const __m512d t = _mm512_set1_pd(threshold);
        return static_cast<__mmask16>(_mm512_cmp_pd_mask(x, t, _CMP_GT_OQ) | _mm512_cmp_pd_mask(y, t, _CMP_GT_OQ) << 8);
    }
};

// bits[i] &= keep in the lanes where a value is above the threshold; whether there is one.
template <class T>
inline bool narrow_down(const Lanes<T>& lanes, T threshold, std::uint32_t* bits, std::uint32_t keep) {
    const __mmask16 above = lanes.above(threshold);
    if (above == 0) return false;
    const __m512i old = _mm512_loadu_si512(bits);
    _mm512_storeu_si512(bits, _mm512_mask_and_epi32(old, above, old, _mm512_set1_epi32(static_cast<int>(keep))));
    return true;
}
template <class T>
inline bool narrow_down(const Lanes<T>& lanes, T threshold, std::uint64_t* bits, std::uint64_t keep) {
    const __mmask16 above = lanes.above(threshold);
    if (above == 0) return false;
    const __m512i kept = _mm512_set1_epi64(static_cast<long long>(keep)), low = _mm512_loadu_si512(bits), high = _mm512_loadu_si512(bits + 8);
    _mm512_storeu_si512(bits, _mm512_mask_and_epi64(low, static_cast<__mmask8>(above), low, kept));
    _mm512_storeu_si512(bits + 8, _mm512_mask_and_epi64(high, static_cast<__mmask8>(above >> 8), high, kept));
    return true;
}

#elif defined(__AVX2__)

// Which lanes are above, as 32 bits each: lanes 0 to 7 and 8 to 15.
struct Above {
    __m256i low, high;
    bool any() const { return !_mm256_testz_si256(_mm256_or_si256(low, high), _mm256_set1_epi32(-1)); }
};
template <>
struct Lanes<float> {
    __m256 x, y;
    explicit Lanes(const float* from) : x(_mm256_loadu_ps(from)), y(_mm256_loadu_ps(from + 8)) {}
    Above above(float threshold) const {
        const __m256 t = _mm256_set1_ps(threshold);
        return {_mm256_castps_si256(_mm256_cmp_ps(x, t, _CMP_GT_OQ)), _mm256_castps_si256(_mm256_cmp_ps(y, t, _CMP_GT_OQ))};
    }
};
template <>
struct Lanes<double> {
    __m256d x[4];
    explicit Lanes(const double* from) {
        for (int i = 0; i < 4; ++i) x[i] = _mm256_loadu_pd(from + 4 * i);
    }
    // Two registers of 64-bit masks as one of 32-bit masks.
    static __m256i halved(__m256d a, __m256d b) {
        const __m256 even = _mm256_shuffle_ps(_mm256_castpd_ps(a), _mm256_castpd_ps(b), 0x88);
        return _mm256_permute4x64_epi64(_mm256_castps_si256(even), 0xd8);
    }
    Above above(double threshold) const {
        const __m256d t = _mm256_set1_pd(threshold);
        return {halved(_mm256_cmp_pd(x[0], t, _CMP_GT_OQ), _mm256_cmp_pd(x[1], t, _CMP_GT_OQ)),
                halved(_mm256_cmp_pd(x[2], t, _CMP_GT_OQ), _mm256_cmp_pd(x[3], t, _CMP_GT_OQ))};
    }
};

inline void clear(void* bits, __m256i where, __m256i gone) {
    auto* at = static_cast<__m256i*>(bits);
    _mm256_storeu_si256(at, _mm256_andnot_si256(_mm256_and_si256(where, gone), _mm256_loadu_si256(at)));
}

template <class T>
inline bool narrow_down(const Lanes<T>& lanes, T threshold, std::uint32_t* bits, std::uint32_t keep) {
    const Above above = lanes.above(threshold);
    if (!above.any()) return false;
    const __m256i gone = _mm256_set1_epi32(static_cast<int>(~keep));
    clear(bits, above.low, gone);
    clear(bits + 8, above.high, gone);
    return true;
}
template <class T>
inline bool narrow_down(const Lanes<T>& lanes, T threshold, std::uint64_t* bits, std::uint64_t keep) {
    const Above above = lanes.above(threshold);
    if (!above.any()) return false;
    const __m256i gone = _mm256_set1_epi64x(static_cast<long long>(~keep));
    clear(bits, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(above.low)), gone);
    clear(bits + 4, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(above.low, 1)), gone);
    clear(bits + 8, _mm256_cvtepi32_epi64(_mm256_castsi256_si128(above.high)), gone);
    clear(bits + 12, _mm256_cvtepi32_epi64(_mm256_extracti128_si256(above.high, 1)), gone);
    return true;
}

#else

template <class T>
struct Lanes {
    const T* x;
    T highest;
    explicit Lanes(const T* from) : x(from), highest(from[0]) {
        for (int i = 1; i < 16; ++i) highest = highest < from[i] ? from[i] : highest;
    }
};
template <class T, class Word>
inline bool narrow_down(const Lanes<T>& lanes, T threshold, Word* bits, Word keep) {
    if (!(lanes.highest > threshold)) return false;
    for (int i = 0; i < 16; ++i) bits[i] &= lanes.x[i] > threshold ? keep : static_cast<Word>(~Word{0});
    return true;
}

#endif

template <class T, class Word>
void scan_nodes(const TreeScan<T, Word>& scan, const T* values, Word* bits) {
    for (std::size_t c = 0; c < scan.n_columns; ++c) {
        const Lanes<T> lanes(values + c * 16);
        for (std::size_t i = scan.offsets[c]; i < scan.offsets[c + 1]; ++i)
            if (!narrow_down(lanes, scan.thresholds[i], bits + std::size_t{scan.words[i]} * 16, scan.keep[i])) break;
    }
}

inline TreesKernel trees_kernel() {
    return {scan_nodes<float, std::uint32_t>, scan_nodes<float, std::uint64_t>, scan_nodes<double, std::uint32_t>,
            scan_nodes<double, std::uint64_t>};
}

}  // namespace
}  // namespace rerank

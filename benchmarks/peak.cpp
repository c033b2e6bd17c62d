// The most multiply-adds and the fastest reading that this processor does, as loops that a compiler cannot shorten: accumulators that start from
// different values of the caller's, all of which come back.
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

extern "C" {

#if defined(__x86_64__)
#define LOOP(name, target_isa, vec, load, store, set, fma, width)                                                                   \
    __attribute__((target(target_isa))) void name(float* values, std::int64_t n) {                                                  \
        vec a = load(values), b = load(values + width), c = load(values + 2 * width), d = load(values + 3 * width);                 \
        vec e = load(values + 4 * width), f = load(values + 5 * width), g = load(values + 6 * width), h = load(values + 7 * width); \
        vec i = load(values + 8 * width), j = load(values + 9 * width), k = load(values + 10 * width), l = load(values + 11 * width); \
        const vec x = set(values[12 * width]), y = set(values[12 * width + 1]);                                                     \
        for (std::int64_t r = 0; r < n; ++r) {                                                                                      \
            a = fma(a, x, y), b = fma(b, x, y), c = fma(c, x, y), d = fma(d, x, y), e = fma(e, x, y), f = fma(f, x, y);             \
            g = fma(g, x, y), h = fma(h, x, y), i = fma(i, x, y), j = fma(j, x, y), k = fma(k, x, y), l = fma(l, x, y);             \
        }                                                                                                                           \
        store(values, a), store(values + width, b), store(values + 2 * width, c), store(values + 3 * width, d);                     \
        store(values + 4 * width, e), store(values + 5 * width, f), store(values + 6 * width, g), store(values + 7 * width, h);     \
        store(values + 8 * width, i), store(values + 9 * width, j), store(values + 10 * width, k), store(values + 11 * width, l);   \
    }

LOOP(fma_avx2, "avx2,fma", __m256, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, 8)
LOOP(fma_avx512, "avx512f", __m512, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, 16)
#endif

// Reads n floats, n a multiple of 64.
float read_all(const float* values, std::int64_t n) {
    typedef float vec __attribute__((vector_size(64), aligned(4)));
    vec sum[4] = {};
    for (std::int64_t i = 0; i < n; i += 64)
        for (int j = 0; j < 4; ++j) sum[j] += *reinterpret_cast<const vec*>(values + i + 16 * j);
    const vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    float out = 0;
    for (int j = 0; j < 16; ++j) out += all[j];
    return out;
}
}

// Dot products of one float32 vector with many rows: one template, compiled once per instruction set by dots_<isa>.cpp.
#pragma once

#include <cstddef>

namespace rerank {

void dots_baseline(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);
void dots_avx2(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);
void dots_avx512(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);

// Width::Vec is a float vector type with the alignment of one float. `static`: each file gets a copy of its own. A shared (COMDAT)
// copy could be the one with the widest instructions.
template <class Width>
static inline void dots_impl(const float* x, const float* rows, std::size_t n, std::size_t d, float* out) {
    using Vec = typename Width::Vec;
    constexpr std::size_t lanes = sizeof(Vec) / sizeof(float), step = 4 * lanes;
    for (std::size_t i = 0; i < n; ++i) {
        const float* row = rows + i * d;
        Vec a{}, b{}, c{}, e{};  // four sums in flight hide the latency of the multiply-add
        std::size_t j = 0;
        for (; j + step <= d; j += step) {
            const Vec* u = reinterpret_cast<const Vec*>(x + j);
            const Vec* v = reinterpret_cast<const Vec*>(row + j);
            a += u[0] * v[0];
            b += u[1] * v[1];
            c += u[2] * v[2];
            e += u[3] * v[3];
        }
        const Vec sum = (a + b) + (c + e);
        float total = 0;
        for (std::size_t l = 0; l < lanes; ++l) total += sum[l];
        for (; j < d; ++j) total += x[j] * row[j];
        out[i] = total;
    }
}

}  // namespace rerank

// Dot products of one float32 vector with many rows: one template, compiled once per instruction set by dots_<isa>.cpp.
#pragma once

#include <cstddef>

namespace rerank {

void dots_baseline(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);
void dots_avx2(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);
void dots_avx512(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);
void two_dots_baseline(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y);
void two_dots_avx2(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y);
void two_dots_avx512(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y);

// Width::Vec is a float vector type with the alignment of one float. `static`: each file gets a copy of its own. A shared (COMDAT) copy
// could be the one with the widest instructions.
template <class Width>
struct Partial {  // four sums in flight hide some of the latency of the multiply-add
    using Vec = typename Width::Vec;
    static constexpr std::size_t lanes = sizeof(Vec) / sizeof(float), step = 4 * lanes;
    Vec a{}, b{}, c{}, e{};

    void add(const Vec* u, const float* row) {
        const Vec* v = reinterpret_cast<const Vec*>(row);
        a += u[0] * v[0];
        b += u[1] * v[1];
        c += u[2] * v[2];
        e += u[3] * v[3];
    }

    float finish(const float* x, const float* row, std::size_t j, std::size_t d) const {
        const Vec sum = (a + b) + (c + e);
        float parts[lanes];
        __builtin_memcpy(parts, &sum, sizeof(sum));
        for (std::size_t half = lanes / 2; half > 0; half /= 2)  // by halves: few additions wait for each other
            for (std::size_t l = 0; l < half; ++l) parts[l] += parts[l + half];
        float total = parts[0];
        for (; j < d; ++j) total += x[j] * row[j];
        return total;
    }
};

// Two rows at a time: each fills the gaps of the other. What is added to what, and in which order, is the same as for one.
template <class Width>
static inline void dots_impl(const float* x, const float* rows, std::size_t n, std::size_t d, float* out) {
    using Sums = Partial<Width>;
    using Vec = typename Width::Vec;
    std::size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        const float *first = rows + i * d, *second = first + d;
        Sums one, two;
        std::size_t j = 0;
        for (; j + Sums::step <= d; j += Sums::step) {
            const Vec* u = reinterpret_cast<const Vec*>(x + j);
            one.add(u, first + j);
            two.add(u, second + j);
        }
        out[i] = one.finish(x, first, j, d);
        out[i + 1] = two.finish(x, second, j, d);
    }
    if (i < n) {
        const float* row = rows + i * d;
        Sums one;
        std::size_t j = 0;
        for (; j + Sums::step <= d; j += Sums::step) one.add(reinterpret_cast<const Vec*>(x + j), row + j);
        out[i] = one.finish(x, row, j, d);
    }
}

// The same of two vectors, while each row is at hand: rows that come from far are fetched once.
template <class Width>
static inline void two_dots_impl(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y) {
    using Sums = Partial<Width>;
    using Vec = typename Width::Vec;
    for (std::size_t i = 0; i < n; ++i) {
        const float* row = rows + i * d;
        Sums one, two;
        std::size_t j = 0;
        for (; j + Sums::step <= d; j += Sums::step) {
            const Vec* v = reinterpret_cast<const Vec*>(row + j);
            one.add(v, x + j);
            two.add(v, y + j);
        }
        out_x[i] = one.finish(x, row, j, d);
        out_y[i] = two.finish(y, row, j, d);
    }
}

}  // namespace rerank

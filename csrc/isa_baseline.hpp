// What the late-interaction kernels need to know of an instruction set. To be included by the files compiled for it alone.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace rerank {
namespace {

struct Baseline {
    typedef float Vec __attribute__((vector_size(16)));
    typedef float Loose __attribute__((vector_size(16), aligned(4), may_alias));  // the same in memory, wherever it lies
    typedef std::int32_t Ints __attribute__((vector_size(16)));  // as many as floats
    typedef std::int16_t Shorts __attribute__((vector_size(8)));
    typedef std::int16_t Table16 __attribute__((vector_size(16), aligned(2), may_alias));  // a register of table entries
    typedef std::uint16_t Table8 __attribute__((vector_size(16), aligned(1), may_alias));
    static constexpr std::size_t width = 4, vectors = 4;
#if defined(__aarch64__)
    static constexpr int rows(std::size_t nv) { return nv == 8 ? 3 : nv == 4 ? 6 : nv == 3 ? 8 : nv == 2 ? 12 : 16; }  // 32 registers
#else
    static constexpr int rows(std::size_t nv) { return nv == 8 ? 1 : nv >= 3 ? 2 : nv == 2 ? 4 : 6; }  // 16 registers, and no multiply-add
#endif

    static Vec max(Vec a, Vec b) { return a > b ? a : b; }

    // The exponent is moved by a multiplication, which also makes normal numbers of subnormal ones.
    static float widen(std::uint16_t half) {
        const std::uint32_t sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
        const std::uint32_t special = rest >= 0x0f800000u ? 0x7f800000u : 0;  // infinity and NaN
        const float moved = std::bit_cast<float>(rest) * 0x1p112f;
        return std::bit_cast<float>(sign | special | std::bit_cast<std::uint32_t>(moved));
    }
    static void widen(const std::uint16_t* half, std::size_t n, float* out) {
        for (std::size_t i = 0; i < n; ++i) out[i] = widen(half[i]);
    }
    static void widen(const std::int8_t* bytes, std::size_t n, float* out) {
        for (std::size_t i = 0; i < n; ++i) out[i] = bytes[i];
    }
};

}  // namespace
}  // namespace rerank

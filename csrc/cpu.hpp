// What this processor can run, found once at run time, and the table of functions that were compiled for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace rerank {

enum class Isa { baseline, avx2, avx512 };

// out[i] = sum_j x[j] * rows[i * d + j], float32. The order of the additions differs between instruction sets, so results
// may differ in the last bits from machine to machine; on one machine they are always the same.
using DotsFn = void (*)(const float* x, const float* rows, std::size_t n, std::size_t d, float* out);

// The same of two vectors at once, bit for bit.
using TwoDotsFn = void (*)(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y);

struct Candidate {
    std::uint32_t row, impact;
};
// out = {first + i, sums[i]} for all i < n with sums[i] >= need, ascending; how many. Sets sums to 0, up to the next multiple of 64.
using SweepFn = std::size_t (*)(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out);

struct Kernels {
    DotsFn dots;
    TwoDotsFn two_dots;
    SweepFn sweep;
};

// The best instruction set that is both compiled in and present on this processor.
Isa best_isa();
// All that are compiled in and present, baseline first: the tests run every one of them.
std::vector<Isa> usable_isas();
// Throws std::invalid_argument for an instruction set that this build or this processor lacks.
Kernels kernels(Isa isa);
std::string_view isa_name(Isa isa);

}  // namespace rerank

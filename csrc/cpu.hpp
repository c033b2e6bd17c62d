// What this processor can run, found once at run time, and the table of functions that were compiled for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace rerank {

enum class Isa { baseline, avx2, avx512, avx512vnni };

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

enum class TokenType { f32, f16, i8 };
struct BlockedQuery;
struct DocTokens;
// Adds the weighted maxima of a document to total, token by token; false when a product was not finite. following: what is read after it;
// scratch: float [scratch_rows * dim].
using MaxSimFn = bool (*)(const BlockedQuery& query, TokenType type, const DocTokens& doc, const void* following, float* scratch, double* total);
struct MaxSimKernel {
    MaxSimFn score;
    std::size_t width, vectors;  // floats of a vector, vectors of a full block
    std::size_t scratch_rows;
};
MaxSimKernel maxsim_baseline();
MaxSimKernel maxsim_avx2();
MaxSimKernel maxsim_avx512();

// Rows first to first + n of a call, see inner.hpp. scratch: float [inner_tall * dim], for float16.
struct InnerCall;
using InnerFn = void (*)(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out);
constexpr std::size_t inner_tall = 8;
void inner_baseline(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out);
void inner_avx2(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out);
void inner_avx512(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out);

// Products of bytes, where the processor has them (null functions where not). See dot8.hpp.
struct ByteBlock;
struct ByteTokens;
struct Dot8Kernel {
    // The maxima of 32 query tokens over n tokens; false when a value was not finite.
    bool (*scan)(const ByteBlock& block, const ByteTokens& tokens, std::size_t n, float* maxima);
    // out [n][width] = the n tokens' int8 values [n][dim] + 128.
    void (*shift)(const std::int8_t* values, std::size_t n, std::size_t dim, std::size_t width, std::uint8_t* out);
    // out [n][width]: first what `table` has for the high half of each byte, then for the low halves.
    void (*halves)(const std::uint8_t* codes, std::size_t n, std::size_t bytes, const std::uint8_t* table, std::size_t width, std::uint8_t* out);
};
Dot8Kernel dot8_avx512vnni();

struct ResidualStore;
struct ResidualBlock;
// The steps of residual.hpp for one block of 32 query tokens or one document (tokens first to first + n).
struct ResidualKernel {
    // out[i * dim ...] = token first + i, decoded to unit length.
    void (*decode)(const ResidualStore& store, std::size_t first, std::size_t n, float* out);
    // out[c * stride + lane] for the n centroids c of list, or those from `from` on if it is null. scratch: float [scratch_rows * dim].
    void (*products)(const ResidualBlock& block, const ResidualStore& store, const std::uint32_t* list, std::size_t from, std::size_t n,
                     float* scratch, float* out, std::size_t stride);
    // One byte position of the table.
    void (*build16)(const ResidualBlock& block, const ResidualStore& store, std::size_t position, std::int16_t* rows);
    void (*build8)(const ResidualBlock& block, const ResidualStore& store, std::size_t position, std::uint8_t* rows);
    // The maxima of 32 query tokens; false when a value was not finite. largest: the largest inverse norm met.
    bool (*scan16)(const ResidualBlock& block, const ResidualStore& store, std::size_t first, std::size_t n, const float* centroid_scores,
                   std::size_t stride, float* maxima, float* largest);
    bool (*scan8)(const ResidualBlock& block, const ResidualStore& store, std::size_t first, std::size_t n, const float* centroid_scores,
                  std::size_t stride, float* maxima, float* largest);
    std::size_t scratch_rows;
};
ResidualKernel residual_baseline();
ResidualKernel residual_avx2();
ResidualKernel residual_avx512();

// The numerical nodes of an ensemble of trees, column by column, thresholds rising; see trees.hpp.
template <class T, class Word>
struct TreeScan {
    std::size_t n_columns;
    const std::size_t* offsets;  // [n_columns + 1]
    const T* thresholds;
    const std::uint32_t* words;
    const Word* keep;  // the leaves of that word that stay where a value is above the threshold
};
// values [n_columns][16]; bits [words][16].
template <class T, class Word>
using TreesFn = void (*)(const TreeScan<T, Word>& scan, const T* values, Word* bits);
struct TreesKernel {
    TreesFn<float, std::uint32_t> f32w32;
    TreesFn<float, std::uint64_t> f32w64;
    TreesFn<double, std::uint32_t> f64w32;
    TreesFn<double, std::uint64_t> f64w64;
};
TreesKernel trees_baseline();
TreesKernel trees_avx2();
TreesKernel trees_avx512();

struct Kernels {
    DotsFn dots;
    TwoDotsFn two_dots;
    SweepFn sweep;
    InnerFn inner;
    MaxSimKernel maxsim;
    ResidualKernel residual;
    Dot8Kernel dot8;
    TreesKernel trees;
};

// The best instruction set that is both compiled in and present on this processor.
Isa best_isa();
// All that are compiled in and present, baseline first: the tests run every one of them.
std::vector<Isa> usable_isas();
// Throws std::invalid_argument for an instruction set that this build or this processor lacks.
Kernels kernels(Isa isa);
std::string_view isa_name(Isa isa);

}  // namespace rerank

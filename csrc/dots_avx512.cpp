#include "dots.hpp"

namespace rerank {
namespace {

struct Width512 {
    typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
};

}  // namespace

void dots_avx512(const float* x, const float* rows, std::size_t n, std::size_t d, float* out) { dots_impl<Width512>(x, rows, n, d, out); }

void two_dots_avx512(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y) {
    two_dots_impl<Width512>(x, y, rows, n, d, out_x, out_y);
}

}  // namespace rerank

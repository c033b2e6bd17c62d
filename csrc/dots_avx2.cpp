#include "dots.hpp"

namespace rerank {
namespace {

struct Width256 {
    typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
};

}  // namespace

void dots_avx2(const float* x, const float* rows, std::size_t n, std::size_t d, float* out) { dots_impl<Width256>(x, rows, n, d, out); }

void two_dots_avx2(const float* x, const float* y, const float* rows, std::size_t n, std::size_t d, float* out_x, float* out_y) {
    two_dots_impl<Width256>(x, y, rows, n, d, out_x, out_y);
}

}  // namespace rerank

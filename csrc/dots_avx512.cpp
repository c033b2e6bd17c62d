#include "dots.hpp"

namespace rerank {
namespace {

struct Width512 {
    typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
};

}  // namespace

void dots_avx512(const float* x, const float* rows, std::size_t n, std::size_t d, float* out) { dots_impl<Width512>(x, rows, n, d, out); }

}  // namespace rerank

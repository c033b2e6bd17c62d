#include "inner_kernel.hpp"
#include "isa_avx512.hpp"

namespace rerank {

void inner_avx512(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out) { inner_kernel<Avx512, 4, 4>(call, first, n, scratch, out); }

}  // namespace rerank

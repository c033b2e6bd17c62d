#include "inner_kernel.hpp"
#include "isa_avx2.hpp"

namespace rerank {

void inner_avx2(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out) { inner_kernel<Avx2, 3, 4>(call, first, n, scratch, out); }

}  // namespace rerank

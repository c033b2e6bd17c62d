#include "inner_kernel.hpp"
#include "isa_baseline.hpp"

namespace rerank {

void inner_baseline(const InnerCall& call, std::size_t first, std::size_t n, float* scratch, float* out) { inner_kernel<Baseline, 4, 2>(call, first, n, scratch, out); }

}  // namespace rerank

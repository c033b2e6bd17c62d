#include "isa_avx2.hpp"
#include "residual_kernel.hpp"

namespace rerank {

ResidualKernel residual_avx2() { return residual_kernel<Avx2>(); }

}  // namespace rerank

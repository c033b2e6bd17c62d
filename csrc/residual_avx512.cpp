#include "isa_avx512.hpp"
#include "residual_kernel.hpp"

namespace rerank {

ResidualKernel residual_avx512() { return residual_kernel<Avx512>(); }

}  // namespace rerank

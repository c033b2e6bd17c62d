#include "isa_baseline.hpp"
#include "residual_kernel.hpp"

namespace rerank {

ResidualKernel residual_baseline() { return residual_kernel<Baseline>(); }

}  // namespace rerank

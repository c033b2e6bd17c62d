#include "isa_baseline.hpp"
#include "maxsim_kernel.hpp"

namespace rerank {

MaxSimKernel maxsim_baseline() { return maxsim_kernel<Baseline>(); }

}  // namespace rerank

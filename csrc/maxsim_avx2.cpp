#include "isa_avx2.hpp"
#include "maxsim_kernel.hpp"

namespace rerank {

MaxSimKernel maxsim_avx2() { return maxsim_kernel<Avx2>(); }

}  // namespace rerank

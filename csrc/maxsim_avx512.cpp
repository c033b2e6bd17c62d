#include "isa_avx512.hpp"
#include "maxsim_kernel.hpp"

namespace rerank {

MaxSimKernel maxsim_avx512() { return maxsim_kernel<Avx512>(); }

}  // namespace rerank

#include "trees_kernel.hpp"

namespace rerank {

TreesKernel trees_avx512() { return trees_kernel(); }

}  // namespace rerank

#include "trees_kernel.hpp"

namespace rerank {

TreesKernel trees_avx2() { return trees_kernel(); }

}  // namespace rerank

#include "trees_kernel.hpp"

namespace rerank {

TreesKernel trees_baseline() { return trees_kernel(); }

}  // namespace rerank

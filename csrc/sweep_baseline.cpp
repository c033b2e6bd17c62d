#include "sweep.hpp"

namespace rerank {

std::size_t sweep_baseline(std::uint16_t* sums, std::size_t n, std::uint16_t need, std::uint32_t first, Candidate* out) {
    return sweep_impl(sums, n, need, first, out);
}

}  // namespace rerank

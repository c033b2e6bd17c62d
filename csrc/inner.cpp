#include "inner.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "pool.hpp"

namespace rerank {

namespace {
constexpr std::size_t per_block = 1 << 20, per_thread = 1 << 21;  // multiply-adds: 20 microseconds and more; less does not pay for waking a thread
constexpr std::size_t tiles = 48;  // rows of a block are a multiple of it, as it is of every tile's rows
}  // namespace

std::size_t inner_products(const InnerCall& call, float* out, Isa isa) {
    if (!call.n_queries) return call.n_rows;  // the kernel takes one at least
    const InnerFn kernel = kernels(isa).inner;
    const std::size_t each = std::max<std::size_t>(1, call.n_queries * call.dim), n = call.n_rows;
    const std::size_t rows = std::max(tiles, per_block / each / tiles * tiles), blocks = (n + rows - 1) / rows;
    const std::size_t useful = std::min(static_cast<std::size_t>(std::max(call.threads, 1)), n * each / per_thread + 1);
    std::atomic<std::size_t> done{n};
    parallel_for(blocks, static_cast<int>(useful), [&] {
        return [&, scratch = std::vector<float>(call.type == TokenType::f32 ? 0 : inner_tall * call.dim)](std::size_t b) mutable {
            if (call.deadline.passed())
                lower(done, b * rows);  // blocks are handed out in their order: all before the lowest one that was left are done
            else
                kernel(call, b * rows, std::min(rows, n - b * rows), scratch.data(), out);
        };
    });
    return done;
}

}  // namespace rerank

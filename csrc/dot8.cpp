#include "dot8.hpp"

#include <algorithm>
#include <cmath>

namespace rerank {

ByteQuery::ByteQuery(std::span<const float> query, std::size_t n_tokens, std::size_t dim, std::size_t planes, double middle, double unit,
                     const std::vector<std::size_t>& order, double byte_error) {
    const std::size_t width = byte_width(dim), plane = width * byte_lanes, n_blocks = (n_tokens + byte_lanes - 1) / byte_lanes;
    values_.assign(n_blocks * planes * plane + 64, 0);
    std::int8_t* values = values_.data() + (64 - reinterpret_cast<std::uintptr_t>(values_.data()) % 64) % 64;
    for (std::size_t b = 0; b < n_blocks; ++b, values += planes * plane) {
        ByteBlock block{b * byte_lanes, std::min(byte_lanes, n_tokens - b * byte_lanes), planes, width, values, {}, {}, {}, {}};
        for (std::size_t t = 0; t < block.tokens; ++t) {
            const float* q = query.data() + (block.first + t) * dim;
            double largest = 0, total = 0, absolute = 0;
            for (std::size_t k = 0; k < dim; ++k) {
                largest = std::max(largest, std::fabs(static_cast<double>(q[k])));
                total += q[k];
                absolute += std::fabs(q[k]);
            }
            const double most = planes == 2 ? 127.0 * 128 : 127.0, step = largest / most;
            for (std::size_t position = 0; position < dim; ++position) {
                const long v = step > 0 ? std::lrint(q[order[position]] / step) : 0, high = planes == 2 ? std::lrint(v / 128.0) : v;
                std::int8_t* at = values + (position / 4 * byte_lanes + t) * 4 + position % 4;
                at[0] = static_cast<std::int8_t>(high);
                block.start[0][t] -= static_cast<std::int32_t>(128 * high);
                if (planes == 2) {
                    at[plane] = static_cast<std::int8_t>(v - 128 * high);
                    block.start[1][t] -= static_cast<std::int32_t>(128 * (v - 128 * high));
                }
            }
            block.step[t] = static_cast<float>(step * unit);
            block.offset[t] = static_cast<float>(middle * total);
            const double of_query = 0.5 * step * unit * 128 * static_cast<double>(dim), of_sums = 2e-6 * absolute * (unit * 128 + std::fabs(middle));
            block.error[t] = static_cast<float>(of_query + byte_error * absolute + of_sums);
        }
        blocks.push_back(block);
    }
}

}  // namespace rerank

// The plain scorer: every posting of every term, in float64. For what the windowed one does not do: negative weights, very long queries.
#include "bm25_window.hpp"

namespace rerank {

std::uint32_t search_all(const Source& source, const Gain& gain, std::span<const Wanted> terms, const Allowed& allowed, Deadline deadline,
                         std::vector<Scored>& out) {
    std::vector<double> sums(source.view.rows(), 0);
    std::vector<std::uint8_t> held(source.view.rows(), 0);
    std::vector<std::uint32_t> rows, tfs;
    for (const Wanted& term : terms) {
        if (deadline.passed()) return 0;
        rows.clear();
        tfs.clear();
        decode_list(source.view, term.term, rows, tfs);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            sums[rows[i]] += term.weight * gain(tfs[i], gain.norm(source.view.lengths[rows[i]]));
            held[rows[i]] = 1;
        }
    }
    for (std::uint32_t row = 0; row < source.view.rows(); ++row)
        if (held[row] && allowed(row)) out.push_back({row, sums[row]});
    return source.view.rows();
}

void intersect(const SegmentView& segment, std::uint32_t term, std::vector<std::uint8_t>& bitmap) {
    std::vector<std::uint32_t> rows, tfs;
    decode_list(segment, term, rows, tfs);
    std::vector<std::uint8_t> holds(bitmap.size(), 0);
    for (const std::uint32_t row : rows) holds[row / 8] |= static_cast<std::uint8_t>(1u << row % 8);
    for (std::size_t i = 0; i < bitmap.size(); ++i) bitmap[i] &= holds[i];
}

}  // namespace rerank

// What happens to whole segments: merging, counting what deletions took away, and the forward lists (document -> terms) that feedback reads.
#pragma once

#include "postings.hpp"

namespace rerank {

// A document's terms: per term, ascending, a varint of 2 * (term - previous term - 1) + (tf > 1), then, if tf > 1, a varint of tf - 2.
struct Forward {
    std::vector<std::int64_t> offsets{0};
    std::vector<std::uint8_t> bytes;

    void add(std::span<const std::uint32_t> terms, std::span<const std::uint32_t> tfs);
};
struct ForwardView {
    std::span<const std::int64_t> offsets;
    std::span<const std::uint8_t> bytes;

    // Appends the terms of a document; each below n_terms, or Damaged is thrown.
    void read(std::size_t row, std::size_t n_terms, std::vector<std::uint32_t>& terms, std::vector<std::uint32_t>& tfs) const;
};
Forward forward_of(std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets);

// For each term, in how many of the rows of `dead` (a bitmap) it stands.
std::vector<std::int32_t> dead_frequencies(const SegmentView& segment, std::span<const std::uint8_t> dead);

struct MergeInput {
    SegmentView view;
    std::span<const std::uint8_t> dead;             // bitmap, or empty
    std::span<const std::uint32_t> places;          // term -> term of the result, rising; kUnused for terms that only dead rows hold
    ForwardView forward;
};

inline bool is_dead(std::span<const std::uint8_t> bitmap, std::size_t row) { return !bitmap.empty() && (bitmap[row / 8] >> row % 8 & 1) != 0; }

// Lengths of the live rows of all inputs, in order: what the merged segment is made over.
std::vector<std::uint32_t> live_lengths(const std::vector<MergeInput>& inputs);

// Writes the merged postings term by term, so that the payload can leave for a file in pieces.
class Merge {
public:
    Merge(std::vector<MergeInput> inputs, std::vector<std::uint32_t> lengths, std::size_t n_terms, const Coding& coding, bool codes);

    // Goes on until the payload holds `bytes` or all terms are done; false when they are.
    bool step(std::size_t bytes);
    SegmentWriter& result() { return writer_; }
    Forward forward() const;

private:
    std::vector<MergeInput> inputs_;
    std::vector<std::uint32_t> lengths_;
    SegmentWriter writer_;
    std::vector<std::vector<std::uint32_t>> rows_;  // per input: row -> row of the result, or kUnused
    std::vector<std::size_t> at_;                   // per input: the next term
    std::size_t n_terms_;
};

}  // namespace rerank

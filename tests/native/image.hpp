// A segment in arrays of exactly its size, so that a sanitizer sees the first byte read behind them, and random documents to make it of.
#pragma once

#include <numeric>

#include "bm25.hpp"
#include "check.hpp"
#include "segments.hpp"

namespace rerank {

struct Documents {
    std::vector<std::int32_t> tokens;
    std::vector<std::int64_t> offsets{0};
    std::size_t n_terms = 0;

    std::size_t size() const { return offsets.size() - 1; }
    void end() { offsets.push_back(static_cast<std::int64_t>(tokens.size())); }
    std::map<std::uint32_t, std::uint32_t> counts(std::size_t row) const {
        std::map<std::uint32_t, std::uint32_t> out;
        for (std::size_t i = at(offsets, row); i < at(offsets, row + 1); ++i) ++out[static_cast<std::uint32_t>(tokens[i])];
        return out;
    }
};

// Term t stands in about a share of 1 / (t + 1) of the documents, sometimes very often.
inline Documents random_documents(Random& random, std::size_t n_docs, std::size_t n_terms) {
    Documents out;
    out.n_terms = n_terms;
    for (std::size_t row = 0; row < n_docs; ++row) {
        for (std::size_t t = 0; t < n_terms && random.below(20) > 0; ++t)
            if (random.below(t + 1) == 0)
                for (std::size_t i = random.below(300) == 0 ? 400 : 1 + random.below(1 + random.below(4)); i > 0; --i)
                    out.tokens.push_back(static_cast<std::int32_t>(t));
        out.end();
    }
    return out;
}

struct Image {
    std::vector<TermEntry> terms;
    std::vector<Block> blocks;
    std::vector<std::uint8_t> payload, dense, forward;
    std::vector<std::uint32_t> lengths, dense_terms;
    std::vector<std::int64_t> forward_offsets;
    Coding coding;
    bool codes = false;
    std::uint32_t shortest = 1, longest = 1;

    void take(SegmentWriter& writer, const Forward& lists) {
        writer.finish();
        const auto exact = [](auto& values) { return std::vector(values.begin(), values.end()); };
        terms = exact(writer.terms), blocks = exact(writer.blocks), payload = exact(writer.payload), dense = exact(writer.dense);
        dense_terms = exact(writer.dense_terms), forward = exact(lists.bytes), forward_offsets = exact(lists.offsets);
        for (const std::uint32_t length : lengths) {
            shortest = std::max(1u, std::min(shortest, length));
            longest = std::max(longest, length);
        }
    }
    SegmentView view() const { return {terms, blocks, payload, lengths, dense_terms, dense, coding, codes}; }
    ForwardView lists() const { return {forward_offsets, forward}; }
    Source source(std::int64_t base = 0) const { return {view(), base, shortest, longest, {}, {}}; }
};

inline Image write(const Documents& documents, bool codes, bool exact = false) {
    Image out;
    if (exact) out.coding.k1 = out.coding.b = 0;
    out.codes = codes;
    for (std::size_t row = 0; row < documents.size(); ++row)
        out.lengths.push_back(static_cast<std::uint32_t>(documents.offsets[row + 1] - documents.offsets[row]));
    out.coding.mean = std::max(1.0, static_cast<double>(documents.tokens.size()) / static_cast<double>(std::max<std::size_t>(1, documents.size())));
    SegmentWriter writer(out.lengths, out.coding, codes);
    write_documents(writer, documents.tokens, documents.offsets, documents.n_terms);
    out.take(writer, forward_of(documents.tokens, documents.offsets));
    return out;
}

}  // namespace rerank

// The postings of one immutable segment: how they lie in memory and in a file, the encoder, and a decoder that trusts nothing it reads.
//
// A term's entry (16 bytes) says how many documents hold it (df) and where its list is:
//   df 1, 2     in the entry itself
//   df < 128    a run of bit-packed gaps and frequencies in the payload
//   more        blocks of 128 (the last may be shorter), each with a 16-byte header; the header in front of them sums up the whole list
// Behind each block's gaps and frequencies may lie one impact code per posting (see Coding). Terms in at least every kDenseShare-th
// document have their codes in a row of one byte per document instead.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bitpack.hpp"

namespace rerank {

struct TermEntry {
    std::uint32_t df;      // the top bit tells a list that lies in the entry
    std::uint32_t first;   // inline: the first row; blocks: index of the summary header
    std::uint64_t where;   // inline: the frequencies and the second row; else offset of the list in the payload
};
static_assert(sizeof(TermEntry) == 16);

// Every posting (tf, length) of a block has tf <= tf[0] and length >= length[0], or tf <= tf[1] and length >= length[1]: two pairs bound
// its score for any k1, b and variant. tf 255 stands for any number from 255 on, a length of 65535 for any from there on.
struct Block {
    std::uint32_t last;    // the last row of the block
    std::uint32_t offset;  // of its bytes, from the start of the term's list
    std::uint16_t length[2];
    std::uint8_t tf[2];
    std::uint8_t gap_bits, tf_bits;
};
static_assert(sizeof(Block) == 16);

inline constexpr std::uint32_t kInline = 0x80000000u;
inline constexpr std::uint32_t kMaxRows = 0x40000000u;
inline constexpr std::uint64_t kDenseShare = 4;

// An impact code c in 1..255 says that x = tf / (tf + K), K = k1 (1 - b + b length / mean), lies in ((c - 1) / 255, c / 255]. It is made
// with the k1, b and mean of the day the segment was written; bounds for any other follow from K' / K.
// k1 = 0 stands for exact codes: c is the frequency itself, 255 any from 255 on.
struct Coding {
    double k1 = 1.2, b = 0.75, mean = 1;

    bool exact() const { return k1 == 0; }
    double unit(std::uint32_t length) const { return k1 * (1 - b + b * length / mean); }
    std::uint8_t code(std::uint32_t tf, double k) const {
        if (exact()) return static_cast<std::uint8_t>(std::min(tf, 255u));
        const double x = tf / (tf + k);
        return static_cast<std::uint8_t>(std::min(255.0, std::max(1.0, std::ceil(255 * x))));
    }
};

struct SegmentView {
    std::span<const TermEntry> terms;
    std::span<const Block> blocks;
    std::span<const std::uint8_t> payload;
    std::span<const std::uint32_t> lengths;      // tokens of each document
    std::span<const std::uint32_t> dense_terms;  // ascending
    std::span<const std::uint8_t> dense;         // [dense_terms, documents]: codes, 0 where the term is absent
    Coding coding;
    bool codes = false;

    std::uint32_t rows() const { return static_cast<std::uint32_t>(lengths.size()); }
    std::uint32_t df(std::uint32_t term) const { return terms[term].df & ~kInline; }
};

struct Damaged : std::runtime_error {
    using std::runtime_error::runtime_error;
};
inline void require(bool ok, const char* what) {
    if (!ok) throw Damaged(what);
}

// A list of df >= 128.
struct BlockList {
    std::span<const Block> blocks;  // without the summary
    const Block* summary = nullptr;
    const std::uint8_t* bytes = nullptr;  // the list's part of the payload
    std::size_t n_bytes = 0;
    std::uint32_t df = 0, rows = 0;
    bool codes = false;

    std::size_t length(std::size_t block) const { return std::min<std::size_t>(kBlock, df - block * kBlock); }
};
bool is_block_list(const SegmentView& segment, std::uint32_t term);
BlockList block_list(const SegmentView& segment, std::uint32_t term);  // of a term for which is_block_list holds

// Rows of a block, ascending and below list.rows, into out [128]. Throws Damaged when the bytes say anything else.
void decode_rows(const BlockList& list, std::size_t block, std::uint32_t* out);
// The frequencies of a block, one at a time.
struct Frequencies {
    const std::uint8_t* bytes = nullptr;
    unsigned bits = 0;
    bool whole = false;

    std::uint32_t operator[](std::size_t i) const { return 1 + (whole ? unpack_one(bytes, bits, i) : unpack_run_one(bytes, bits, i)); }
};
Frequencies frequencies(const BlockList& list, std::size_t block);
void decode_frequencies(const BlockList& list, std::size_t block, std::uint32_t* out);
const std::uint8_t* codes_of(const BlockList& list, std::size_t block);  // of a list with codes

// A whole list of any kind, appended to rows and tfs.
void decode_list(const SegmentView& segment, std::uint32_t term, std::vector<std::uint32_t>& rows, std::vector<std::uint32_t>& tfs);

// Writes a segment term by term, in order of term id.
class SegmentWriter {
public:
    SegmentWriter(std::span<const std::uint32_t> lengths, const Coding& coding, bool codes) : lengths_(lengths), coding_(coding), codes_(codes) {}

    // rows ascending and distinct, tfs >= 1. An empty list is a term without documents.
    void add(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs);

    std::vector<TermEntry> terms;
    std::vector<Block> blocks;
    std::vector<std::uint8_t> payload;  // what `take_payload` has not fetched yet; `finish` adds the slack that readers need
    std::vector<std::uint32_t> dense_terms;
    std::vector<std::uint8_t> dense;
    std::uint64_t n_postings = 0;

    void finish() { payload.resize(payload.size() + kSlack, 0); }
    std::vector<std::uint8_t> take_payload() {
        taken_ += payload.size();
        return std::exchange(payload, {});
    }

private:
    void add_run(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs);
    void add_blocks(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs, TermEntry& entry);
    Block bounds(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs) const;

    std::span<const std::uint32_t> lengths_;
    Coding coding_;
    bool codes_;
    std::uint64_t taken_ = 0;  // bytes of payload that have left
    std::vector<std::uint32_t> gaps_, less_;
};

// tokens: term ids of all documents behind one another, each in [0, n_terms); document i is [offsets[i], offsets[i + 1]). counts: for how
// many tokens each entry stands, at least 1; empty: for one. A document's entries of one term add up, to less than 2^32.
void write_documents(SegmentWriter& writer, std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets, std::size_t n_terms,
                     std::span<const std::uint32_t> counts = {});

}  // namespace rerank

#include "postings.hpp"

#include <algorithm>

namespace rerank {

namespace {

constexpr std::uint32_t kNone = 0xffffffffu;  // "the row before row 0": rows are gaps minus one, counted on from here

// The inline form: df 1: where = tf; df 2: where = second row, then 16 bits for each tf.
bool fits_inline(std::span<const std::uint32_t> tfs) {
    return tfs.size() == 1 || (tfs.size() == 2 && tfs[0] <= 0xffff && tfs[1] <= 0xffff);
}

// Bytes of block `block`, checked: gaps, frequencies, codes.
struct Parts {
    const std::uint8_t *gaps, *tfs, *codes;
};
Parts parts_of(const BlockList& list, std::size_t block) {
    const Block& header = list.blocks[block];
    const std::size_t n = list.length(block);
    require(header.gap_bits <= 31 && header.tf_bits <= 32 && header.last < list.rows, "a block's header is out of range");
    const std::size_t gaps = n == kBlock ? 16u * header.gap_bits : run_bytes(n, header.gap_bits);
    const std::size_t tfs = n == kBlock ? 16u * header.tf_bits : run_bytes(n, header.tf_bits);
    require(header.offset <= list.n_bytes && gaps + tfs + (list.codes ? n : 0) + kSlack <= list.n_bytes - header.offset,
            "a block lies outside the payload");
    const std::uint8_t* at = list.bytes + header.offset;
    return {at, at + gaps, at + gaps + tfs};
}

// gaps - 1 into rows, in place; every row must be below `rows`. Sums cannot wrap unnoticed: 128 gaps of up to 24 bits stay below 2^32.
void sum_gaps(std::uint32_t* values, std::size_t n, std::uint32_t before, unsigned bits, std::uint32_t last) {
    if (bits <= 24) {
        for (std::size_t i = 0; i < n; ++i) values[i] = before += values[i] + 1;
    } else {
        std::uint64_t row = before == kNone ? 0 : std::uint64_t{before} + 1;
        for (std::size_t i = 0; i < n; ++i, ++row) {
            row += values[i];
            require(row <= last, "a block's rows leave the segment");
            values[i] = static_cast<std::uint32_t>(row);
        }
    }
    require(values[n - 1] == last, "a block's rows do not end where its header says");
}

void sum_block(std::uint32_t* values, std::uint32_t before, std::uint32_t last) {
    Lanes carry = Lanes{} + before;
    for (std::size_t i = 0; i < kBlock; i += 4) {
        Lanes x;
        std::memcpy(&x, values + i, 16);
        x += 1;
        x += __builtin_shufflevector(x, Lanes{}, 4, 0, 1, 2);
        x += __builtin_shufflevector(x, Lanes{}, 4, 4, 0, 1);
        x += carry;
        std::memcpy(values + i, &x, 16);
        carry = __builtin_shufflevector(x, x, 3, 3, 3, 3);
    }
    require(values[kBlock - 1] == last, "a block's rows do not end where its header says");
}

struct Run {
    const std::uint8_t *gaps, *tfs;
    unsigned gap_bits, tf_bits;
};
Run run_of(const SegmentView& segment, const TermEntry& entry) {
    const std::size_t n = entry.df, size = segment.payload.size();
    require(entry.where <= size && size - entry.where >= 2 + kSlack, "a list lies outside the payload");
    const std::uint8_t* at = segment.payload.data() + entry.where;
    const Run run{at + 2, at + 2 + run_bytes(n, at[0]), at[0], at[1]};
    require(run.gap_bits <= 31 && run.tf_bits <= 32, "a list's widths are out of range");
    require(run_bytes(n, run.gap_bits) + run_bytes(n, run.tf_bits) <= size - entry.where - 2 - kSlack, "a list lies outside the payload");
    return run;
}

}  // namespace

bool is_block_list(const SegmentView& segment, std::uint32_t term) {
    const std::uint32_t df = segment.terms[term].df;
    return (df & kInline) == 0 && df >= kBlock;
}

BlockList block_list(const SegmentView& segment, std::uint32_t term) {
    const TermEntry& entry = segment.terms[term];
    BlockList list;
    list.df = entry.df;
    list.rows = segment.rows();
    const std::size_t n = (std::size_t{list.df} + kBlock - 1) / kBlock, from = entry.first;
    require(list.df <= list.rows, "a term has more postings than there are documents");
    require(from < segment.blocks.size() && n <= segment.blocks.size() - from - 1, "a list's blocks lie outside their table");
    require(entry.where <= segment.payload.size(), "a list lies outside the payload");
    list.summary = &segment.blocks[from];
    list.blocks = segment.blocks.subspan(from + 1, n);
    list.bytes = segment.payload.data() + entry.where;
    list.n_bytes = segment.payload.size() - static_cast<std::size_t>(entry.where);
    list.codes = segment.codes && !std::binary_search(segment.dense_terms.begin(), segment.dense_terms.end(), term);
    return list;
}

void decode_rows(const BlockList& list, std::size_t block, std::uint32_t* out) {
    const Parts parts = parts_of(list, block);
    const Block& header = list.blocks[block];
    const std::uint32_t before = block == 0 ? kNone : list.blocks[block - 1].last;
    require(block == 0 || header.last > before, "blocks are not in order");
    const std::size_t n = list.length(block);
    if (n == kBlock) {
        unpack_block(parts.gaps, header.gap_bits, out);
        if (header.gap_bits <= 24) return sum_block(out, before, header.last);
    } else {
        for (std::size_t i = 0; i < n; ++i) out[i] = unpack_run_one(parts.gaps, header.gap_bits, i);
    }
    sum_gaps(out, n, before, header.gap_bits, header.last);
}

Frequencies frequencies(const BlockList& list, std::size_t block) {
    return {parts_of(list, block).tfs, list.blocks[block].tf_bits, list.length(block) == kBlock};
}

void decode_frequencies(const BlockList& list, std::size_t block, std::uint32_t* out) {
    const Parts parts = parts_of(list, block);
    const unsigned bits = list.blocks[block].tf_bits;
    const std::size_t n = list.length(block);
    if (n == kBlock) {
        unpack_block(parts.tfs, bits, out);
    } else {
        for (std::size_t i = 0; i < n; ++i) out[i] = unpack_run_one(parts.tfs, bits, i);
    }
    for (std::size_t i = 0; i < n; ++i) ++out[i];
}

const std::uint8_t* codes_of(const BlockList& list, std::size_t block) { return parts_of(list, block).codes; }

void decode_list(const SegmentView& segment, std::uint32_t term, std::vector<std::uint32_t>& rows, std::vector<std::uint32_t>& tfs) {
    const TermEntry& entry = segment.terms[term];
    const std::size_t start = rows.size(), df = segment.df(term);
    require(df <= segment.rows(), "a term has more postings than there are documents");
    rows.resize(start + df);
    tfs.resize(start + df);
    std::uint32_t *row = rows.data() + start, *tf = tfs.data() + start;
    if ((entry.df & kInline) != 0) {
        require(df == 1 || df == 2, "an inline list has a length that it cannot have");
        row[0] = entry.first;
        tf[0] = static_cast<std::uint32_t>(df == 1 ? entry.where : entry.where >> 32 & 0xffff);
        if (df == 2) {
            row[1] = static_cast<std::uint32_t>(entry.where);
            tf[1] = static_cast<std::uint32_t>(entry.where >> 48);
        }
        require(row[0] < segment.rows() && (df == 1 || (row[1] > row[0] && row[1] < segment.rows())), "an inline list leaves the segment");
    } else if (df >= kBlock) {
        const BlockList list = block_list(segment, term);
        std::uint32_t buffer[kBlock];
        for (std::size_t b = 0; b < list.blocks.size(); ++b) {
            const std::size_t n = list.length(b);
            decode_rows(list, b, buffer);
            std::copy_n(buffer, n, row + b * kBlock);
            decode_frequencies(list, b, buffer);
            std::copy_n(buffer, n, tf + b * kBlock);
        }
    } else if (df > 0) {
        const Run run = run_of(segment, entry);
        std::uint64_t next = 0;  // the smallest row that may follow
        for (std::size_t i = 0; i < df; ++i) {
            next += unpack_run_one(run.gaps, run.gap_bits, i);
            require(next < segment.rows(), "a list's rows leave the segment");
            row[i] = static_cast<std::uint32_t>(next++);
            tf[i] = 1 + unpack_run_one(run.tfs, run.tf_bits, i);
        }
    }
    for (std::size_t i = 0; i < df; ++i) require(tf[i] >= 1, "a frequency is 0");
}

void SegmentWriter::add(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs) {
    TermEntry entry{static_cast<std::uint32_t>(rows.size()), 0, taken_ + payload.size()};
    n_postings += rows.size();
    if (fits_inline(tfs)) {
        entry.df |= kInline;
        entry.first = rows[0];
        entry.where = rows.size() == 1 ? tfs[0] : std::uint64_t{rows[1]} | std::uint64_t{tfs[0]} << 32 | std::uint64_t{tfs[1]} << 48;
    } else if (rows.size() >= kBlock) {
        add_blocks(rows, tfs, entry);
    } else if (!rows.empty()) {
        add_run(rows, tfs);
    }
    terms.push_back(entry);
}

void SegmentWriter::add_run(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs) {
    gaps_.resize(rows.size());
    less_.resize(rows.size());
    std::uint32_t before = kNone, widest = 0, most = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        gaps_[i] = rows[i] - before - 1;
        less_[i] = tfs[i] - 1;
        before = rows[i];
        widest = std::max(widest, gaps_[i]);
        most = std::max(most, less_[i]);
    }
    payload.push_back(static_cast<std::uint8_t>(bits_for(widest)));
    payload.push_back(static_cast<std::uint8_t>(bits_for(most)));
    pack_run(gaps_, bits_for(widest), payload);
    pack_run(less_, bits_for(most), payload);
}

Block SegmentWriter::bounds(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs) const {
    std::uint32_t tf[2] = {0, 0}, length[2] = {kNone, kNone};
    tf[0] = *std::max_element(tfs.begin(), tfs.end());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const int pair = tfs[i] < tf[0];
        tf[1] = pair ? std::max(tf[1], tfs[i]) : tf[1];
        length[pair] = std::min(length[pair], lengths_[rows[i]]);
    }
    Block block{};
    for (int p = 0; p < 2; ++p) {
        block.tf[p] = static_cast<std::uint8_t>(std::min<std::uint32_t>(tf[p], 255));
        block.length[p] = static_cast<std::uint16_t>(std::min<std::uint32_t>(length[p], 65535));
    }
    return block;
}

void SegmentWriter::add_blocks(std::span<const std::uint32_t> rows, std::span<const std::uint32_t> tfs, TermEntry& entry) {
    entry.first = static_cast<std::uint32_t>(blocks.size());
    const std::size_t start_of_list = payload.size();
    const bool is_dense = codes_ && rows.size() * kDenseShare >= lengths_.size();
    if (is_dense) {
        dense_terms.push_back(static_cast<std::uint32_t>(terms.size()));
        dense.resize(dense.size() + lengths_.size(), 0);
    }
    blocks.push_back(bounds(rows, tfs));
    blocks.back().last = rows.back();
    gaps_.resize(kBlock);
    less_.resize(kBlock);
    std::uint32_t before = kNone;
    for (std::size_t start = 0; start < rows.size(); start += kBlock) {
        const std::size_t n = std::min(kBlock, rows.size() - start);
        std::uint32_t widest = 0, most = 0;
        for (std::size_t i = 0; i < n; ++i) {
            gaps_[i] = rows[start + i] - before - 1;
            less_[i] = tfs[start + i] - 1;
            before = rows[start + i];
            widest |= gaps_[i];
            most |= less_[i];
        }
        Block block = bounds(rows.subspan(start, n), tfs.subspan(start, n));
        const std::size_t offset = payload.size() - start_of_list;
        if (offset > kNone || blocks.size() >= kNone) throw std::length_error("a segment is too large: use more segments");
        block.last = before;
        block.offset = static_cast<std::uint32_t>(offset);
        block.gap_bits = static_cast<std::uint8_t>(bits_for(widest));
        block.tf_bits = static_cast<std::uint8_t>(bits_for(most));
        if (n == kBlock) {
            pack_block(gaps_.data(), block.gap_bits, payload);
            pack_block(less_.data(), block.tf_bits, payload);
        } else {
            pack_run(std::span(gaps_).first(n), block.gap_bits, payload);
            pack_run(std::span(less_).first(n), block.tf_bits, payload);
        }
        std::uint8_t* row_of_codes = is_dense ? dense.data() + dense.size() - lengths_.size() : nullptr;
        for (std::size_t i = start; i < start + n && codes_; ++i) {
            const std::uint8_t code = coding_.code(tfs[i], coding_.unit(lengths_[rows[i]]));
            if (is_dense) {
                row_of_codes[rows[i]] = code;
            } else {
                payload.push_back(code);
            }
        }
        blocks.push_back(block);
    }
}

void write_documents(SegmentWriter& writer, std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets, std::size_t n_terms,
                     std::span<const std::uint32_t> counts) {
    // Counting sort of (term, document) by term; documents come in order, so each term's are ascending, repeats behind one another.
    std::vector<std::uint64_t> next(n_terms + 1, 0);
    for (const std::int32_t term : tokens) ++next[static_cast<std::size_t>(term) + 1];
    for (std::size_t t = 1; t < next.size(); ++t) next[t] += next[t - 1];
    std::vector<std::uint32_t> owner(tokens.size()), many(counts.size());
    for (std::size_t row = 0; row + 1 < offsets.size(); ++row)
        for (auto i = static_cast<std::size_t>(offsets[row]); i < static_cast<std::size_t>(offsets[row + 1]); ++i) {
            const std::size_t place = next[static_cast<std::size_t>(tokens[i])]++;
            owner[place] = static_cast<std::uint32_t>(row);
            if (!counts.empty()) many[place] = counts[i];
        }
    std::vector<std::uint32_t> rows, tfs;
    for (std::size_t t = 0; t < n_terms; ++t) {
        rows.clear();
        tfs.clear();
        for (std::size_t i = t == 0 ? 0 : next[t - 1]; i < next[t]; ++i) {  // next[t] has moved to the end of term t
            const std::uint32_t count = counts.empty() ? 1 : many[i];
            if (!rows.empty() && rows.back() == owner[i]) {
                tfs.back() += count;
            } else {
                rows.push_back(owner[i]);
                tfs.push_back(count);
            }
        }
        writer.add(rows, tfs);
    }
}

}  // namespace rerank

#include "segments.hpp"

#include <algorithm>

#include "strings.hpp"

namespace rerank {

namespace {

void put_varint(std::vector<std::uint8_t>& out, std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 0x80));
    out.push_back(static_cast<std::uint8_t>(value));
}

std::uint64_t take_varint(std::span<const std::uint8_t> bytes, std::size_t& at) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 42; shift += 7) {
        require(at < bytes.size(), "a document's terms end too early");
        const std::uint8_t byte = bytes[at++];
        value |= std::uint64_t{byte & 0x7fu} << shift;
        if (byte < 0x80) return value;
    }
    throw Damaged("a document's terms hold a number that is too long");
}

}  // namespace

void Forward::add(std::span<const std::uint32_t> terms, std::span<const std::uint32_t> tfs) {
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < terms.size(); ++i) {
        put_varint(bytes, (terms[i] - next) * 2 + (tfs[i] > 1));
        if (tfs[i] > 1) put_varint(bytes, tfs[i] - 2);
        next = std::uint64_t{terms[i]} + 1;
    }
    offsets.push_back(static_cast<std::int64_t>(bytes.size()));
}

void ForwardView::read(std::size_t row, std::size_t n_terms, std::vector<std::uint32_t>& terms, std::vector<std::uint32_t>& tfs) const {
    require(row + 1 < offsets.size() && offsets[row] >= 0 && offsets[row] <= offsets[row + 1] &&
                static_cast<std::uint64_t>(offsets[row + 1]) <= bytes.size(),
            "a document's terms lie outside their table");
    const std::span<const std::uint8_t> mine = bytes.first(static_cast<std::size_t>(offsets[row + 1]));
    std::uint64_t next = 0;
    for (auto at = static_cast<std::size_t>(offsets[row]); at < mine.size();) {
        const std::uint64_t step = take_varint(mine, at), tf = (step & 1) != 0 ? take_varint(mine, at) + 2 : 1;
        next += step / 2;
        require(next < n_terms && tf <= 0xffffffffu, "a document's terms are out of range");
        terms.push_back(static_cast<std::uint32_t>(next++));
        tfs.push_back(static_cast<std::uint32_t>(tf));
    }
}

Forward forward_of(std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets) {
    Forward out;
    std::vector<std::int32_t> document;
    std::vector<std::uint32_t> terms, tfs;
    for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
        document.assign(tokens.begin() + offsets[row], tokens.begin() + offsets[row + 1]);
        std::sort(document.begin(), document.end());
        terms.clear();
        tfs.clear();
        for (const std::int32_t term : document) {
            if (!terms.empty() && terms.back() == static_cast<std::uint32_t>(term)) {
                ++tfs.back();
            } else {
                terms.push_back(static_cast<std::uint32_t>(term));
                tfs.push_back(1);
            }
        }
        out.add(terms, tfs);
    }
    return out;
}

std::vector<std::int32_t> dead_frequencies(const SegmentView& segment, std::span<const std::uint8_t> dead) {
    std::vector<std::int32_t> out(segment.terms.size(), 0);
    std::vector<std::uint32_t> rows, tfs;
    for (std::size_t t = 0; t < out.size(); ++t) {
        rows.clear();
        tfs.clear();
        decode_list(segment, static_cast<std::uint32_t>(t), rows, tfs);
        for (const std::uint32_t row : rows) out[t] += is_dead(dead, row);
    }
    return out;
}

std::vector<std::uint32_t> live_lengths(const std::vector<MergeInput>& inputs) {
    std::vector<std::uint32_t> lengths;
    for (const MergeInput& input : inputs)
        for (std::size_t row = 0; row < input.view.rows(); ++row)
            if (!is_dead(input.dead, row)) lengths.push_back(input.view.lengths[row]);
    return lengths;
}

Merge::Merge(std::vector<MergeInput> inputs, std::vector<std::uint32_t> lengths, std::size_t n_terms, const Coding& coding, bool codes)
    : inputs_(std::move(inputs)), lengths_(std::move(lengths)), writer_(lengths_, coding, codes), at_(inputs_.size(), 0), n_terms_(n_terms) {
    std::uint32_t next = 0;
    for (const MergeInput& input : inputs_) {
        auto& rows = rows_.emplace_back(input.view.rows(), kUnused);
        for (std::size_t row = 0; row < rows.size(); ++row)
            if (!is_dead(input.dead, row)) rows[row] = next++;
    }
}

bool Merge::step(std::size_t bytes) {
    std::vector<std::uint32_t> rows, tfs;
    while (writer_.terms.size() < n_terms_) {
        if (writer_.payload.size() >= bytes) return true;
        rows.clear();
        tfs.clear();
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
            const MergeInput& input = inputs_[i];
            while (at_[i] < input.places.size() && input.places[at_[i]] == kUnused) ++at_[i];
            if (at_[i] == input.places.size() || input.places[at_[i]] != writer_.terms.size()) continue;
            const std::size_t start = rows.size();
            decode_list(input.view, static_cast<std::uint32_t>(at_[i]++), rows, tfs);
            std::size_t kept = start;
            for (std::size_t j = start; j < rows.size(); ++j)
                if (const std::uint32_t row = rows_[i][rows[j]]; row != kUnused) {
                    rows[kept] = row;
                    tfs[kept++] = tfs[j];
                }
            rows.resize(kept);
            tfs.resize(kept);
        }
        writer_.add(rows, tfs);
    }
    return false;
}

Forward Merge::forward() const {
    Forward out;
    std::vector<std::uint32_t> terms, tfs;
    for (const MergeInput& input : inputs_)
        for (std::size_t row = 0; row < input.view.rows(); ++row) {
            if (is_dead(input.dead, row)) continue;
            terms.clear();
            tfs.clear();
            input.forward.read(row, input.places.size(), terms, tfs);
            for (std::uint32_t& term : terms) {
                term = input.places[term];
                require(term != kUnused, "a document's terms are not those of its postings");
            }
            out.add(terms, tfs);
        }
    return out;
}

}  // namespace rerank

// The windowed scorer. It walks the rows in windows of 4K to 64K. In each, the lists that alone could lift a document into the top k (the
// essential ones) add quantised upper bounds of their contributions to an array of 16-bit sums; documents whose sum, with all that the
// other lists could add, reaches the floor are looked up in those lists; what still reaches it is kept. The floor rises with a
// histogram of the kept sums, less the largest error that quantising can have made. In the end the kept documents are scored exactly.
//
// With s the quantum, Q a document's sum and X its true score: X <= s Q and X >= s (Q - error). If k documents have Q >= T, then no
// document with Q < T - error is among the best k. Pruning by lists and blocks is MaxScore (Turtle and Flood, 1995) with block maxima
// (Ding and Suel, 2011).
#include "bm25_window.hpp"

#include <bit>

namespace rerank {

namespace {

constexpr double kMostImpact = 60000;  // what all terms together may add to a 16-bit sum; rounding up adds at most 2 per term
constexpr unsigned kBinShift = 6;      // the histogram's bins are 64 wide
constexpr double kSparse = 32;         // rows per posting from which touched rows are listed: a sweep costs about 0.04 ns a row, a note 1 ns
constexpr std::uint32_t kRare = 32;    // a list in fewer than every kRare-th row is walked sooner than its blocks' bounds are worked out
constexpr double kWalk = 8;            // postings that are walked in the time of one look-up
constexpr std::uint32_t kEnd = 0xffffffffu;

// The first place of [from, n) whose row is not below `row`, or n: no branch to guess wrong.
std::size_t first_not_below(const std::uint32_t* rows, std::size_t from, std::size_t n, std::uint32_t row) {
    const std::uint32_t* base = rows + from;
    for (std::size_t left = n - from; left > 0;) {
        const std::size_t half = (left + 1) / 2;
        base = base[half - 1] < row ? base + half : base;
        left -= half;
    }
    return static_cast<std::size_t>(base - rows);
}

class Windows {
public:
    Windows(const Source& source, const CodeBounds& bounds, const Gain& gain, const Allowed& allowed, std::size_t k, WindowScratch& scratch)
        : view_(source.view), bounds_(bounds), gain_(gain), allowed_(allowed), k_(k), s_(scratch),
          most_tf_(gain.unlimited() ? std::max(255u, source.longest) : 4e9) {}

    std::uint32_t run(std::span<const Wanted> terms, double floor, double constant, Deadline deadline, std::vector<Scored>& out) {
        prepare(terms, constant);
        if (floor > 0) floor_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(floor / quantum_ * (1 - 1e-6), 1e6)) - 1);
        std::fill(s_.histogram.begin(), s_.histogram.end(), 0u);
        s_.kept.clear();
        std::uint32_t low = 0;
        for (std::uint32_t width = kMinWindow; low < view_.rows() && !deadline.passed();) {
            const std::uint32_t high = std::min(view_.rows(), low + width);
            search(low, high);
            width = std::min(widest(), width * 2);
            low = std::max(high, next_row(high));
        }
        rescore(terms, out);
        return std::min(low, view_.rows());
    }

private:
    double part(std::uint32_t tf, std::uint32_t length, double weight) const { return weight * gain_(tf, gain_.norm(length)); }
    double bound_of(const Block& block, double weight) const {
        double most = 0;
        for (int p = 0; p < 2; ++p) {
            if (block.tf[p] == 0) continue;
            const double tf = block.tf[p] == 255 ? most_tf_ : block.tf[p];
            most = std::max(most, weight * gain_(tf, gain_.norm(std::max<std::uint32_t>(block.length[p], 1))));
        }
        return most;
    }
    // Rounding may have left a hair less than 0 (bm25l subtracts).
    std::uint32_t quantised(double value) const {
        return value > 0 ? static_cast<std::uint32_t>(std::min(std::ceil(value / quantum_), kMostImpact)) + 1 : 1;
    }

    // Finds every term's list and bound, sets the quantum, and quantises: codes where they are sharp enough, else tf and length.
    void prepare(std::span<const Wanted> terms, double constant) {
        s_.lists.resize(terms.size());
        s_.short_rows.clear();
        s_.short_tfs.clear();
        s_.short_values.clear();
        std::vector<double> most(terms.size(), 0);
        double sum = 0, code_error = 0;
        for (std::size_t i = 0; i < terms.size(); ++i) {
            List& list = s_.lists[i];
            list.weight = terms[i].weight;
            list.df = view_.df(terms[i].term);
            list.is_short = !is_block_list(view_, terms[i].term);
            list.dense = nullptr;
            if (list.is_short) {
                list.begin = list.next = s_.short_rows.size();
                decode_list(view_, terms[i].term, s_.short_rows, s_.short_tfs);
                list.end = s_.short_rows.size();
                for (std::size_t j = list.begin; j < list.end; ++j) {
                    s_.short_values.push_back(part(s_.short_tfs[j], view_.lengths[s_.short_rows[j]], list.weight));
                    most[i] = std::max(most[i], s_.short_values.back());
                }
            } else {
                list.blocks = block_list(view_, terms[i].term);
                list.block = list.at = list.header = 0;
                list.decoded = false;
                most[i] = bound_of(*list.blocks.summary, list.weight);
                code_error += list.weight * bounds_.error(*list.blocks.summary, view_.coding);
            }
            sum += most[i];
        }
        quantum_ = sum / kMostImpact;
        if (quantum_ < 1e-300) quantum_ = 1;
        codes_ = view_.codes && code_error < 0.1 * sum;
        // Beside a large constant, scores that differ by several quanta are one float32, and among those the lower row wins.
        error_ = static_cast<std::int64_t>(std::min(std::ceil(constant * 0x1p-23 / quantum_), 1e6));
        s_.short_impacts.resize(s_.short_values.size());
        for (std::size_t i = 0; i < terms.size(); ++i) {
            List& list = s_.lists[i];
            list.bound = quantised(most[i]);
            error_ += 3;
            if (list.is_short) {
                for (std::size_t j = list.begin; j < list.end; ++j) s_.short_impacts[j] = static_cast<std::uint16_t>(quantised(s_.short_values[j]));
            } else if (codes_) {
                prepare_codes(list, terms[i].term);
            }
        }
    }

    void prepare_codes(List& list, std::uint32_t term) {
        for (int c = 1; c < 256; ++c)
            list.impact_of[c] = static_cast<std::uint16_t>(std::min(list.bound, quantised(list.weight * bounds_.high[c])));
        error_ += static_cast<std::int64_t>(std::ceil(list.weight * bounds_.error(*list.blocks.summary, view_.coding) / quantum_));
        const auto at = std::lower_bound(view_.dense_terms.begin(), view_.dense_terms.end(), term);
        list.impact_of[0] = 1;  // no posting has this code unless the list is damaged; and a touched sum is never 0
        if (at == view_.dense_terms.end() || *at != term) return;
        list.impact_of[0] = 0;
        const std::size_t from = static_cast<std::size_t>(at - view_.dense_terms.begin()) * view_.rows();
        require(view_.dense.size() >= view_.rows() && from <= view_.dense.size() - view_.rows(), "a row of codes lies outside its table");
        list.dense = view_.dense.data() + from;
    }

    // As wide as holds some thousand postings of the lists that have to be walked.
    std::uint32_t widest() const {
        double postings = 1;
        for (const std::uint32_t i : s_.essential) postings += s_.lists[i].df;
        const double rows = 4096.0 * view_.rows() / postings;
        return rows >= kMaxWindow ? kMaxWindow : std::max(kMinWindow, std::bit_ceil(static_cast<std::uint32_t>(rows)));
    }

    // Decodes the block that the list stands in.
    void load(List& list) {
        if (list.decoded) return;
        decode_rows(list.blocks, list.block, list.rows);
        list.decoded = true;
        if (codes_ && list.blocks.codes) {
            list.codes = codes_of(list.blocks, list.block);
            return;
        }
        list.codes = nullptr;
        std::uint32_t tfs[kBlock];
        decode_frequencies(list.blocks, list.block, tfs);
        for (std::size_t i = 0; i < list.blocks.length(list.block); ++i)
            list.impacts[i] = static_cast<std::uint16_t>(std::min(list.bound, quantised(part(tfs[i], view_.lengths[list.rows[i]], list.weight))));
    }
    std::uint32_t impact(const List& list, std::size_t i) const { return list.codes ? list.impact_of[list.codes[i]] : list.impacts[i]; }
    void next_block(List& list) {
        ++list.block;
        list.at = 0;
        list.decoded = false;
    }
    bool done(const List& list) const { return list.block == list.blocks.blocks.size(); }
    // Moves a list of blocks to its first row that is not below `row`; false at its end.
    bool seek(List& list, std::uint32_t row) {
        while (!done(list) && list.blocks.blocks[list.block].last < row) next_block(list);
        if (done(list)) return false;
        load(list);
        list.at = first_not_below(list.rows, list.at, list.blocks.length(list.block), row);
        return true;
    }

    // A lower bound of the next row that any list holds, at least `row`.
    std::uint32_t next_row(std::uint32_t row) const {
        std::uint32_t nearest = kEnd;
        for (const List& list : s_.lists) {
            if (list.is_short) {
                if (list.next < list.end) nearest = std::min(nearest, s_.short_rows[list.next]);
            } else if (list.dense != nullptr) {
                return row;
            } else if (!done(list)) {
                const std::uint32_t before = list.block == 0 ? 0 : list.blocks.blocks[list.block - 1].last + 1;
                nearest = std::min(nearest, list.decoded ? list.rows[list.at] : before);
            }
        }
        return std::max(nearest, row);
    }

    // What the list can add within [low, high).
    std::uint32_t window_bound(List& list, std::uint32_t low, std::uint32_t high) const {
        if (list.is_short) {
            while (list.next < list.end && s_.short_rows[list.next] < low) ++list.next;
            return list.next < list.end && s_.short_rows[list.next] < high ? list.bound : 0;
        }
        if (list.dense != nullptr || floor_ <= 1 || std::uint64_t{list.df} * kRare < view_.rows()) return list.bound;
        const auto& blocks = list.blocks.blocks;
        while (list.header < blocks.size() && blocks[list.header].last < low) ++list.header;
        double most = -1;
        for (std::size_t b = list.header; b < blocks.size() && (b == 0 || blocks[b - 1].last + 1 < high); ++b)
            most = std::max(most, bound_of(blocks[b], list.weight));
        return most < 0 ? 0 : std::min(list.bound, quantised(most));
    }

    // Splits the lists: `others` together stay below the floor and are cheaper to look up than to walk. False: nothing here can reach it.
    bool split(std::uint32_t low, std::uint32_t high) {
        s_.essential.clear();
        s_.others.clear();
        std::int64_t sum = 0;
        for (std::uint32_t i = 0; i < s_.lists.size(); ++i) {
            List& list = s_.lists[i];
            list.window_bound = window_bound(list, low, high);
            sum += list.window_bound;
            if (list.window_bound > 0) s_.essential.push_back(i);
        }
        if (sum < floor_ || s_.essential.empty()) return false;
        others_bound_ = 0;
        if (floor_ <= 1) return true;
        std::sort(s_.essential.begin(), s_.essential.end(),
                  [&](std::uint32_t a, std::uint32_t b) { return s_.lists[a].window_bound < s_.lists[b].window_bound; });
        // As many documents may be looked up as the essential lists have postings here. In a list of blocks each costs about as much as
        // walking kWalk postings; in a row of codes little more than a step of a walk over the whole row.
        const double width = high - low, share = width / view_.rows();
        double rest = 0;
        for (const std::uint32_t i : s_.essential) rest += s_.lists[i].df * share;
        std::erase_if(s_.essential, [&](std::uint32_t i) {
            const List& list = s_.lists[i];
            if (list.is_short || others_bound_ + list.window_bound >= floor_) return false;
            const double own = list.df * share;
            if (list.dense != nullptr ? rest - own > width : kWalk * (rest - own) > own) return false;
            rest -= own;
            others_bound_ += list.window_bound;
            s_.others.push_back(i);
            return true;
        });
        return true;
    }

    template <bool Touch>
    void add(std::uint16_t& sum, std::uint32_t at, std::uint32_t value) {
        if constexpr (Touch) {
            s_.touched[n_touched_] = at;
            n_touched_ += sum == 0;
        }
        sum = static_cast<std::uint16_t>(sum + value);
    }

    template <bool Touch>
    void walk(List& list, std::uint32_t low, std::uint32_t high) {
        std::uint16_t* sums = s_.sums.data();
        if (list.is_short) {
            for (; list.next < list.end && s_.short_rows[list.next] < high; ++list.next) {
                const std::uint32_t at = s_.short_rows[list.next] - low;
                add<Touch>(sums[at], at, s_.short_impacts[list.next]);
            }
            return;
        }
        if (list.dense != nullptr) {
            for (std::uint32_t row = low; row < high; ++row)
                if (!Touch || list.dense[row] != 0) add<Touch>(sums[row - low], row - low, list.impact_of[list.dense[row]]);
            return;
        }
        if (!seek(list, low)) return;
        while (true) {
            const std::size_t n = list.blocks.length(list.block);
            const bool whole = list.blocks.blocks[list.block].last < high;
            const std::size_t end = whole ? n : first_not_below(list.rows, list.at, n, high);
            if (list.codes != nullptr) {
                for (std::size_t i = list.at; i < end; ++i) add<Touch>(sums[list.rows[i] - low], list.rows[i] - low, list.impact_of[list.codes[i]]);
            } else {
                for (std::size_t i = list.at; i < end; ++i) add<Touch>(sums[list.rows[i] - low], list.rows[i] - low, list.impacts[i]);
            }
            list.at = end;
            if (!whole) return;
            const std::uint32_t last = list.blocks.blocks[list.block].last;
            next_block(list);
            if (done(list) || last + 1 >= high) return;
            load(list);
        }
    }

    void search(std::uint32_t low, std::uint32_t high) {
        if (!split(low, high)) return;
        double postings = 0;
        for (const std::uint32_t i : s_.essential) postings += s_.lists[i].df;
        const bool sparse = postings * kSparse < view_.rows();
        n_touched_ = 0;
        for (const std::uint32_t i : s_.essential) sparse ? walk<true>(s_.lists[i], low, high) : walk<false>(s_.lists[i], low, high);
        const auto need = static_cast<std::uint16_t>(std::clamp<std::int64_t>(floor_ - others_bound_, 1, 65535));
        std::size_t n = 0;
        if (sparse) {
            for (std::size_t i = 0; i < n_touched_; ++i) {
                std::uint16_t& sum = s_.sums[s_.touched[i]];
                if (sum >= need) s_.window[n++] = {low + s_.touched[i], sum};
                sum = 0;
            }
            std::sort(s_.window.data(), s_.window.data() + n, [](const Candidate& a, const Candidate& b) { return a.row < b.row; });
        } else {
            n = s_.sweep(s_.sums.data(), high - low, need, low, s_.window.data());
        }
        n = look_up(n);
        for (std::size_t i = 0; i < n; ++i) keep(s_.window[i]);
        if (s_.kept.size() > 2 * most_kept_) drop_below_floor();
    }

    // Adds what the other lists hold of the window's first n candidates, the strongest list first; how many still reach the floor.
    std::size_t look_up(std::size_t n) {
        std::int64_t rest = others_bound_;
        for (std::size_t o = s_.others.size(); o-- > 0 && n > 0;) {
            List& list = s_.lists[s_.others[o]];
            rest -= list.window_bound;
            const std::size_t before = std::exchange(n, 0);
            for (std::size_t i = 0; i < before; ++i) {
                Candidate c = s_.window[i];
                if (c.impact + rest + list.window_bound < floor_) continue;
                if (list.dense != nullptr) {
                    c.impact += list.impact_of[list.dense[c.row]];
                } else if (seek(list, c.row) && list.rows[list.at] == c.row) {
                    c.impact += impact(list, list.at);
                }
                if (c.impact + rest >= floor_) s_.window[n++] = c;
            }
        }
        return n;
    }

    void keep(const Candidate& c) {
        if (c.impact < floor_ || (allowed_.any() && !allowed_(c.row))) return;
        s_.kept.push_back(c);
        const std::size_t bin = c.impact >> kBinShift;
        ++s_.histogram[bin];
        if (bin < bin_) return;
        ++above_;
        while (above_ - s_.histogram[bin_] >= k_) {
            above_ -= s_.histogram[bin_++];
            floor_ = std::max(floor_, (static_cast<std::int64_t>(bin_) << kBinShift) - error_);
        }
    }

    void drop_below_floor() {
        std::erase_if(s_.kept, [&](const Candidate& c) { return c.impact < floor_; });
        most_kept_ = std::max(most_kept_, s_.kept.size());
    }

    // Exact scores of what is left, term by term in the order of the query.
    void rescore(std::span<const Wanted> terms, std::vector<Scored>& out) {
        drop_below_floor();
        s_.norms.clear();
        for (const Candidate& c : s_.kept) {  // together, so that the lengths, spread all over memory, are waited for but once
            s_.norms.push_back(gain_.norm(view_.lengths[c.row]));
            out.push_back({c.row, 0});
        }
        for (std::size_t i = 0; i < terms.size(); ++i) {
            List& list = s_.lists[i];
            list.next = list.begin;
            list.block = list.at = 0;
            list.decoded = false;
            for (std::size_t c = 0; c < out.size(); ++c) {
                const std::uint32_t tf = frequency_of(list, out[c].row);
                if (tf > 0) out[c].score += list.weight * gain_(tf, s_.norms[c]);
            }
        }
    }

    std::uint32_t frequency_of(List& list, std::uint32_t row) {
        if (list.is_short) {
            while (list.next < list.end && s_.short_rows[list.next] < row) ++list.next;
            return list.next < list.end && s_.short_rows[list.next] == row ? s_.short_tfs[list.next] : 0;
        }
        if (list.dense != nullptr) {
            if (list.dense[row] == 0) return 0;
            if (const std::uint32_t tf = from_code(list.dense[row], view_.lengths[row]); tf > 0) return tf;
        }
        while (!done(list) && list.blocks.blocks[list.block].last < row) next_block(list);
        if (done(list)) return 0;
        if (!list.decoded) {
            decode_rows(list.blocks, list.block, list.rows);
            list.frequencies = frequencies(list.blocks, list.block);
            list.decoded = true;
        }
        // Candidates are often near each other: the next 16 rows first.
        const std::size_t n = list.blocks.length(list.block), near = std::min(n, list.at + 16);
        list.at = list.rows[near - 1] < row ? first_not_below(list.rows, near, n, row) : first_not_below(list.rows, list.at, near, row);
        return list.rows[list.at] == row ? list.frequencies[list.at] : 0;
    }

    // The one frequency that a code can stand for, or 0 where several could. Of codes that are not exact: x(t) = t / (t + K) grows by K / ((t + K)(t + 1 + K)) per step,
    // and a code is 1/255 wide.
    std::uint32_t from_code(std::uint8_t code, std::uint32_t length) const {
        if (code == 255) return 0;
        if (view_.coding.exact()) return code;
        const double k = view_.coding.unit(length);
        const double t = std::floor(k * code / (255.0 - code) * (1 + 1e-9));
        return t >= 1 && (t + k) * (t + 1 + k) < 100 * k ? static_cast<std::uint32_t>(t) : 0;
    }

    const SegmentView& view_;
    const CodeBounds& bounds_;
    const Gain& gain_;
    const Allowed& allowed_;
    const std::size_t k_;
    WindowScratch& s_;
    const double most_tf_;  // what a frequency of 255 or more in a block's bounds stands for
    bool codes_ = false;
    double quantum_ = 1;
    std::int64_t floor_ = 1, error_ = 0, others_bound_ = 0;  // in quanta
    std::size_t bin_ = 0, above_ = 0, n_touched_ = 0, most_kept_ = 4096;
};

}  // namespace

std::uint32_t search_windows(const Source& source, const CodeBounds& bounds, const Gain& gain, std::span<const Wanted> terms, const Allowed& allowed,
                             std::size_t k, double floor, double constant, Deadline deadline, WindowScratch& scratch, std::vector<Scored>& out) {
    return Windows(source, bounds, gain, allowed, k, scratch).run(terms, floor, constant, deadline, out);
}

}  // namespace rerank

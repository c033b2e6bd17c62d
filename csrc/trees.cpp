#include "trees.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "pool.hpp"

namespace rerank {
namespace {

constexpr double zero_threshold = 1e-35f;  // LightGBM's kZeroThreshold: what lies within counts as 0 where 0 is missing
constexpr std::uint8_t nan_is_zero = 0, zero_is_missing = 1, raw = 3;
constexpr std::size_t blocks_a_piece = 4;
constexpr std::uint32_t words_a_group = 128;  // scanned together: their bits stay in the first-level cache

void require(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(std::string("trees: ") + what);
}

// value <= the result exactly where value <= threshold, for every value of float32.
float floor32(double threshold) {
    constexpr float most = std::numeric_limits<float>::max(), infinity = std::numeric_limits<float>::infinity();
    if (threshold >= static_cast<double>(most)) return threshold == std::numeric_limits<double>::infinity() ? infinity : most;
    if (threshold < -static_cast<double>(most)) return -infinity;
    const auto near = static_cast<float>(threshold);
    return static_cast<double>(near) > threshold ? std::nextafter(near, -infinity) : near;
}

void check_tree_offsets(std::span<const std::int64_t> offsets, std::size_t total, const char* what) {
    require(!offsets.empty() && offsets.front() == 0 && offsets.back() == static_cast<std::int64_t>(total), what);
    for (std::size_t i = 1; i < offsets.size(); ++i) require(offsets[i - 1] <= offsets[i], what);
}

// Memory that starts with a cache line: a vector register's load that reaches into the next line takes twice the time.
template <class T>
class Lines {
public:
    explicit Lines(std::size_t n) : memory_(n * sizeof(T) + 64), at_(memory_.data()) {
        std::size_t room = memory_.size();
        std::align(64, n * sizeof(T), at_, room);
    }
    Lines(const Lines&) = delete;  // at_ points into memory_
    Lines(Lines&&) = default;
    T* data() { return static_cast<T*>(at_); }

private:
    std::vector<std::byte> memory_;
    void* at_;
};

std::uint8_t missing_of(std::uint8_t flags) {
    return (flags & node_flags::categorical) ? raw : static_cast<std::uint8_t>(flags >> node_flags::missing_shift & 3);
}

}  // namespace

Trees::Trees(const TreesView& view, std::size_t n_features)
    : n_features_(n_features), base_(view.base), divisor_(view.divisor), narrow_(view.narrow), leaves_(view.leaves.begin(), view.leaves.end()),
      set_offsets_(view.set_offsets.begin(), view.set_offsets.end()), sets_(view.sets.begin(), view.sets.end()) {
    check(view);
    for (std::size_t i = 0; i < view.feature.size(); ++i)
        nodes_.push_back({view.threshold[i], view.feature[i], view.left[i], view.right[i], view.flags[i]});
    for (std::size_t t = 0; t + 1 < view.node_offsets.size(); ++t) {
        const auto n = static_cast<std::size_t>(view.leaf_offsets[t + 1] - view.leaf_offsets[t]);
        trees_.push_back({static_cast<std::size_t>(view.node_offsets[t]), static_cast<std::size_t>(view.leaf_offsets[t]), 0});
        wide_ |= n > 32 && n <= most_leaves;
    }
    for (std::size_t t = 0; t < trees_.size(); ++t) {
        const auto n = static_cast<std::size_t>(view.leaf_offsets[t + 1] - view.leaf_offsets[t]);
        if (n > most_leaves) continue;
        trees_[t].word = n_words_;
        n_words_ += trees_[t].words = static_cast<std::uint32_t>((n + 63) / 64);
    }
    lay_out(entries());
}

void Trees::check(const TreesView& view) const {
    const std::size_t n = view.feature.size();
    require(view.left.size() == n && view.right.size() == n && view.threshold.size() == n && view.flags.size() == n, "arrays of nodes differ in length");
    require(view.node_offsets.size() == view.leaf_offsets.size() && n < std::numeric_limits<std::int32_t>::max(), "too many nodes, or offsets differ");
    check_tree_offsets(view.node_offsets, n, "offsets of nodes");
    check_tree_offsets(view.leaf_offsets, view.leaves.size(), "offsets of leaves");
    check_tree_offsets(view.set_offsets, view.sets.size(), "offsets of sets");
    require(std::isfinite(view.base) && std::isfinite(view.divisor) && view.divisor > 0, "base and divisor");
    for (const double value : view.leaves) require(std::isfinite(value), "a leaf is not finite");
    for (std::size_t t = 0; t + 1 < view.node_offsets.size(); ++t) {
        const std::int64_t first = view.node_offsets[t], nodes = view.node_offsets[t + 1] - first, leaves = view.leaf_offsets[t + 1] - view.leaf_offsets[t];
        require(leaves == nodes + 1, "a tree has one leaf more than nodes");
        std::vector<bool> node_met(static_cast<std::size_t>(nodes)), leaf_met(static_cast<std::size_t>(leaves));
        for (std::int64_t i = 0; i < nodes; ++i) {
            const auto at = static_cast<std::size_t>(first + i);
            const bool categorical = view.flags[at] & node_flags::categorical;
            require(view.feature[at] >= 0 && static_cast<std::size_t>(view.feature[at]) < n_features_, "a feature that is not there");
            require(!std::isnan(view.threshold[at]), "a threshold is NaN");
            require((view.flags[at] >> node_flags::missing_shift) < 3, "flags of a node");
            require(!categorical || (view.threshold[at] >= 0 && view.threshold[at] < static_cast<double>(view.set_offsets.size() - 1)), "a set that is not there");
            for (const std::int64_t child : {std::int64_t{view.left[at]}, std::int64_t{view.right[at]}}) {
                require(child < 0 ? ~child < leaves : child > i && child < nodes, "a child that is not there or not after its parent");
                const std::vector<bool>::reference met = child < 0 ? leaf_met[static_cast<std::size_t>(~child)] : node_met[static_cast<std::size_t>(child)];
                require(!met, "a child of two nodes");
                (child < 0 ? leaf_met[static_cast<std::size_t>(~child)] : node_met[static_cast<std::size_t>(child)]) = true;
            }
        }
    }
}

// Puts the leaves of trees with bits from left to right. What each node takes from its tree's words: the leaves on its left.
std::vector<std::vector<Trees::Entry>> Trees::entries() {
    std::vector<std::vector<Entry>> found(nodes_.size());
    for (std::size_t t = 0; t < trees_.size(); ++t) {
        const Tree& tree = trees_[t];
        if (tree.words == 0) continue;
        const std::size_t n = (t + 1 < trees_.size() ? trees_[t + 1].node : nodes_.size()) - tree.node;
        std::vector<std::size_t> count(n), place(n);  // leaves below a node; the first of them, from the left
        const auto below = [&](std::int32_t child) { return child < 0 ? 1 : count[static_cast<std::size_t>(child)]; };
        for (std::size_t i = n; i-- > 0;) count[i] = below(nodes_[tree.node + i].left) + below(nodes_[tree.node + i].right);  // children come after
        const auto first = leaves_.begin() + static_cast<std::ptrdiff_t>(tree.leaf);
        const std::vector<double> values(first, first + static_cast<std::ptrdiff_t>(n + 1));
        for (std::size_t i = 0; i < n; ++i) {
            const Node& node = nodes_[tree.node + i];
            const std::size_t begin = place[i], end = begin + below(node.left);
            for (std::size_t word = begin / 64; word * 64 < end; ++word) {
                const std::size_t low = std::max(begin, word * 64) % 64, n_bits = std::min(end, (word + 1) * 64) - word * 64 - low;
                const std::uint64_t ones = n_bits == 64 ? ~0ull : (1ull << n_bits) - 1;
                found[tree.node + i].push_back({tree.word + static_cast<std::uint32_t>(word), node.threshold, ~(ones << low)});
            }
            for (const auto& [child, at] : {std::pair{node.left, begin}, {node.right, end}}) {
                if (child >= 0) place[static_cast<std::size_t>(child)] = at;
                else leaves_[tree.leaf + at] = values[static_cast<std::size_t>(~child)];
            }
        }
    }
    return found;
}

// Slots by feature and by what is missing, each a column; behind them the columns of what is missing, 1 there and else 0.
void Trees::lay_out(const std::vector<std::vector<Entry>>& entries) {
    std::map<std::pair<std::int32_t, std::uint8_t>, std::vector<std::size_t>> by_slot;
    for (std::size_t i = 0; i < nodes_.size(); ++i)
        if (!entries[i].empty()) by_slot[{nodes_[i].feature, missing_of(nodes_[i].flags)}].push_back(i);
    std::vector<std::vector<Entry>> columns, absent;
    for (const auto& [key, members] : by_slot) {
        Slot slot{key.first, key.second, -1, lookups_.size(), 0};
        std::vector<Entry> all, to_right;
        for (const std::size_t i : members) {
            auto& list = slot.missing == raw ? lookups_ : all;
            list.insert(list.end(), entries[i].begin(), entries[i].end());
            if (slot.missing == nan_is_zero || slot.missing == raw || nodes_[i].flags & node_flags::default_left) continue;
            for (Entry entry : entries[i]) entry.threshold = 0, to_right.push_back(entry);
        }
        slot.lookup_end = lookups_.size();
        if (!to_right.empty()) {
            slot.absent = static_cast<std::int32_t>(by_slot.size() + absent.size());
            absent.push_back(std::move(to_right));
        }
        columns.push_back(std::move(all));
        slots_.push_back(slot);
    }
    std::move(absent.begin(), absent.end(), std::back_inserter(columns));
    for (auto& column : columns) std::stable_sort(column.begin(), column.end(), [](const Entry& x, const Entry& y) { return x.threshold < y.threshold; });
    n_columns_ = columns.size();
    for (std::uint32_t first = 0; first < n_words_; first += words_a_group) {
        scan_offsets_.push_back(thresholds_.size());
        for (const auto& column : columns) {
            for (const Entry& entry : column) {
                if (entry.word < first || entry.word >= first + words_a_group) continue;
                thresholds_.push_back(entry.threshold);
                low_thresholds_.push_back(floor32(entry.threshold));
                scan_words_.push_back(entry.word);
                keep64_.push_back(entry.keep);
                keep32_.push_back(static_cast<std::uint32_t>(entry.keep));
            }
            scan_offsets_.push_back(thresholds_.size());
        }
    }
}

bool Trees::holds(std::int32_t set, double value) const {
    if (!(value > -1 && value < 2147483648.0)) return false;  // also NaN
    const auto category = static_cast<std::size_t>(value);
    const auto first = static_cast<std::size_t>(set_offsets_[static_cast<std::size_t>(set)]), end = static_cast<std::size_t>(set_offsets_[static_cast<std::size_t>(set) + 1]);
    return category / 32 < end - first && (sets_[first + category / 32] >> category % 32 & 1);
}

// The columns for a block: values, -infinity, which is above no threshold, for what is missing. Looks up categories.
template <class T, class Word>
void Trees::columns(const T* features, std::size_t n, T* columns, Word* bits) const {
    const T* rows[tree_lanes];
    for (std::size_t l = 0; l < tree_lanes; ++l) rows[l] = features + std::min(l, n - 1) * n_features_;  // the last row fills the block
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        const Slot& slot = slots_[s];
        T* column = columns + s * tree_lanes;
        T* absent = slot.absent < 0 ? nullptr : columns + static_cast<std::size_t>(slot.absent) * tree_lanes;
        bool nan = false;
        for (std::size_t l = 0; l < tree_lanes; ++l) {
            column[l] = rows[l][slot.feature];
            nan |= column[l] != column[l];
        }
        if (absent) std::fill_n(absent, tree_lanes, T{0});
        if (slot.missing == raw) {
            for (std::size_t i = slot.lookup_first; i < slot.lookup_end; ++i)
                for (std::size_t l = 0; l < tree_lanes; ++l)
                    if (!holds(static_cast<std::int32_t>(lookups_[i].threshold), static_cast<double>(column[l])))
                        bits[std::size_t{lookups_[i].word} * tree_lanes + l] &= static_cast<Word>(lookups_[i].keep);
        } else if (slot.missing == nan_is_zero) {
            for (std::size_t l = 0; nan && l < tree_lanes; ++l)
                if (column[l] != column[l]) column[l] = 0;
        } else if (nan || slot.missing == zero_is_missing) {
            for (std::size_t l = 0; l < tree_lanes; ++l) {
                const bool gone = column[l] != column[l] || (slot.missing == zero_is_missing && std::abs(static_cast<double>(column[l])) <= zero_threshold);
                if (absent) absent[l] = gone;
                column[l] = gone ? -std::numeric_limits<T>::infinity() : column[l];
            }
        }
    }
}

template <class T>
double Trees::walk(const Tree& tree, const T* row) const {
    std::int32_t at = 0;
    while (at >= 0) {
        const Node& node = nodes_[tree.node + static_cast<std::size_t>(at)];
        double value = static_cast<double>(row[node.feature]);
        const std::uint8_t missing = missing_of(node.flags);
        bool left;
        if (missing == raw) {
            left = holds(static_cast<std::int32_t>(node.threshold), value);
        } else {
            const bool nan = value != value;
            if (nan && missing <= zero_is_missing) value = 0;
            const bool absent = missing == zero_is_missing ? std::abs(value) <= zero_threshold : missing != nan_is_zero && nan;
            left = absent ? (node.flags & node_flags::default_left) != 0 : value <= node.threshold;
        }
        at = left ? node.left : node.right;
    }
    return leaves_[tree.leaf + static_cast<std::size_t>(~at)];
}

template <class T, class Word>
void Trees::block(const T* features, std::size_t n, double* out, TreesFn<T, Word> scan, T* columns, Word* bits) const {
    std::fill_n(bits, n_words_ * tree_lanes, static_cast<Word>(~Word{0}));
    this->columns(features, n, columns, bits);
    for (std::size_t group = 0; group * words_a_group < n_words_; ++group) scan(scan_of<T, Word>(group), columns, bits);
    double sums[tree_lanes];
    std::fill(std::begin(sums), std::end(sums), base_);
    for (const Tree& tree : trees_) {  // in their order, as the libraries add
        const Word* of = bits + std::size_t{tree.word} * tree_lanes;
        const double* leaves = leaves_.data() + tree.leaf;
        if (tree.words == 1) {
            for (std::size_t l = 0; l < tree_lanes; ++l) sums[l] += leaves[std::countr_zero(of[l])];
        } else if (tree.words > 1) {
            for (std::size_t l = 0; l < tree_lanes; ++l) {
                std::size_t word = 0;
                while (of[word * tree_lanes + l] == 0) ++word;  // the bit of the row's leaf is never taken
                sums[l] += leaves[word * 64 + static_cast<std::size_t>(std::countr_zero(of[word * tree_lanes + l]))];
            }
        } else {
            for (std::size_t l = 0; l < n; ++l) sums[l] += walk(tree, features + l * n_features_);
        }
        if (narrow_)
            for (double& sum : sums) sum = static_cast<double>(static_cast<float>(sum));
    }
    for (std::size_t l = 0; l < n; ++l) out[l] = sums[l] / divisor_;
}

template <class T, class Word>
TreeScan<T, Word> Trees::scan_of(std::size_t group) const {
    TreeScan<T, Word> scan{n_columns_, scan_offsets_.data() + group * (n_columns_ + 1), nullptr, scan_words_.data(), nullptr};
    if constexpr (std::is_same_v<T, float>) scan.thresholds = low_thresholds_.data();
    else scan.thresholds = thresholds_.data();
    if constexpr (sizeof(Word) == 4) scan.keep = keep32_.data();
    else scan.keep = keep64_.data();
    return scan;
}

template <class T, class Word>
void Trees::run(std::span<const T> features, std::size_t n, std::span<double> out, int threads, TreesFn<T, Word> scan) const {
    constexpr std::size_t piece = blocks_a_piece * tree_lanes;
    parallel_for((n + piece - 1) / piece, threads, [&] {
        return [&, columns = Lines<T>(n_columns_ * tree_lanes), bits = Lines<Word>(n_words_ * tree_lanes)](std::size_t p) mutable {
            for (std::size_t row = p * piece; row < std::min(n, (p + 1) * piece); row += tree_lanes)
                block<T, Word>(features.data() + row * n_features_, std::min(n - row, tree_lanes), out.data() + row, scan, columns.data(), bits.data());
        };
    });
}

template <class T>
void Trees::score(std::span<const T> features, std::size_t n, std::span<double> out, int threads, const Kernels& kernels) const {
    require(features.size() == n * n_features_ && out.size() == n, "features are no matrix [n, features]");
    if constexpr (std::is_same_v<T, float>)
        wide_ ? run(features, n, out, threads, kernels.trees.f32w64) : run(features, n, out, threads, kernels.trees.f32w32);
    else
        wide_ ? run(features, n, out, threads, kernels.trees.f64w64) : run(features, n, out, threads, kernels.trees.f64w32);
}

template void Trees::score(std::span<const float>, std::size_t, std::span<double>, int, const Kernels&) const;
template void Trees::score(std::span<const double>, std::size_t, std::span<double>, int, const Kernels&) const;

}  // namespace rerank

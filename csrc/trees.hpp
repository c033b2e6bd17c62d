// Ensembles of decision trees, scored for many rows at once. The contract stands in rerank_engine/ops/trees.py.
//
// QuickScorer (Lucchese et al., SIGIR 2015) on vectors of documents (Lucchese et al., SIGIR 2016): no tree is walked. The nodes of all trees lie
// by what they look at, thresholds rising; a node that sends a row to the right takes the leaves on its left from the row's bits of that tree,
// and the lowest bit that is left is the leaf. A feature's nodes are read up to the first threshold that no row of the block exceeds, so the work
// is a load, an AND and a store per node and block. A tree of more leaves than a word has bits has several words, and a node an entry for each
// word that it takes leaves from; trees of more than `most_leaves` are walked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu.hpp"

namespace rerank {

// What a node does beside `value <= threshold goes left`.
namespace node_flags {
constexpr std::uint8_t categorical = 1, default_left = 2;
constexpr int missing_shift = 2;  // then two bits: 0 NaN counts as 0, 1 NaN and 0 are missing, 2 NaN is missing
}  // namespace node_flags

// Arrays of all trees behind one another. A child >= 0 is a node of the same tree, and comes after its parent; ~child is a leaf of it.
// Tree t has the nodes node_offsets[t] to node_offsets[t + 1] and the leaves leaf_offsets[t] to ...; node 0 is its root, if it has one.
// threshold: of a categorical node, which of the sets; set s has the words set_offsets[s] to ... of `sets`, a bit for each category.
struct TreesView {
    std::span<const std::int64_t> node_offsets, leaf_offsets, set_offsets;
    std::span<const std::int32_t> feature, left, right;
    std::span<const double> threshold, leaves;
    std::span<const std::uint8_t> flags;
    std::span<const std::uint32_t> sets;
    double base = 0, divisor = 1;
    bool narrow = false;  // sums are kept in float32, as XGBoost keeps them
};

constexpr std::size_t tree_lanes = 16;    // rows of a block
constexpr std::size_t most_leaves = 512;  // of a tree that is not walked

class Trees {
public:
    // Copies what it needs. Throws std::invalid_argument for arrays that are no such trees.
    Trees(const TreesView& view, std::size_t n_features);

    // features [n][n_features] row-major, out [n]. The answer does not depend on threads or instruction set.
    template <class T>
    void score(std::span<const T> features, std::size_t n, std::span<double> out, int threads, const Kernels& kernels) const;

    std::size_t n_features() const { return n_features_; }

private:
    struct Node {
        double threshold;
        std::int32_t feature, left, right;
        std::uint8_t flags;
    };
    // Nodes that look at one feature in one way. What of a column is missing or NaN is told apart once for all of them.
    struct Slot {
        std::int32_t feature;
        std::uint8_t missing;
        std::int32_t absent;                  // the column that says where it is missing, for nodes that then go right; < 0: no such node
        std::size_t lookup_first, lookup_end;  // of a categorical slot, in lookups_
    };
    // The leaves of one word that stay where a row goes right.
    struct Entry {
        std::uint32_t word;
        double threshold;
        std::uint64_t keep;
    };
    struct Tree {
        std::size_t node, leaf;   // where its nodes and leaves begin
        std::uint32_t word;       // where its bits begin
        std::uint32_t words = 0;  // 0: it is walked
    };
    template <class T, class Word>
    void block(const T* features, std::size_t n, double* out, TreesFn<T, Word> scan, T* columns, Word* bits) const;
    template <class T, class Word>
    void columns(const T* features, std::size_t n, T* columns, Word* bits) const;
    template <class T>
    double walk(const Tree& tree, const T* row) const;
    template <class T, class Word>
    TreeScan<T, Word> scan_of(std::size_t group) const;
    template <class T, class Word>
    void run(std::span<const T> features, std::size_t n, std::span<double> out, int threads, TreesFn<T, Word> scan) const;

    bool holds(std::int32_t set, double value) const;
    void check(const TreesView& view) const;
    std::vector<std::vector<Entry>> entries();
    void lay_out(const std::vector<std::vector<Entry>>& entries);

    std::size_t n_features_;
    double base_, divisor_;
    bool narrow_, wide_ = false;  // wide: a tree has more than 32 leaves, and words have 64 bits
    std::uint32_t n_words_ = 0;
    std::vector<Tree> trees_;
    std::vector<Node> nodes_;
    std::vector<double> leaves_;  // of a tree with bits from left to right
    std::vector<std::int64_t> set_offsets_;
    std::vector<std::uint32_t> sets_;
    std::vector<Slot> slots_;
    std::vector<Entry> lookups_;  // of categorical nodes: threshold is the set
    std::size_t n_columns_ = 0;
    std::vector<std::size_t> scan_offsets_;  // [groups][n_columns_ + 1]: of a column's entries in the arrays below
    std::vector<float> low_thresholds_;      // the largest float32 that is not above: exact for rows of float32
    std::vector<double> thresholds_;
    std::vector<std::uint32_t> scan_words_;
    std::vector<std::uint32_t> keep32_;
    std::vector<std::uint64_t> keep64_;
};

}  // namespace rerank

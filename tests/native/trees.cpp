// Trees on every instruction set against a plain walk, one thread against four, and arrays that are no trees.
#include <array>

#include "check.hpp"
#include "trees.hpp"

namespace rerank {
namespace {

struct Arrays {
    std::vector<std::int64_t> node_offsets{0}, leaf_offsets{0}, set_offsets{0, 1, 3};
    std::vector<std::int32_t> feature, left, right;
    std::vector<double> threshold, leaves;
    std::vector<std::uint8_t> flags;
    std::vector<std::uint32_t> sets{0x80000009u, 0x55555555u, 0x1u};

    TreesView view() const { return {node_offsets, leaf_offsets, set_offsets, feature, left, right, threshold, leaves, flags, sets, 0.5, 2.0, false}; }

    void add(Random& random, std::size_t n_leaves, std::size_t n_features, bool chain) {
        const std::size_t first = feature.size(), n = n_leaves - 1;
        for (auto* array : {&feature, &left, &right}) array->resize(first + n);
        std::vector<std::int32_t*> open;
        for (std::size_t i = 0; i < n; ++i) {
            if (i > 0) {
                const std::size_t at = chain ? open.size() - 1 : random.below(open.size());
                *open[at] = static_cast<std::int32_t>(i);
                open.erase(open.begin() + static_cast<std::ptrdiff_t>(at));
            }
            feature[first + i] = static_cast<std::int32_t>(random.below(n_features));
            flags.push_back(static_cast<std::uint8_t>(random.below(5) == 0 ? 1 : random.below(3) << 2 | random.below(2) << 1));
            threshold.push_back(flags.back() & 1 ? static_cast<double>(random.below(2)) : static_cast<double>(static_cast<int>(random.below(9)) - 4) / 2);
            open.push_back(&left[first + i]);
            open.push_back(&right[first + i]);
        }
        for (std::size_t leaf = 0; leaf < open.size(); ++leaf) *open[leaf] = ~static_cast<std::int32_t>(leaf);
        for (std::size_t leaf = 0; leaf < n_leaves; ++leaf) leaves.push_back(random.normal());
        node_offsets.push_back(static_cast<std::int64_t>(feature.size()));
        leaf_offsets.push_back(static_cast<std::int64_t>(leaves.size()));
    }
};

bool in_set(const Arrays& a, std::size_t set, double value) {
    if (!(value > -1 && value < 1e6)) return false;
    const auto bit = static_cast<std::size_t>(value);
    return bit / 32 < at(a.set_offsets, set + 1) - at(a.set_offsets, set) && (a.sets[at(a.set_offsets, set) + bit / 32] >> bit % 32 & 1);
}

double walked(const Arrays& a, const float* row) {
    double total = 0.5;
    for (std::size_t t = 0; t + 1 < a.node_offsets.size(); ++t) {
        std::int32_t node = a.node_offsets[t + 1] > a.node_offsets[t] ? 0 : -1;
        while (node >= 0) {
            const std::size_t i = at(a.node_offsets, t) + static_cast<std::size_t>(node);
            const int missing = a.flags[i] >> 2;
            double value = row[a.feature[i]];
            bool left;
            if (a.flags[i] & 1) {
                left = in_set(a, static_cast<std::size_t>(a.threshold[i]), value);
            } else if (std::isnan(value) ? missing != 0 : missing == 1 && value == 0) {
                left = a.flags[i] & 2;
            } else {
                left = (std::isnan(value) ? 0 : value) <= a.threshold[i];
            }
            node = left ? a.left[i] : a.right[i];
        }
        total += a.leaves[at(a.leaf_offsets, t) + static_cast<std::size_t>(~node)];
    }
    return total / 2.0;
}

void check_scores(Random& random) {
    constexpr std::size_t n_features = 5;
    const std::vector<std::vector<std::size_t>> all{{}, {1}, {2, 1, 31, 32}, {33, 5}, {64, 65, 200}, {512, 513, 3}, std::vector<std::size_t>(150, 5)};
    for (const auto& sizes : all)
        for (const bool chain : {false, true}) {
            Arrays a;
            for (const std::size_t n : sizes) a.add(random, n, n_features, chain);
            const Trees trees(a.view(), n_features);
            for (const std::size_t n : {0, 1, 16, 33, 200}) {
                std::vector<float> rows(n * n_features);
                for (float& x : rows) x = random.below(6) == 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(static_cast<int>(random.below(80)) - 10) / 2;
                const std::vector<double> wide(rows.begin(), rows.end());
                std::vector<double> want(n);
                for (std::size_t i = 0; i < n; ++i) want[i] = walked(a, rows.data() + i * n_features);
                for (const Isa isa : usable_isas())
                    for (const int threads : {1, 4}) {
                        std::vector<double> got(n, -1), got_wide(n, -1);
                        trees.score<float>(rows, n, got, threads, kernels(isa));
                        trees.score<double>(wide, n, got_wide, threads, kernels(isa));
                        expect(same_bits(got, want) && same_bits(got_wide, want), "trees on " + std::string(isa_name(isa)));
                    }
            }
        }
}

// Every number of every array changed in turn: refused, or scored without a step outside.
void check_damage(Random& random) {
    Arrays a;
    for (const std::size_t n : {4, 1, 40}) a.add(random, n, 3, false);
    const std::vector<float> rows(20 * 3, 1.0f);
    std::vector<double> out(20);
    const auto exercise = [&] {
        try {
            const Trees trees(a.view(), 3);
            trees.score<float>(rows, 20, out, 1, kernels(best_isa()));
        } catch (const std::invalid_argument&) {
        }
    };
    const auto change = [&](auto& values, auto... others) {
        for (auto& value : values)
            for (const auto other : {others...}) {
                const auto kept = value;
                value = static_cast<std::remove_reference_t<decltype(value)>>(other);
                exercise();
                value = kept;
            }
    };
    for (auto* array : {&a.feature, &a.left, &a.right}) change(*array, 0, 1, 2, 39, 1000000, -1, -2, -5, -41, -1000000, std::numeric_limits<std::int32_t>::min());
    for (auto* array : {&a.node_offsets, &a.leaf_offsets, &a.set_offsets}) change(*array, 0, 1, 3, 42, 44, 1000000, -1);
    change(a.threshold, 0.0, 1.0, 2.0, 1e300, -1e300, std::numeric_limits<double>::quiet_NaN());
    change(a.flags, 0, 1, 2, 3, 4, 8, 9, 12, 255);
    for (auto* array : {&a.feature, &a.left, &a.right}) {
        const auto kept = *array;
        array->pop_back();
        expect_throw<std::invalid_argument>([&] { Trees(a.view(), 3); }, "an array that is too short");
        *array = kept;
    }
    expect_throw<std::invalid_argument>([&] { Trees(a.view(), 0); }, "no features");
}

}  // namespace

void check_trees(Random& random) {
    check_scores(random);
    check_damage(random);
    report("trees");
}

}  // namespace rerank

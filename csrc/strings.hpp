// Tables of strings that are searched where they lie, in memory or in a mapped file: UTF-8 bytes behind one another, with offsets.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace rerank {

// String i is bytes [offsets[i], offsets[i + 1]). The table is sorted by bytes, or `order` lists its strings in that order.
class Strings {
public:
    Strings(std::span<const char> bytes, std::span<const std::int64_t> offsets, std::span<const std::uint32_t> order)
        : bytes_(bytes), offsets_(offsets), order_(order) {}

    std::size_t size() const { return offsets_.size() - 1; }
    std::string_view operator[](std::size_t i) const;  // throws std::runtime_error when the offsets are damaged
    std::int64_t find(std::string_view text) const;    // its index, or -1

private:
    std::span<const char> bytes_;
    std::span<const std::int64_t> offsets_;
    std::span<const std::uint32_t> order_;
};

// The union of sorted tables, sorted, and for each table where its strings have gone. `used[t]` (or empty) tells which of its strings count.
struct MergedStrings {
    std::vector<char> bytes;
    std::vector<std::int64_t> offsets;
    std::vector<std::vector<std::uint32_t>> places;  // kUnused for strings that do not count
};
inline constexpr std::uint32_t kUnused = 0xffffffffu;
MergedStrings merge_strings(const std::vector<Strings>& tables, const std::vector<std::vector<std::uint8_t>>& used);

}  // namespace rerank

#include "strings.hpp"

namespace rerank {

std::string_view Strings::operator[](std::size_t i) const {
    const std::int64_t begin = offsets_[i], end = offsets_[i + 1];
    if (begin < 0 || begin > end || static_cast<std::uint64_t>(end) > bytes_.size()) throw std::runtime_error("a string lies outside its table");
    return {bytes_.data() + begin, static_cast<std::size_t>(end - begin)};
}

std::int64_t Strings::find(std::string_view text) const {
    std::size_t low = 0, high = size();
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2, at = order_.empty() ? middle : order_[middle];
        if (at >= size()) throw std::runtime_error("a table's order leaves it");
        const int compared = (*this)[at].compare(text);
        if (compared == 0) return static_cast<std::int64_t>(at);
        if (compared < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return -1;
}

MergedStrings merge_strings(const std::vector<Strings>& tables, const std::vector<std::vector<std::uint8_t>>& used) {
    MergedStrings out;
    out.offsets.push_back(0);
    std::vector<std::size_t> at(tables.size(), 0);
    for (const Strings& table : tables) out.places.emplace_back(table.size(), kUnused);
    const auto skip = [&](std::size_t t) {
        while (at[t] < tables[t].size() && !used[t].empty() && used[t][at[t]] == 0) ++at[t];
    };
    for (std::size_t t = 0; t < tables.size(); ++t) skip(t);
    while (true) {
        std::string_view least;
        bool any = false;
        for (std::size_t t = 0; t < tables.size(); ++t)
            if (at[t] < tables[t].size() && (!any || tables[t][at[t]] < least)) {
                least = tables[t][at[t]];
                any = true;
            }
        if (!any) return out;
        const auto id = static_cast<std::uint32_t>(out.offsets.size() - 1);
        out.bytes.insert(out.bytes.end(), least.begin(), least.end());
        out.offsets.push_back(static_cast<std::int64_t>(out.bytes.size()));
        for (std::size_t t = 0; t < tables.size(); ++t)
            if (at[t] < tables[t].size() && tables[t][at[t]] == least) {
                out.places[t][at[t]++] = id;
                skip(t);
            }
    }
}

}  // namespace rerank

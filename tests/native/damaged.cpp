// Bytes that no writer wrote: every byte of a small segment changed in turn, many at once, arrays cut off. All that reads them must return
// or throw an error; the sanitizers watch the rest.
#include "image.hpp"
#include "strings.hpp"

namespace rerank {

namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThorough = false;  // one thread does all of this: nothing for that sanitizer to find
#else
constexpr bool kThorough = true;
#endif

template <class Call>
void survive(Call call) {
    try {
        call();
    } catch (const Damaged&) {
    } catch (const std::overflow_error&) {
    } catch (const std::exception& error) {
        expect(false, std::string("damage ends in ") + error.what());
    }
}

void read_lists(const Image& image) {
    const SegmentView view = image.view();
    std::vector<std::uint32_t> rows, tfs;
    for (std::uint32_t t = 0; t < view.terms.size(); ++t) {
        rows.clear();
        tfs.clear();
        survive([&] {
            decode_list(view, t, rows, tfs);
            for (std::size_t i = 0; i < rows.size(); ++i)
                if (rows[i] >= view.rows() || tfs[i] < 1 || (i > 0 && rows[i] <= rows[i - 1])) expect(false, "a decoder passed on damaged postings");
        });
    }
}

void read_forward(const Image& image) {
    std::vector<std::uint32_t> terms, tfs;
    for (std::size_t row = 0; row < image.lengths.size(); ++row) {
        terms.clear();
        tfs.clear();
        survive([&] {
            image.lists().read(row, image.terms.size(), terms, tfs);
            for (const std::uint32_t term : terms)
                if (term >= image.terms.size()) expect(false, "a forward list passed on damage");
        });
    }
}

void merge(const Image& image) {
    survive([&] {
        std::vector<std::uint32_t> same(image.terms.size());
        std::iota(same.begin(), same.end(), 0u);
        if (!same.empty()) same.back() = kUnused;
        const std::vector<std::uint8_t> dead((image.lengths.size() + 7) / 8, 0x11);
        const std::vector<MergeInput> inputs{{image.view(), {}, same, image.lists()}, {image.view(), dead, same, image.lists()}};
        Merge all(inputs, live_lengths(inputs), same.size(), image.coding, true);
        survive([&] { all.forward(); });
        while (all.step(256)) all.result().take_payload();
    });
    survive([&] { dead_frequencies(image.view(), std::vector<std::uint8_t>((image.lengths.size() + 7) / 8, 0x22)); });
}

void search(const Image& image, std::size_t n_terms, int which) {
    const Bm25Parameters all[] = {{}, {Variant::bm25l, 1.2, 0.75, 0.5}, {Variant::robertson, 0, 0, 0}, {Variant::bm25plus, 1.2, 1, 1},
                                  {Variant::atire, 9, 1, 0}, {Variant::impact, 64, 0, 0}};
    std::vector<std::int32_t> terms;
    std::vector<std::int64_t> offsets{0};
    for (std::size_t q = 0; q < 3; ++q) {  // all, the frequent, the rare
        for (std::size_t t = 0; t < std::min(n_terms, image.terms.size()); ++t)
            if (q == 0 || (t < n_terms / 2) == (q == 1)) terms.push_back(static_cast<std::int32_t>(t));
        offsets.push_back(static_cast<std::int64_t>(terms.size()));
    }
    std::vector<float> weights(terms.size(), 1);
    std::vector<std::uint8_t> required(terms.size(), 0);
    if (which % 4 == 1 && !weights.empty()) weights[0] = -1;
    if (which % 4 == 2 && !required.empty()) required[0] = 1;
    const std::vector<std::int32_t> dead_df(image.terms.size(), which % 4 == 3 ? -5 : 3);
    Source source = image.source();
    if (which % 4 > 1) source.dead_df = dead_df;
    survive([&] {
        const Searcher searcher({source}, all[which % 6], image.lengths.size() / (which % 4 == 3 ? 2 : 1), 3 * image.lengths.size());
        for (std::size_t q = 0; q < 3; ++q) {
            const std::vector<std::int64_t> own{0, offsets[q + 1] - offsets[q]};
            const auto part = [&](auto& values) { return std::span(values).subspan(at(offsets, q), at(own, 1)); };
            survive([&] { searcher.search({part(terms), part(weights), part(required), own, {}}, which % 2 ? 3 : 1000, 1); });
        }
    });
}

struct Where {
    const char* name;
    std::uint8_t* bytes;
    std::size_t size;
    bool forward;
};
template <class T>
Where where(const char* name, std::vector<T>& values, bool forward = false) {
    return {name, reinterpret_cast<std::uint8_t*>(values.data()), values.size() * sizeof(T), forward};
}
std::vector<Where> arrays(Image& image) {
    return {where("terms", image.terms),     where("blocks", image.blocks),           where("payload", image.payload),
            where("dense", image.dense),     where("dense_terms", image.dense_terms), where("lengths", image.lengths),
            where("forward", image.forward, true), where("forward_offsets", image.forward_offsets, true)};
}

void exercise(const Image& image, std::size_t n_terms, bool forward, int which) {
    if (forward) {
        read_forward(image);
    } else {
        read_lists(image);
        search(image, n_terms, which);
    }
    if (forward || which % 3 == 0) merge(image);
}

void check_flips(Image& image, std::size_t n_terms) {
    int which = 0;
    for (const Where& array : arrays(image))
        for (std::size_t i = 0; i < array.size; i += kThorough ? 1 : 7)
            for (const unsigned change : {0xffu, 0x01u, 0x80u, 0x10u}) {
                if (change != 0xff && !kThorough) continue;
                array.bytes[i] ^= static_cast<std::uint8_t>(change);
                exercise(image, n_terms, array.forward, which++);
                array.bytes[i] ^= static_cast<std::uint8_t>(change);
            }
}

void check_many_changes(const Image& image, std::size_t n_terms, Random& random) {
    for (int round = 0; round < (kThorough ? 3000 : 100); ++round) {
        Image bad = image;
        auto all = arrays(bad);
        for (std::size_t n = 1 + random.below(6); n > 0; --n) {
            const Where& array = all[random.below(all.size())];
            if (array.size == 0) continue;
            const std::size_t start = random.below(array.size), end = std::min(array.size, start + 1 + random.below(9));
            const bool noise = random.below(2) == 0;
            for (std::size_t i = start; i < end; ++i) array.bytes[i] = noise ? static_cast<std::uint8_t>(random.below(256)) : round % 2 ? 0xff : 0;
        }
        bad.coding.k1 = round % 5 == 0 ? 1e-9 : round % 5 == 1 ? 1e9 : bad.coding.k1;
        bad.coding.mean = round % 7 == 0 ? 1e-10 : round % 7 == 1 ? 1e12 : bad.coding.mean;
        bad.coding.b = round % 4 == 0 ? 1 : bad.coding.b;
        bad.shortest = round % 6 == 0 ? 1 : bad.shortest;
        bad.longest = round % 6 == 0 ? 0xffffffffu : bad.longest;
        bad.codes = round % 8 == 0 ? !bad.codes : bad.codes;
        exercise(bad, n_terms, false, round);
        exercise(bad, n_terms, true, round);
    }
}

// What the binding checks when it opens a segment holds: dense = dense_terms x lengths, one forward offset more than lengths.
void check_truncations(const Image& image, std::size_t n_terms, Random& random) {
    const auto cut = [&](auto& values, std::size_t size) { values = std::vector(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(size)); };
    for (int round = 0; round < (kThorough ? 1500 : 60); ++round) {
        Image bad = image;
        switch (round % 6) {
            case 0: cut(bad.terms, random.below(bad.terms.size() + 1)); break;
            case 1: cut(bad.blocks, random.below(bad.blocks.size() + 1)); break;
            case 2: cut(bad.payload, random.below(bad.payload.size() + 1)); break;
            case 3: cut(bad.forward, random.below(bad.forward.size() + 1)); break;
            case 4: cut(bad.dense_terms, random.below(bad.dense_terms.size() + 1)), cut(bad.dense, bad.dense_terms.size() * bad.lengths.size()); break;
            default: {
                cut(bad.lengths, random.below(bad.lengths.size() + 1)), cut(bad.forward_offsets, bad.lengths.size() + 1);
                cut(bad.dense, bad.dense_terms.size() * bad.lengths.size());
            }
        }
        exercise(bad, n_terms, false, round);
        exercise(bad, n_terms, true, round);
    }
}

// Codes of 0, which no posting has: documents that were touched look untouched. Two lists, more postings in one window than it has rows.
void check_zero_codes() {
    constexpr std::uint32_t n_rows = 4'600'000, late = 4'400'000, n = 34'000;
    Image image;
    image.codes = true;
    image.lengths.assign(n_rows, 1);
    SegmentWriter writer(image.lengths, image.coding, true);
    std::vector<std::uint32_t> rows;
    for (std::uint32_t i = 0; i < 20; ++i) rows.push_back(i * 200'000);
    for (std::uint32_t i = 0; i < n; ++i) rows.push_back(late + i);
    const std::vector<std::uint32_t> tfs(rows.size(), 1);
    writer.add(rows, tfs);
    writer.add(rows, tfs);
    image.take(writer, {});
    for (std::uint32_t t = 0; t < 2; ++t) {
        const BlockList list = block_list(image.view(), t);
        for (std::size_t b = 0; b < list.blocks.size(); ++b)
            std::fill_n(image.payload.data() + (codes_of(list, b) - image.payload.data()), list.length(b), std::uint8_t{0});
    }
    const std::vector<std::int32_t> terms{0, 1};
    const std::vector<float> weights{1, 1};
    const std::vector<std::int64_t> offsets{0, 2};
    survive([&] { Searcher({image.source()}, {}, n_rows, n_rows).search({terms, weights, {}, offsets, {}}, 100'000, 1); });
}

void check_damaged_strings(Random& random) {
    std::vector<char> bytes;
    std::vector<std::int64_t> offsets{0};
    std::vector<std::uint32_t> order;
    for (std::uint32_t i = 0; i < 40; ++i) {
        const std::string text = "term" + std::to_string(100 + i);
        bytes.insert(bytes.end(), text.begin(), text.end());
        offsets.push_back(static_cast<std::int64_t>(bytes.size()));
        order.push_back(i);
    }
    bytes.shrink_to_fit(), offsets.shrink_to_fit(), order.shrink_to_fit();
    const auto use = [&] {
        for (const bool by_order : {false, true}) {
            const Strings table(bytes, offsets, by_order ? std::span<const std::uint32_t>(order) : std::span<const std::uint32_t>());
            const auto quietly = [&](auto call) {
                try {
                    call();
                } catch (const std::runtime_error&) {
                }
            };
            for (const char* text : {"", "term100", "term120", "term139", "zzz", "term1205"}) quietly([&] { table.find(text); });
            quietly([&] { merge_strings({table, table}, {{}, {}}); });
        }
    };
    const Where all[] = {where("bytes", bytes), where("offsets", offsets), where("order", order)};
    for (const Where& array : all)
        for (std::size_t i = 0; i < array.size; ++i)
            for (const unsigned change : {0xffu, 0x01u, 0x80u}) {
                array.bytes[i] ^= static_cast<std::uint8_t>(change);
                use();
                array.bytes[i] ^= static_cast<std::uint8_t>(change);
            }
    for (int round = 0; round < 2000; ++round) {
        const auto kept = std::tuple(bytes, offsets, order);
        for (std::size_t n = 1 + random.below(9); n > 0; --n) {
            const Where& array = all[random.below(3)];
            array.bytes[random.below(array.size)] = static_cast<std::uint8_t>(random.below(256));
        }
        use();
        std::copy(std::get<0>(kept).begin(), std::get<0>(kept).end(), bytes.begin());
        std::copy(std::get<1>(kept).begin(), std::get<1>(kept).end(), offsets.begin());
        std::copy(std::get<2>(kept).begin(), std::get<2>(kept).end(), order.begin());
    }
    expect(true, "damaged strings");
    report("damaged strings");
}

}  // namespace

void check_damaged(Random& random) {
    Documents documents;  // 5 blocks lists, of which 2 are dense; short lists; one and two postings; none
    constexpr std::size_t df[] = {270, 200, 140, 128, 60, 3, 2, 1, 0};
    documents.n_terms = std::size(df);
    for (std::size_t row = 0; row < 300; ++row) {
        for (std::size_t t = 0; t < std::size(df); ++t)
            if (row * 7 % 300 < df[t]) documents.tokens.insert(documents.tokens.end(), 1 + row % 3, static_cast<std::int32_t>(t));
        documents.end();
    }
    for (const bool codes : {true, false}) {
        Image image = write(documents, codes);
        const Image good = image;
        check_flips(image, documents.n_terms);
        expect(image.payload == good.payload && same_bits(image.blocks, good.blocks), "flips were taken back");
        check_many_changes(image, documents.n_terms, random);
        check_truncations(image, documents.n_terms, random);
    }
    Image wide;  // 1,000 rows: block lists that are not dense, so codes lie in the payload
    wide.codes = true;
    wide.lengths.assign(1000, 5);
    SegmentWriter writer(wide.lengths, wide.coding, true);
    Forward lists;
    for (const std::uint32_t n : {150, 130, 20}) {
        std::vector<std::uint32_t> rows, tfs;
        for (std::uint32_t i = 0; i < n; ++i) rows.push_back(i * 1000 / n), tfs.push_back(1 + i % 5);
        writer.add(rows, tfs);
    }
    for (std::size_t row = 0; row < wide.lengths.size(); ++row) lists.add({}, {});
    wide.take(writer, lists);
    wide.forward_offsets.resize(1), wide.forward_offsets.shrink_to_fit();
    Image copy = wide;
    check_flips(copy, 3);
    check_many_changes(wide, 3, random);
    check_zero_codes();
    report("damaged segments");
    check_damaged_strings(random);
}

}  // namespace rerank

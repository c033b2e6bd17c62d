// Postings, the windowed scorer against plain sums, merging, forward lists and strings: what was written comes back, and in every form.
#include <cstdlib>
#include <memory>

#include "image.hpp"
#include "strings.hpp"

namespace rerank {

namespace {

using Lists = std::vector<std::pair<std::vector<std::uint32_t>, std::vector<std::uint32_t>>>;  // per term: rows, frequencies

Lists lists_of(const SegmentView& view) {
    Lists out(view.terms.size());
    for (std::uint32_t t = 0; t < out.size(); ++t) decode_list(view, t, out[t].first, out[t].second);
    return out;
}

Lists counted(const Documents& documents) {
    Lists out(documents.n_terms);
    for (std::size_t row = 0; row < documents.size(); ++row)
        for (const auto& [term, tf] : documents.counts(row)) {
            out[term].first.push_back(static_cast<std::uint32_t>(row));
            out[term].second.push_back(tf);
        }
    return out;
}

// Entries with counts are what repeated tokens are.
void check_counts(Random& random) {
    const Documents documents = random_documents(random, 400, 8);
    Documents entries;
    entries.n_terms = documents.n_terms;
    std::vector<std::uint32_t> counts, lengths;
    for (std::size_t row = 0; row < documents.size(); ++row) {
        for (const auto& [term, tf] : documents.counts(row)) {
            entries.tokens.push_back(static_cast<std::int32_t>(term));
            counts.push_back(tf);
        }
        entries.end();
        lengths.push_back(static_cast<std::uint32_t>(documents.offsets[row + 1] - documents.offsets[row]));
    }
    for (const bool exact : {false, true}) {
        const Image want = write(documents, true, exact);
        SegmentWriter writer(lengths, want.coding, true);
        write_documents(writer, entries.tokens, entries.offsets, entries.n_terms, counts);
        writer.finish();
        expect(same_bits(writer.payload, want.payload) && same_bits(writer.terms, want.terms) && same_bits(writer.blocks, want.blocks) &&
                   writer.dense == want.dense,
               "counts are what repeats are");
    }
    report("counts");
}

void check_packing(Random& random) {
    for (unsigned bits = 0; bits <= 32; ++bits) {
        std::vector<std::uint32_t> values(kBlock), back(kBlock, 0xabababab);
        for (std::uint32_t& v : values) v = bits == 0 ? 0 : static_cast<std::uint32_t>(random.engine() >> (64 - bits));
        if (bits > 0) values[77] = static_cast<std::uint32_t>((std::uint64_t{1} << bits) - 1);
        std::vector<std::uint8_t> block;
        pack_block(values.data(), bits, block);
        block = std::vector(block.begin(), block.end());
        unpack_block(block.data(), bits, back.data());
        bool ok = back == values && block.size() == 16 * bits;
        for (std::size_t i = 0; i < kBlock; ++i) ok = ok && unpack_one(block.data(), bits, i) == values[i];
        for (const std::size_t n : {0, 1, 2, 7, 127}) {
            std::vector<std::uint8_t> run;
            pack_run(std::span(values).first(n), bits, run);
            ok = ok && run.size() == run_bytes(n, bits);
            run.resize(run.size() + kSlack);
            for (std::size_t i = 0; i < n; ++i) ok = ok && unpack_run_one(run.data(), bits, i) == values[i];
        }
        expect(ok, "packing " + std::to_string(bits) + " bits");
    }
    report("packing");
}

void check_round_trips(Random& random) {
    for (int round = 0; round < 12; ++round) {
        const Documents documents = random_documents(random, 1 + random.below(900), 1 + random.below(12));
        for (const bool codes : {false, true}) {
            const Image image = write(documents, codes);
            expect(lists_of(image.view()) == counted(documents), "postings come back, round " + std::to_string(round));
        }
        const Image image = write(documents, true);
        bool ok = true;
        for (std::size_t row = 0; row < documents.size(); ++row) {
            std::vector<std::uint32_t> terms, tfs;
            image.lists().read(row, documents.n_terms, terms, tfs);
            std::map<std::uint32_t, std::uint32_t> got;
            for (std::size_t i = 0; i < terms.size(); ++i) got[terms[i]] = tfs[i];
            ok = ok && got == documents.counts(row) && std::is_sorted(terms.begin(), terms.end());
        }
        expect(ok, "forward lists come back, round " + std::to_string(round));
    }
    report("postings, forward lists");
}

// Lists that no small corpus has: gaps of up to 30 bits, frequencies of 32. Memory that nobody touches costs nothing.
void check_wide_lists() {
    constexpr std::size_t n_rows = 0x30000000;
    const std::unique_ptr<std::uint32_t, decltype(&std::free)> zeros(static_cast<std::uint32_t*>(std::calloc(n_rows, 4)), &std::free);
    expect(zeros != nullptr, "address space for 3 GB of lengths");
    if (!zeros) return;
    const std::span<const std::uint32_t> lengths(zeros.get(), n_rows);
    for (const std::size_t n : {1, 2, 3, 127, 128, 129, 256, 300})
        for (const std::uint32_t step : {1u, 100'000u, 0x30000000u / 301}) {
            std::vector<std::uint32_t> rows, tfs, got_rows, got_tfs;
            for (std::uint32_t i = 0; i < n; ++i) {
                rows.push_back(i * step + (i == n - 1 ? n_rows - 1 - i * step : 0));
                tfs.push_back(i % 3 == 0 ? 0xffffffffu - i : i % 3 == 1 ? 1 : 65535 + i);
            }
            SegmentWriter writer(lengths, {}, false);
            writer.add(rows, tfs);
            writer.finish();
            const SegmentView view{writer.terms, writer.blocks, writer.payload, lengths, {}, {}, {}, false};
            decode_list(view, 0, got_rows, got_tfs);
            bool ok = got_rows == rows && got_tfs == tfs;
            if (is_block_list(view, 0)) {
                const BlockList list = block_list(view, 0);
                for (std::size_t i = 0; i < n; ++i) ok = ok && frequencies(list, i / kBlock)[i % kBlock] == tfs[i];
            }
            expect(ok, "a wide list of " + std::to_string(n));
            const Searcher searcher({{view, 0, 1, 1, {}, {}}}, {}, n_rows, n_rows);
            const std::vector<std::int32_t> terms{0};
            const std::vector<float> weights{1};
            const std::vector<std::int64_t> offsets{0, 1};
            const PackedHits hits = searcher.search({terms, weights, {}, offsets, {}}, 1000, 1);
            std::vector<std::int64_t> found = hits.ids;
            std::sort(found.begin(), found.end());
            expect(std::equal(found.begin(), found.end(), rows.begin(), rows.end()), "a search in a wide list of " + std::to_string(n));
        }
    report("wide lists");
}

struct Queries {
    std::vector<std::int32_t> terms;  // for one source
    std::vector<float> weights;
    std::vector<std::uint8_t> required, filter;
    std::vector<std::int64_t> offsets{0};

    Queries(Random& random, std::size_t n_terms, std::size_t n_rows, int round) {
        for (std::size_t q = 0; q < 20; ++q) {
            for (std::size_t i = random.below(7); i > 0; --i) {
                terms.push_back(static_cast<std::int32_t>(random.below(n_terms + 1)) - 1);
                weights.push_back(round % 4 == 0 ? random.normal() : round % 4 == 1 ? std::abs(random.normal()) : 1);
                required.push_back(round % 3 == 0 && random.below(4) == 0);
            }
            offsets.push_back(static_cast<std::int64_t>(terms.size()));
        }
        if (round % 5 == 0)
            for (std::size_t i = 0; i < n_rows; i += 8) filter.push_back(static_cast<std::uint8_t>(random.below(256)));
    }
    Searcher::Batch batch(std::span<const std::int32_t> of_all_sources) const { return {of_all_sources, weights, required, offsets, filter}; }
};

// Every document, token by token, by the formula with its constants in place.
std::map<std::int64_t, double> brute(const Documents& documents, const Bm25Parameters& p, const Queries& queries, std::size_t q) {
    const double n = static_cast<double>(documents.size()), mean = std::max(1e-9, static_cast<double>(documents.tokens.size()) / n);
    const Gain gain(p, documents.tokens.empty() ? 1 : mean);
    std::vector<double> df(documents.n_terms, 0);
    std::vector<std::map<std::uint32_t, std::uint32_t>> counts;
    for (std::size_t row = 0; row < documents.size(); ++row) {
        counts.push_back(documents.counts(row));
        for (const auto& [term, tf] : counts.back()) ++df[term];
    }
    std::map<std::int64_t, double> out;
    for (std::size_t row = 0; row < documents.size(); ++row) {
        bool any = false, all = queries.filter.empty() || (queries.filter[row / 8] >> row % 8 & 1) != 0;
        double sum = 0;
        for (std::size_t i = at(queries.offsets, q); i < at(queries.offsets, q + 1); ++i) {
            const std::int32_t term = queries.terms[i];
            const auto found = counts[row].find(static_cast<std::uint32_t>(term));
            const bool holds = term >= 0 && found != counts[row].end();
            any = any || holds;
            all = all && (holds || queries.required[i] == 0);
            if (term < 0 || df[static_cast<std::size_t>(term)] == 0) continue;
            const double tf = holds ? found->second : 0, length = static_cast<double>(documents.offsets[row + 1] - documents.offsets[row]);
            sum += queries.weights[i] * gain.idf(n, df[static_cast<std::size_t>(term)]) *
                   (gain.constant() + gain(tf, gain.norm(static_cast<std::uint32_t>(length))));
        }
        if (any && all) out[static_cast<std::int64_t>(row)] = sum;
    }
    return out;
}

void check_search(Random& random) {
    for (int round = 0; round < 60; ++round) {
        const Documents documents = random_documents(random, 1 + random.below(round % 6 == 0 ? 9000 : 500), 1 + random.below(16));
        Bm25Parameters p{static_cast<Variant>(round % 6), round % 7 == 0 ? 1e6 : 0.1 + static_cast<double>(random.below(30)) / 10, 0.75, 0};
        p.b = static_cast<double>(random.below(5)) / 4;
        p.delta = p.variant == Variant::bm25l ? 0.5 : p.variant == Variant::bm25plus ? 1 : 0;
        const Queries queries(random, documents.n_terms, documents.size(), round);
        const std::size_t k = 1 + random.below(40);
        PackedHits first;
        for (const int codes : {0, 1, 2}) {
            const Image image = write(documents, codes > 0, codes == 2);
            const Searcher searcher({image.source()}, p, documents.size(), documents.tokens.size());
            const PackedHits got = searcher.search(queries.batch(queries.terms), k, 1);
            expect(same_bits(got, searcher.search(queries.batch(queries.terms), k, 4)), "bm25: 4 threads differ from 1");
            if (codes > 0) expect(same_bits(got, first), "bm25: codes change the answer");
            first = got;
            for (std::size_t q = 0; q + 1 < queries.offsets.size(); ++q) {
                const auto want = brute(documents, p, queries, q);
                double scale = 0;
                for (const auto& [row, score] : want) scale = std::max(scale, std::abs(score));
                expect(matches(list(got, q), want, k, 1.2e-7, scale), "bm25 round " + std::to_string(round) + " query " + std::to_string(q));
            }
            expect(searcher.search(queries.batch(queries.terms), 0, 1).ids.empty(), "bm25: k = 0");
            for (const double seconds : {0.0, 1e-6, 1e9}) {
                Searcher::Batch batch = queries.batch(queries.terms);
                batch.deadline = Deadline(seconds);
                std::vector<std::int64_t> reached(queries.offsets.size() - 1, -1);
                const PackedHits cut = searcher.search(batch, k, 4, reached);
                bool told = seconds < 1 || same_bits(cut, got);
                for (std::size_t q = 0; q < reached.size(); ++q)
                    for (const Hit& hit : list(cut, q)) told = told && hit.id < reached[q];
                for (const std::int64_t rows : reached) told = told && (seconds < 1 ? rows >= 0 && rows <= searcher.n_rows() : rows == searcher.n_rows());
                expect(told, "bm25: a deadline leaves rows from one on");
            }
        }
    }
    const Documents one{{0}, {0, 1}, 1};
    const Image image = write(one, true);
    const Searcher searcher({image.source()}, {}, 1, 1);
    const std::vector<std::int32_t> terms(9, 0);
    const std::vector<float> huge(9, 3e38f);
    const std::vector<std::int64_t> offsets{0, 9};
    for (const int threads : {1, 4})
        expect_throw<std::overflow_error>([&] { searcher.search({terms, huge, {}, offsets, {}}, 1, threads); }, "bm25: a sum beyond float32");
    report("bm25");
}

// Cuts documents into segments, kills some, merges the segments, and compares with what the living alone would have become.
void check_merge(Random& random) {
    for (int round = 0; round < 20; ++round) {
        const Documents documents = random_documents(random, 3 + random.below(900), 1 + random.below(12));
        const std::size_t n = documents.size(), cuts[] = {0, 1 + random.below(n - 2), n - 1, n};
        std::vector<Image> images;
        std::vector<std::vector<std::uint8_t>> dead;
        std::vector<std::vector<std::int32_t>> dead_df;
        Documents living;
        living.n_terms = documents.n_terms;
        for (int s = 0; s < 3; ++s) {
            Documents own;
            own.n_terms = documents.n_terms;
            std::vector<std::uint8_t> bits((cuts[s + 1] - cuts[s] + 7) / 8, 0);
            std::vector<std::int32_t> df(documents.n_terms, 0);
            for (std::size_t row = cuts[s]; row < cuts[s + 1]; ++row) {
                const auto begin = documents.tokens.begin() + documents.offsets[row], end = documents.tokens.begin() + documents.offsets[row + 1];
                own.tokens.insert(own.tokens.end(), begin, end);
                own.end();
                if (random.below(4) == 0 && row != 1) {
                    bits[(row - cuts[s]) / 8] |= static_cast<std::uint8_t>(1u << (row - cuts[s]) % 8);
                    for (const auto& [term, tf] : documents.counts(row)) ++df[term];
                } else {
                    living.tokens.insert(living.tokens.end(), begin, end);
                    living.end();
                }
            }
            images.push_back(write(own, round % 2 == 0));
            dead.push_back(bits);
            dead_df.push_back(df);
            expect(dead_frequencies(images.back().view(), bits) == df, "frequencies in dead rows");
        }
        std::vector<std::uint32_t> same(documents.n_terms);
        std::iota(same.begin(), same.end(), 0u);
        std::vector<MergeInput> inputs;
        std::vector<Source> sources;
        for (std::size_t s = 0; s < 3; ++s) {
            inputs.push_back({images[s].view(), dead[s], same, images[s].lists()});
            sources.push_back(images[s].source(static_cast<std::int64_t>(cuts[s])));
            sources.back().dead = dead[s], sources.back().dead_df = dead_df[s];
        }
        Image want = write(living, true, round % 3 == 0);
        Merge merge(inputs, live_lengths(inputs), documents.n_terms, want.coding, true);
        std::vector<std::uint8_t> payload;  // in pieces, as it goes to a file
        const auto take = [&] {
            const auto piece = merge.result().take_payload();
            payload.insert(payload.end(), piece.begin(), piece.end());
        };
        while (merge.step(64)) take();
        merge.result().finish();
        take();
        expect(same_bits(payload, want.payload) && same_bits(merge.result().terms, want.terms) && same_bits(merge.result().blocks, want.blocks) &&
                   merge.result().dense == want.dense && merge.result().dense_terms == want.dense_terms,
               "a merge writes what the living documents alone would be");
        const Forward lists = merge.forward();
        expect(lists.bytes == want.forward && lists.offsets == want.forward_offsets, "a merge's forward lists");

        const Queries queries(random, documents.n_terms, 0, 2);
        std::vector<std::int32_t> thrice;
        for (int s = 0; s < 3; ++s) thrice.insert(thrice.end(), queries.terms.begin(), queries.terms.end());
        const Searcher spread(sources, {}, living.size(), living.tokens.size()), fresh({want.source()}, {}, living.size(), living.tokens.size());
        const PackedHits a = spread.search(queries.batch(thrice), 10, 2), b = fresh.search(queries.batch(queries.terms), 10, 2);
        expect(same_bits(a.scores, b.scores) && a.offsets == b.offsets, "segments and dead rows change no score");
    }
    report("merge");
}

void check_strings(Random& random) {
    for (int round = 0; round < 30; ++round) {
        std::vector<std::vector<std::string>> texts(1 + random.below(4));
        std::vector<std::vector<char>> bytes(texts.size());
        std::vector<std::vector<std::int64_t>> offsets(texts.size());
        std::vector<std::vector<std::uint8_t>> used(texts.size());
        std::vector<Strings> tables;
        std::set<std::string> all;
        for (std::size_t t = 0; t < texts.size(); ++t) {
            std::set<std::string> own;
            for (std::size_t i = random.below(40); i > 0; --i) {
                std::string text;
                for (std::size_t j = random.below(4); j > 0; --j) text += static_cast<char>("\x00""a\x7f\xff"[random.below(4)]);
                own.insert(text);
            }
            texts[t].assign(own.begin(), own.end());
            offsets[t].push_back(0);
            for (const std::string& text : texts[t]) {
                bytes[t].insert(bytes[t].end(), text.begin(), text.end());
                offsets[t].push_back(static_cast<std::int64_t>(bytes[t].size()));
                if (round % 2) used[t].push_back(random.below(3) > 0);
                if (used[t].empty() || used[t].back()) all.insert(text);
            }
            tables.emplace_back(bytes[t], offsets[t], std::span<const std::uint32_t>());
        }
        const MergedStrings merged = merge_strings(tables, used);
        const Strings table(merged.bytes, merged.offsets, {});
        bool ok = table.size() == all.size();
        std::size_t i = 0;
        for (const std::string& text : all) ok = ok && i < table.size() && table[i] == text && table.find(text) == static_cast<std::int64_t>(i++);
        for (std::size_t t = 0; t < texts.size(); ++t)
            for (std::size_t s = 0; s < texts[t].size(); ++s) {
                const bool counts = used[t].empty() || used[t][s] != 0;
                const std::uint32_t place = merged.places[t][s];
                ok = ok && tables[t].find(texts[t][s]) == static_cast<std::int64_t>(s) && (counts ? table[place] == texts[t][s] : place == kUnused);
            }
        expect(ok && table.find("absent") == -1, "strings merge, round " + std::to_string(round));
        std::vector<std::uint32_t> order(tables[0].size());  // the same table the other way round
        std::vector<char> turned;
        std::vector<std::int64_t> turned_offsets{0};
        for (std::size_t s = order.size(); s-- > 0;) {
            turned.insert(turned.end(), texts[0][s].begin(), texts[0][s].end());
            turned_offsets.push_back(static_cast<std::int64_t>(turned.size()));
            order[s] = static_cast<std::uint32_t>(order.size() - 1 - s);
        }
        if (order.empty()) continue;
        const Strings by_order(turned, turned_offsets, order);
        for (std::size_t s = 0; s < order.size(); ++s) expect(by_order.find(texts[0][s]) == order[s], "strings found by their order");
    }
    report("strings");
}

}  // namespace

void check_lexical(Random& random) {
    check_packing(random);
    check_round_trips(random);
    check_wide_lists();
    check_counts(random);
    check_search(random);
    check_merge(random);
    check_strings(random);
}

}  // namespace rerank

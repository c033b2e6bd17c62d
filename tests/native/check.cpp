// Checks csrc/ without Python: random cases against brute force, edge shapes, 1 against 4 threads bit for bit, every usable instruction
// set. Built by CMake with -DRERANK_CHECK=ON or under a sanitizer with -DRERANK_SANITIZE=address|thread. Exits 1 when a check fails.
#include "check.hpp"

#include <atomic>
#include <thread>

#include "cpu.hpp"
#include "fuse.hpp"
#include "mmr.hpp"
#include "order.hpp"
#include "pool.hpp"

using namespace rerank;

namespace {

void check_topk(Random& random) {
    constexpr std::size_t none = 0, one = 1, all = std::numeric_limits<std::size_t>::max();
    for (const std::size_t n : {0, 1, 2, 15, 16, 17, 31, 32, 33, 1000})
        for (const std::size_t k : {none, one, n / 2, n, n + 1, all})
            for (const bool ties : {false, true}) {
                const auto scores = random.normals(n, ties);
                std::vector<std::int64_t> ids(n);
                std::vector<Hit> want;
                for (std::size_t i = 0; i < n; ++i) {
                    ids[i] = ties ? static_cast<std::int64_t>(random.below(9)) - 4 : static_cast<std::int64_t>(i);
                    want.push_back({scores[i], ids[i]});
                }
                std::stable_sort(want.begin(), want.end(), before);
                want.resize(std::min(k, n));
                const auto got = topk(scores, ties ? std::span<const std::int64_t>(ids) : std::span<const std::int64_t>(), k);
                bool same = got.size() == want.size();
                for (std::size_t i = 0; same && i < got.size(); ++i) same = got[i].score == want[i].score && got[i].id == want[i].id;
                expect(same, "topk n=" + std::to_string(n) + " k=" + std::to_string(k));
            }
    const auto got = topk(std::vector<float>{0.0f, -0.0f, 0.0f}, std::vector<std::int64_t>{highest_id, 0, lowest_id}, 3);
    expect(got[0].id == lowest_id && got[1].id == 0 && got[2].id == highest_id, "topk: signed zeros tie, ids decide");
    report("topk");
}

double brute_norm(std::span<const float> scores, std::size_t i, FuseNorm norm) {
    if (norm == FuseNorm::none) return scores[i];
    double low = scores[0], high = scores[0], sum = 0, squares = 0;
    for (const double s : scores) low = std::min(low, s), high = std::max(high, s), sum += s;
    const double n = static_cast<double>(scores.size()), mean = sum / n;
    for (const double s : scores) squares += (s - mean) * (s - mean);
    if (norm == FuseNorm::min_max) return (scores[i] - low) / std::max(high - low, 1e-9);
    return (scores[i] - mean) / std::max(std::sqrt(squares / n), 1e-9);
}

void check_order(Random& random) {
    BucketSort sort;
    for (const std::size_t n : {0, 1, 2, 31, 32, 33, 34, 200, 3000})
        for (int kind = 0; kind < 6; ++kind) {
            std::vector<Hit> want;
            std::vector<Ranked> things;
            for (std::size_t i = 0; i < n; ++i) {
                float score = random.normal();
                if (kind == 1) score = std::round(score);
                if (kind == 2) score = i == 7 ? 3e38f : 1e-30f * score;  // one bucket holds nearly all
                if (kind == 3) score = 1 / (61 + static_cast<float>(i / 2));
                if (kind == 4) score = i % 2 ? 0.0f : -0.0f;
                if (kind == 5) score = std::ldexp(score, static_cast<int>(random.below(250)) - 125);
                want.push_back({score, static_cast<std::int64_t>(random.engine())});
                things.push_back({descending_bits(score), static_cast<std::uint32_t>(i)});
            }
            const auto unsorted = want;
            std::sort(want.begin(), want.end(), before);
            sort(things, [&](std::uint32_t i) { return unsorted[i].id; });
            bool same = things.size() == n;
            for (std::size_t i = 0; same && i < n; ++i) same = unsorted[things[i].index].id == want[i].id && things[i].score() == want[i].score;
            expect(same, "bucket sort n=" + std::to_string(n) + " kind " + std::to_string(kind));
        }
    report("bucket sort");
}

void check_fuse(Random& random) {
    for (int round = 0; round < 90; ++round) {
        const std::size_t n_lists = 1 + random.below(5), n_queries = random.below(20);
        FuseOptions options{static_cast<FuseMethod>(round % 3), static_cast<FuseNorm>(round / 3 % 3), 60, random.below(3) * 7, 1, round % 2 == 0};
        std::vector<double> weights;
        for (std::size_t l = 0; l < n_lists; ++l) weights.push_back(random.normal());
        std::vector<std::vector<std::int64_t>> ids(n_lists * n_queries);
        std::vector<std::vector<float>> scores(n_lists * n_queries);
        std::vector<ListView> lists;
        for (std::size_t l = 0; l < n_lists * n_queries; ++l) {
            for (std::size_t i = random.below(round % 4 ? 40 : 400); i > 0; --i) {
                const auto id = static_cast<std::int64_t>(random.below(60));
                ids[l].push_back(round % 5 ? id : id == 0 ? lowest_id : highest_id - id);
                scores[l].push_back(round % 7 ? random.normal() : 0.1f);
            }
            lists.push_back({ids[l], scores[l]});
        }
        const FusedHits got = fuse(lists, weights, options);
        options.threads = 4;
        const FusedHits again = fuse(lists, weights, options);
        expect(same_bits(got, again) && same_bits(got.contributions, again.contributions) && same_bits(got.places, again.places),
               "fuse: 4 threads differ from 1");
        expect(got.places.size() == (options.explain ? got.ids.size() * n_lists : 0), "fuse: a place for every hit and list");
        for (std::size_t q = 0; q < n_queries; ++q) {
            std::map<std::int64_t, double> want, times;
            double scale = 0;
            for (std::size_t l = 0; l < n_lists; ++l) {
                const ListView& list = lists[q * n_lists + l];
                std::set<std::int64_t> seen;
                for (std::size_t i = 0; i < list.ids.size(); ++i) {
                    if (!seen.insert(list.ids[i]).second) continue;
                    const bool rrf = options.method == FuseMethod::rrf;
                    const double value = rrf ? 1 / (61.0 + static_cast<double>(i)) : brute_norm(list.scores, i, options.norm);
                    want[list.ids[i]] += weights[l] * value;
                    times[list.ids[i]] += 1;
                    scale += std::abs(weights[l] * value);
                }
            }
            if (options.method == FuseMethod::mnz)
                for (auto& [id, value] : want) value *= times[id];
            const std::size_t top = options.top ? options.top : want.size();
            expect(matches(list(got, q), want, top, 1.2e-7, scale * static_cast<double>(n_lists)), "fuse round " + std::to_string(round));
            if (!options.explain) continue;
            bool told = true;
            for (std::size_t h = at(got.offsets, q); h < at(got.offsets, q + 1); ++h) {
                double sum = 0;
                for (std::size_t l = 0; l < n_lists; ++l) {
                    const auto own = lists[q * n_lists + l].ids;
                    const auto found = std::find(own.begin(), own.end(), got.ids[h]) - own.begin();
                    const bool absent = found == static_cast<std::ptrdiff_t>(own.size());
                    told = told && got.places[h * n_lists + l] == (absent ? -1 : found) && (!absent || got.contributions[h * n_lists + l] == 0);
                    sum += got.contributions[h * n_lists + l];
                }
                told = told && near(got.scores[h], sum, 1.2e-7, scale);
            }
            expect(told, "fuse: contributions, round " + std::to_string(round));
        }
    }
    const std::vector<std::int64_t> id{1};
    const std::vector<float> huge{3e38f}, nan{std::numeric_limits<float>::quiet_NaN()};
    for (const std::vector<double>& weights : {std::vector{1.0, 1.0}, std::vector{1e300, -1e300}})
        expect_throw<std::overflow_error>([&] { fuse(std::vector<ListView>{{id, huge}, {id, huge}}, weights, {FuseMethod::sum}); }, "fuse: beyond float32");
    for (const FuseMethod method : {FuseMethod::rrf, FuseMethod::mnz})
        expect_throw<std::overflow_error>([&] { fuse(std::vector<ListView>{{id, nan}}, std::vector{1.0}, {method}); }, "fuse: NaN");
    expect(fuse(std::vector<ListView>{{id, {}}}, std::vector{1.0}, {}).ids == id, "fuse: RRF needs no scores");
    report("fuse");
}

void check_dots_and_mmr(Random& random) {
    for (const Isa isa : usable_isas()) {
        const Kernels table = kernels(isa);
        const std::string name(isa_name(isa));
        for (const std::size_t d : {0, 1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 384})
            for (const std::size_t n : {0, 1, 2, 33}) {
                auto vectors = random.normals(n * d, d == 16);
                auto relevance = random.normals(n, d == 16);
                for (float& x : vectors) x /= std::sqrt(static_cast<float>(d));
                // One float off, so that rows do not start where a vector register would like them to.
                std::vector<float> shifted(n * d + 1), out(n, std::numeric_limits<float>::quiet_NaN());
                std::copy(vectors.begin(), vectors.end(), shifted.begin() + 1);
                const auto dot = [&](std::size_t a, std::size_t b) {
                    double sum = 0;
                    for (std::size_t j = 0; j < d; ++j) sum += static_cast<double>(vectors[a * d + j]) * vectors[b * d + j];
                    return sum;
                };
                std::vector<float> out_x(n), out_y(n);
                if (n > 0) table.two_dots(shifted.data() + 1 + (n - 1) * d, shifted.data() + 1, shifted.data() + 1, n, d, out_x.data(), out_y.data());
                if (n > 0) table.dots(shifted.data() + 1, shifted.data() + 1, n, d, out.data());
                expect(same_bits(out_y, n > 0 ? out : out_y), name + " two_dots is dots, d=" + std::to_string(d));
                for (std::size_t i = 0; i < n; ++i) expect(near(out_x[i], dot(n - 1, i), 5e-7, 16), name + " two_dots d=" + std::to_string(d));
                for (std::size_t i = 0; i < n; ++i) expect(near(out[i], dot(0, i), 5e-7, 16), name + " dots d=" + std::to_string(d));

                const double lambda = static_cast<double>(random.below(5)) / 4;
                const std::size_t k = 1 + random.below(12);
                const auto picks = mmr(relevance, vectors, d, {k, lambda}, table);
                expect(picks.size() == std::min(k, n), name + " mmr: number of picks");
                std::vector<bool> taken(n, false);
                for (std::size_t step = 0; step < picks.size(); ++step) {
                    const auto value = [&](std::size_t i) {
                        double nearest = step ? -std::numeric_limits<double>::infinity() : 0;
                        for (std::size_t s = 0; s < step; ++s) nearest = std::max(nearest, dot(i, static_cast<std::size_t>(picks[s].id)));
                        return lambda * relevance[i] - (1 - lambda) * nearest;
                    };
                    const auto pick = static_cast<std::size_t>(picks[step].id);
                    bool ok = !taken[pick] && near(picks[step].score, value(pick), 5e-7, 16);
                    for (std::size_t i = 0; ok && i < n; ++i) ok = taken[i] || value(i) <= value(pick) + 1e-5;
                    expect(ok, name + " mmr d=" + std::to_string(d) + " step " + std::to_string(step));
                    taken[pick] = true;
                }
            }
        for (const std::size_t n : {31, 32, 33, 300})
            for (const double lambda : {0.0, 0.3, 0.7, 1.0}) {
                const std::size_t d = 41;
                const auto vectors = random.normals(n * d, n == 33), relevance = random.normals(n, n == 33);
                std::vector<float> nearest(n, 0), out(n);
                std::vector<bool> taken(n, false);
                bool same = true;
                const auto picks = mmr(relevance, vectors, d, {n, lambda}, table);
                for (std::size_t step = 0; step < n; ++step) {
                    std::size_t best = n;
                    const auto value = [&](std::size_t i) { return lambda * static_cast<double>(relevance[i]) - (1 - lambda) * static_cast<double>(nearest[i]); };
                    for (std::size_t i = 0; i < n; ++i)
                        if (!taken[i] && (best == n || value(i) > value(best))) best = i;
                    same = same && picks[step].id == static_cast<std::int64_t>(best) && picks[step].score == static_cast<float>(value(best));
                    taken[best] = true;
                    table.dots(vectors.data() + best * d, vectors.data(), n, d, out.data());
                    for (std::size_t i = 0; i < n; ++i) nearest[i] = step ? std::max(nearest[i], out[i]) : out[i];
                }
                expect(same, name + " mmr: the picks of the plain loop, bit for bit, n=" + std::to_string(n));
                const auto query = random.normals(d, n == 33);
                table.dots(query.data(), vectors.data(), n, d, out.data());
                for (const std::size_t k : {std::size_t{0}, std::size_t{1}, n / 2, n}) {
                    const auto given = mmr(out, vectors, d, {k, lambda}, table), asked = mmr_for_query(query, vectors, n, {k, lambda}, table);
                    same = given.size() == asked.size();
                    for (std::size_t i = 0; same && i < k; ++i) same = given[i].id == asked[i].id && given[i].score == asked[i].score;
                    expect(same, name + " mmr: by the query as by its products, n=" + std::to_string(n));
                }
            }
        const auto ties = mmr(std::vector<float>(20, 1.0f), std::vector<float>(20 * 33, 0.25f), 33, {20, 0.5}, table);
        expect(std::is_sorted(ties.begin() + 1, ties.end(), before), name + " mmr: ties go to the lower row");
        const std::vector<float> relevance{1, 2, 3}, huge{1e20f, 1e20f, 1e20f};
        expect_throw<std::overflow_error>([&] { mmr(relevance, huge, 1, {3, 0.5}, table); }, name + " mmr: a product beyond float32");
        expect(mmr(relevance, huge, 1, {3, 1.0}, table)[2].id == 0, name + " mmr: relevance only needs no product");
        report(("dots, mmr: " + name).c_str());
    }
    if (usable_isas().back() != Isa::avx512vnni) expect_throw<std::invalid_argument>([] { kernels(Isa::avx512vnni); }, "an absent instruction set");
}

void check_pool() {
    for (const int threads : {-1, 0, 1, 2, 4, 64})
        for (const std::size_t n : {0, 1, 3, 1000}) {
            std::vector<int> runs(n, 0);
            parallel_for(n, threads, [&] { return [&](std::size_t i) { ++runs[i]; }; });
            expect(std::count(runs.begin(), runs.end(), 1) == static_cast<std::ptrdiff_t>(n), "every item runs once");
            const auto fail = [](std::size_t i) { if (i == 0) throw std::runtime_error("item 0"); };
            if (n > 0) expect_throw<std::runtime_error>([&] { parallel_for(n, threads, [&] { return fail; }); }, "an exception gets out");
        }
    std::vector<std::thread> callers;  // several at once, each with helpers
    std::atomic<int> right{0};
    for (int c = 0; c < 6; ++c)
        callers.emplace_back([&] {
            for (int round = 0; round < 50; ++round) {
                std::atomic<int> sum{0};
                parallel_for(100, 3, [&] { return [&](std::size_t i) { sum += static_cast<int>(i); }; });
                right += sum == 4950;
            }
        });
    for (std::thread& caller : callers) caller.join();
    expect(right == 300, "callers share the pool");
    for (const std::vector<std::size_t>& ends : {std::vector<std::size_t>{0}, {0, 0, 0}, {0, 5, 5, 1000, 1001}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}})
        for (const int threads : {1, 2, 9}) {
            std::vector<std::atomic<int>> runs(ends.size());
            parallel_ranges(ends, threads, 1, [&](std::size_t begin, std::size_t end) {
                for (std::size_t i = begin; i < end; ++i) ++runs[i];
            });
            bool once = true;
            for (std::size_t i = 0; i + 1 < ends.size(); ++i) once &= runs[i] == 1;
            expect(once, "every item is in one range");
        }
    report("pool");
}

}  // namespace

int main() {
    Random random;
    check_topk(random);
    check_order(random);
    check_fuse(random);
    check_dots_and_mmr(random);
    check_lexical(random);
    check_damaged(random);
    check_late(random);
    check_trees(random);
    check_pool();
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

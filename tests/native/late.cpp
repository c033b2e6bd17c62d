// MaxSim over vectors, bytes and residual codes: every instruction set and path against sums in double, one thread against four.
#include <algorithm>
#include <atomic>
#include <bit>
#include <thread>

#include "centroid.hpp"
#include "check.hpp"
#include "inner.hpp"
#include "maxsim.hpp"
#include "residual.hpp"

namespace rerank {
namespace {

std::uint16_t half_of(float x) {  // of numbers that a half holds exactly
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if (x == 0) return 0;
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 0x3ff));
}

double brute(const std::vector<float>& query, const std::vector<float>& weights, const float* tokens, std::size_t n, std::size_t dim) {
    double total = 0;
    for (std::size_t t = 0; t < weights.size(); ++t) {
        double best = -std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < n; ++i) {
            double product = 0;
            for (std::size_t k = 0; k < dim; ++k) product += static_cast<double>(query[t * dim + k]) * tokens[i * dim + k];
            best = std::max(best, product);
        }
        total += weights[t] * best;
    }
    return n ? total : -std::numeric_limits<double>::infinity();
}

bool close(double got, double want, double room) { return got == want || std::abs(got - want) <= room; }

// Multiples of 1/8 up to 2: halves hold them.
std::vector<float> eighths(Random& random, std::size_t n) {
    std::vector<float> out(n);
    for (float& x : out) x = static_cast<float>(static_cast<int>(random.below(33)) - 16) / 8;
    return out;
}

void check_maxsim(Random& random, Isa isa) {
    for (const std::size_t dim : {1, 5, 16, 33, 128})
        for (const std::size_t q : {1, 7, 16, 32, 45}) {
            std::vector<std::size_t> lengths;
            for (std::size_t n = 0; n < 20; ++n) lengths.push_back(n);
            lengths.push_back(41);
            std::size_t total = 0;
            for (const std::size_t n : lengths) total += n;
            const auto query = eighths(random, q * dim), tokens = eighths(random, total * dim), weights = eighths(random, q);
            std::vector<std::uint16_t> halves;
            for (const float x : tokens) halves.push_back(half_of(x));
            std::vector<std::int8_t> bytes;
            for (const float x : tokens) bytes.push_back(static_cast<std::int8_t>(8 * x));
            const std::vector<float> scales(total, 0.125f);
            for (const TokenType type : {TokenType::f32, TokenType::f16, TokenType::i8}) {
                std::vector<DocTokens> docs;
                std::vector<double> want;
                std::size_t first = 0;
                for (const std::size_t n : lengths) {
                    const void* at = type == TokenType::f32 ? static_cast<const void*>(tokens.data() + first * dim)
                                     : type == TokenType::f16 ? static_cast<const void*>(halves.data() + first * dim) : bytes.data() + first * dim;
                    docs.push_back({at, type == TokenType::i8 ? scales.data() + first : nullptr, n});
                    want.push_back(brute(query, weights, tokens.data() + first * dim, n, dim));
                    first += n;
                }
                std::vector<double> one(docs.size()), four(docs.size());
                expect(maxsim(query, weights, dim, type, docs, one, 1, isa) == docs.size(), "maxsim: all are finite");
                maxsim(query, weights, dim, type, docs, four, 4, isa);
                bool right = same_bits(one, four);
                for (std::size_t i = 0; right && i < one.size(); ++i)
                    right = close(one[i], want[i], type == TokenType::i8 ? 4e-4 * static_cast<double>(dim * q) : 1e-4);
                expect(right, "maxsim dim=" + std::to_string(dim) + " q=" + std::to_string(q));
                for (const double seconds : {0.0, 1e-6, 1e9}) {
                    std::vector<double> cut(docs.size());
                    bool told = maxsim(query, weights, dim, type, docs, cut, 4, isa, Deadline(seconds)) == docs.size();
                    for (std::size_t i = 0; told && i < cut.size(); ++i)
                        told = std::isnan(cut[i]) ? seconds < 1 : seconds > 0 && cut[i] == one[i];
                    expect(told, "maxsim: a deadline leaves whole documents");
                }
            }
        }
    std::vector<float> tokens(10 * 8, 1.0f);
    tokens[37] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<DocTokens> docs{{tokens.data(), nullptr, 4}, {tokens.data() + 32, nullptr, 6}};
    std::vector<double> totals(2);
    expect(maxsim(std::vector<float>(8, 1.0f), std::vector<float>{1}, 8, TokenType::f32, docs, totals, 1, isa) == 1, "maxsim: NaN is found");
}

void check_residual(Random& random, Isa isa) {
    for (const std::size_t dim : {8, 40, 128})
        for (const std::size_t nbits : {1, 2, 4})
            for (const std::size_t q : {1, 32, 35}) {
                const std::size_t n_centroids = 30, total = 200, bytes = dim * nbits / 8, codes = std::size_t{1} << nbits;
                const auto query = eighths(random, q * dim), centroids = eighths(random, n_centroids * dim), buckets = eighths(random, codes);
                const std::vector<float> weights(q, 1.0f);
                std::vector<std::uint16_t> ids(total);
                std::vector<std::int32_t> wide(total);
                std::vector<std::uint8_t> residuals(total * bytes);
                for (std::size_t i = 0; i < total; ++i) wide[i] = ids[i] = static_cast<std::uint16_t>(random.below(n_centroids));
                for (auto& byte : residuals) byte = static_cast<std::uint8_t>(random.below(256));
                const std::vector<float> norms(total, 0.5f);
                float radius = 0;
                for (std::size_t c = 0; c < n_centroids; ++c) {
                    float squares = 0;
                    for (std::size_t k = 0; k < dim; ++k) squares += centroids[c * dim + k] * centroids[c * dim + k];
                    radius = std::max(radius, std::sqrt(squares));
                }
                std::vector<float> decoded(total * dim);
                for (std::size_t i = 0; i < total; ++i)
                    for (std::size_t k = 0; k < dim; ++k) {
                        std::size_t code = 0;
                        for (std::size_t b = 0; b < nbits; ++b) {  // lowest bit first, from a byte's highest bit on
                            const std::size_t bit = k * nbits + b;
                            code |= static_cast<std::size_t>(residuals[i * bytes + bit / 8] >> (7 - bit % 8) & 1) << b;
                        }
                        decoded[i * dim + k] = (centroids[ids[i] * dim + k] + buckets[code]) * 0.5f;
                    }
                const std::vector<TokenRange> docs{{0, 0}, {0, 1}, {1, 2}, {3, 13}, {16, 84}, {100, 100}, {0, 200}};
                std::vector<ResidualPath> paths{ResidualPath::decode, ResidualPath::lookup16, ResidualPath::lookup8, ResidualPath::automatic};
                if (nbits == 4 && isa == Isa::avx512vnni) paths.push_back(ResidualPath::dot8);
                for (const ResidualPath path : paths)
                    for (const bool narrow : {true, false}) {
                        const void* id = narrow ? static_cast<const void*>(ids.data()) : wide.data();
                        const ResidualStore store{centroids.data(), n_centroids, dim, nbits, buckets.data(), radius, id, !narrow, residuals.data(),
                                                  norms.data()};
                        std::vector<float> one(docs.size()), four(docs.size()), slack(docs.size());
                        ResidualWork work{};
                        const ResidualCall call{query, weights, store, docs, nullptr, 0, path, 1, isa};
                        expect(residual_maxsim(call, one, slack, work) == docs.size(), "residual: all are finite");
                        ResidualCall more = call;
                        more.threads = 4;
                        std::vector<float> again(docs.size());
                        residual_maxsim(more, four, again, work);
                        bool right = same_bits(one, four);
                        for (const double seconds : {0.0, 1e-6, 1e9}) {
                            more.deadline = Deadline(seconds);
                            bool told = residual_maxsim(more, four, again, work) == docs.size();
                            for (std::size_t d = 0; told && d < docs.size(); ++d)
                                told = std::isnan(four[d]) ? seconds < 1 : seconds > 0 && four[d] == one[d];
                            expect(told, "residual: a deadline leaves whole documents");
                        }
                        for (std::size_t d = 0; right && d < docs.size(); ++d)
                            right = close(one[d], brute(query, weights, decoded.data() + docs[d].first * dim, docs[d].n, dim), slack[d] + 1e-3);
                        expect(right, "residual dim=" + std::to_string(dim) + " bits=" + std::to_string(nbits) + " q=" + std::to_string(q));
                    }
                wide[150] = static_cast<std::int32_t>(n_centroids);
                const ResidualStore store{centroids.data(), n_centroids, dim, nbits, buckets.data(), radius, wide.data(), true, residuals.data(), norms.data()};
                std::vector<float> scores(docs.size()), slack(docs.size());
                ResidualWork work{};
                const ResidualCall call{query, weights, store, docs, nullptr, 0, ResidualPath::automatic, 1, isa};
                expect_throw<std::out_of_range>([&] { residual_maxsim(call, scores, slack, work); }, "residual: a centroid that is not there");
            }
}

// Lists long enough for several threads, from several callers at once.
void check_threads(Random& random, Isa isa) {
    const std::size_t dim = 16, n = 300, length = 40, q = 3, n_centroids = 9;
    const auto query = eighths(random, q * dim), tokens = eighths(random, n * length * dim), centroids = eighths(random, n_centroids * dim);
    const auto buckets = eighths(random, 16);
    const std::vector<float> weights(q, 1.0f), norms(n * length, 0.5f);
    std::vector<std::uint16_t> ids(n * length);
    for (auto& id : ids) id = static_cast<std::uint16_t>(random.below(n_centroids));
    std::vector<std::uint8_t> residuals(n * length * dim / 2);
    for (auto& byte : residuals) byte = static_cast<std::uint8_t>(random.below(256));
    std::vector<DocTokens> docs;
    std::vector<TokenRange> ranges;
    for (std::size_t i = 0; i < n; ++i) {
        docs.push_back({tokens.data() + i * length * dim, nullptr, length});
        ranges.push_back({i * length, length});
    }
    const ResidualStore store{centroids.data(), n_centroids, dim, 4, buckets.data(), 8, ids.data(), false, residuals.data(), norms.data()};
    const auto vectors = [&](int threads) {
        std::vector<double> totals(n);
        maxsim(query, weights, dim, TokenType::f32, docs, totals, threads, isa);
        return totals;
    };
    const auto codes = [&](ResidualPath path, int threads) {
        std::vector<float> scores(n), slack(n);
        ResidualWork work{};
        residual_maxsim({query, weights, store, ranges, nullptr, 0, path, threads, isa}, scores, slack, work);
        return scores;
    };
    const auto plain = vectors(1);
    std::atomic<int> wrong{0};
    std::vector<std::jthread> callers;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            for (int round = 0; round < 3; ++round) wrong += !same_bits(plain, vectors(4));
        });
    callers.clear();
    expect(wrong == 0, "maxsim: the same on four threads, from three callers");
    for (const ResidualPath path : {ResidualPath::decode, ResidualPath::lookup16, ResidualPath::lookup8, ResidualPath::automatic8})
        expect(same_bits(codes(path, 1), codes(path, 4)), "residual: the same on four threads");
}

void check_inner(Random& random, Isa isa, std::size_t dim, std::size_t q, std::size_t n) {
    const auto queries = eighths(random, q * dim), vectors = eighths(random, n * dim);
    std::vector<std::uint16_t> halves(vectors.size());
    std::transform(vectors.begin(), vectors.end(), halves.begin(), half_of);
    std::vector<std::int64_t> rows;
    for (std::size_t i = 0; i < n / 2; ++i) rows.push_back(static_cast<std::int64_t>(random.below(n)));
    std::vector<float> want(q * n), picked;
    for (std::size_t i = 0; i < q; ++i)
        for (std::size_t j = 0; j < n; ++j)
            for (std::size_t k = 0; k < dim; ++k) want[i * n + j] += queries[i * dim + k] * vectors[j * dim + k];
    for (std::size_t i = 0; i < q; ++i)
        for (const std::int64_t row : rows) picked.push_back(want[i * n + static_cast<std::size_t>(row)]);
    const auto products = [&](TokenType type, bool chosen, int threads, Deadline deadline = {}) {
        const std::size_t m = chosen ? rows.size() : n;
        std::vector<float> out(q * m, 99);
        const void* held = type == TokenType::f32 ? static_cast<const void*>(vectors.data()) : halves.data();
        const InnerCall call{queries, q, dim, type, held, chosen ? rows.data() : nullptr, m, threads, deadline};
        expect(inner_products(call, out.data(), isa) == (q && deadline.passed() ? 0 : m), "inner: how many rows are done");
        return out;
    };
    for (const TokenType type : {TokenType::f32, TokenType::f16})
        for (const int threads : {1, 4}) {
            expect(same_bits(products(type, false, threads), want), "inner: sums of eighths are exact");
            expect(same_bits(products(type, true, threads), picked), "inner: rows that are chosen");
            if (n) products(type, false, threads, Deadline(0));
        }
}

void check_inner(Random& random, Isa isa) {
    for (const std::size_t dim : {1, 15, 16, 17, 40})
        for (const std::size_t q : {0, 1, 2, 3, 4, 9})
            for (const std::size_t n : {0, 1, 7, 8, 29, 500}) check_inner(random, isa, dim, q, n);
    check_inner(random, isa, 64, 9, 16'000);  // enough for four threads
    report(("inner " + std::string(isa_name(isa))).c_str());
}

void check_centroid(Random& random) {
    constexpr std::size_t n_centroids = 9, n = 400;
    for (const std::size_t q : {1, 31, 32, 33, 70}) {
        const std::size_t stride = (q + residual_lanes - 1) / residual_lanes * residual_lanes;
        const auto table = eighths(random, n_centroids * stride), weights = eighths(random, q);
        std::vector<TokenRange> docs;
        std::size_t total = 0;
        for (std::size_t i = 0; i < n; total += docs.back().n, ++i) docs.push_back({total, random.below(90)});
        std::vector<std::uint16_t> ids(total);
        for (auto& id : ids) id = static_cast<std::uint16_t>(random.below(n_centroids));
        std::vector<std::int32_t> wide(ids.begin(), ids.end());
        const auto scored = [&](bool is_wide, int threads) {
            std::vector<float> scores(n, 99);
            const void* held = is_wide ? static_cast<const void*>(wide.data()) : ids.data();
            expect(centroid_maxsim({table.data(), stride, weights, held, is_wide, n_centroids, docs, threads}, scores) == n, "centroid: all are finite");
            return scores;
        };
        std::vector<float> want;
        for (const TokenRange doc : docs) {
            double sum = doc.n ? 0 : -std::numeric_limits<double>::infinity();
            for (std::size_t i = 0; doc.n && i < q; ++i) {
                float best = -std::numeric_limits<float>::infinity();
                for (std::size_t j = 0; j < doc.n; ++j) best = std::max(best, table[ids[doc.first + j] * stride + i]);
                sum += static_cast<double>(weights[i]) * best;
            }
            want.push_back(static_cast<float>(sum));
        }
        for (const bool is_wide : {false, true})
            for (const int threads : {1, 4}) expect(same_bits(scored(is_wide, threads), want), "centroid: q=" + std::to_string(q));
        wide[total / 2] = -1;
        expect_throw<std::out_of_range>([&] { scored(true, 4); }, "centroid: an id out of range");
    }
    report("centroid");
}

}  // namespace

void check_late(Random& random) {
    check_centroid(random);
    for (const Isa isa : usable_isas()) {
        check_inner(random, isa);
        check_maxsim(random, isa);
        check_residual(random, isa);
        check_threads(random, isa);
        report(("late interaction: " + std::string(isa_name(isa))).c_str());
    }
}

}  // namespace rerank

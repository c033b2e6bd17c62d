#include "residual.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>

#include "dot8.hpp"
#include "pool.hpp"

namespace rerank {
namespace {

constexpr std::size_t line = 64;  // bytes
// Code bytes of a token whose table entries add up within 16 bits: 255 * 256, and 2^15 less half a step each.
constexpr std::size_t most_bytes8 = 256, most_bytes16 = 8192;

// Memory that starts on a cache line: a row of a table then is one line, or half of one.
template <class T>
class Aligned {
public:
    explicit Aligned(std::size_t n) : memory_(new std::uint8_t[n * sizeof(T) + line]) {}
    T* data() const {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
        return reinterpret_cast<T*>(memory_.get() + (line - address % line) % line);
    }

private:
    std::unique_ptr<std::uint8_t[]> memory_;  // not initialised
};

std::vector<std::size_t> running_sums(std::span<const TokenRange> docs) {
    std::vector<std::size_t> ends(docs.size() + 1, 0);
    for (std::size_t i = 0; i < docs.size(); ++i) ends[i + 1] = ends[i] + docs[i].n;
    return ends;
}

// The blocks of 32 query tokens, transposed.
class Blocks {
public:
    Blocks(std::span<const float> query, std::size_t n_tokens, std::size_t dim) : n_((n_tokens + residual_lanes - 1) / residual_lanes), values_(n_ * dim * residual_lanes) {
        std::fill_n(values_.data(), n_ * dim * residual_lanes, 0.0f);
        for (std::size_t b = 0; b < n_; ++b) {
            const std::size_t first = b * residual_lanes, tokens = std::min(residual_lanes, n_tokens - first);
            float* block = values_.data() + b * dim * residual_lanes;
            for (std::size_t t = 0; t < tokens; ++t)
                for (std::size_t k = 0; k < dim; ++k) block[k * residual_lanes + t] = query[(first + t) * dim + k];
            blocks.push_back({first, tokens, block, nullptr, {}, {}, {}});
        }
    }
    std::vector<ResidualBlock> blocks;

private:
    std::size_t n_;
    Aligned<float> values_;
};

template <class Id>
void mark(const Id* ids, std::span<const TokenRange> docs, std::size_t n_centroids, std::vector<std::uint8_t>* touched, Deadline deadline) {
    for (std::size_t d = 0; d < docs.size(); ++d) {
        if (deadline.passed(d, 1024)) return;  // and so it has for what would use them
        const TokenRange doc = docs[d];
        std::size_t largest = 0;
        for (std::size_t i = doc.first; i < doc.first + doc.n; ++i) largest = std::max(largest, static_cast<std::size_t>(ids[i]));
        if (doc.n && largest >= n_centroids)  // a negative id is large without its sign
            throw std::out_of_range("a centroid id is not below the number of centroids, " + std::to_string(n_centroids));
        if (touched)
            for (std::size_t i = doc.first; i < doc.first + doc.n; ++i) (*touched)[static_cast<std::size_t>(ids[i])] = 1;
    }
}

// Checks the ids of the documents; lists the distinct ones if asked to.
std::vector<std::uint32_t> touched_centroids(const ResidualStore& store, std::span<const TokenRange> docs, bool list, Deadline deadline) {
    std::vector<std::uint8_t> touched(list ? store.n_centroids : 0);
    if (store.wide_ids)
        mark(static_cast<const std::int32_t*>(store.centroid_ids), docs, store.n_centroids, list ? &touched : nullptr, deadline);
    else
        mark(static_cast<const std::uint16_t*>(store.centroid_ids), docs, store.n_centroids, list ? &touched : nullptr, deadline);
    std::vector<std::uint32_t> out;
    for (std::size_t c = 0; c < touched.size(); ++c)
        if (touched[c]) out.push_back(static_cast<std::uint32_t>(c));
    return out;
}

void products(const ResidualKernel& kernel, std::span<const ResidualBlock> blocks, const ResidualStore& store, const std::vector<std::uint32_t>* list,
              float* out, std::size_t stride, int threads, Deadline deadline = {}) {
    constexpr std::size_t piece = 480;  // centroids of a call: full tiles of any size up to 16
    const std::size_t n = list ? list->size() : store.n_centroids, pieces = (n + piece - 1) / piece;
    parallel_for(pieces, n < 4 * piece ? 1 : threads, [&] {
        return [&, scratch = std::vector<float>(kernel.scratch_rows * store.dim)](std::size_t p) mutable {
            if (deadline.passed()) return;  // and so it has for what would use them
            const std::size_t from = p * piece, count = std::min(piece, n - from);
            for (const ResidualBlock& block : blocks)
                kernel.products(block, store, list ? list->data() + from : nullptr, from, count, scratch.data(), out, stride);
        };
    });
}

// How far float32 sums of <query token, centroid + residual> may be apart, whatever their order: of a query token of this length, and the sum
// of its values times the largest bucket weight. Both what is compared rounds `dim` products and as many sums, and a few more.
double sum_error(double length, double residual, const ResidualStore& store) {
    return 2 * static_cast<double>(store.dim + 16) * 0x1p-24 * (length * store.radius + residual) * 1.001;
}

// Steps, offsets and error bounds of a block's table. Each of a token's `bytes` entries is rounded, by half a step at most.
void scale(ResidualBlock& block, const ResidualStore& store, bool wide) {
    const std::size_t codes = std::size_t{1} << store.nbits, per = 8 / store.nbits, bytes = store.dim / per;
    const auto [low, high] = std::minmax_element(store.bucket_weights, store.bucket_weights + codes);
    const double largest = std::max(std::fabs(*low), std::fabs(*high));
    for (std::size_t t = 0; t < residual_lanes; ++t) {
        double sum = 0, widest = 0, offset = 0, squares = 0;
        for (std::size_t p = 0; p < bytes; ++p) {
            double range = 0;
            for (std::size_t k = p * per; k < (p + 1) * per; ++k) {
                const double q = block.query[k * residual_lanes + t];
                sum += std::fabs(q) * largest;
                squares += q * q;
                range += std::fabs(q) * (static_cast<double>(*high) - *low);
                offset += q * (q < 0 ? *high : *low);
            }
            widest = std::max(widest, range);
        }
        // Sums of rounded entries, half a step beyond each, stay below 2^15. A step below the normal floats would have no inverse.
        const double step = wide ? sum / (32766 - 0.5 * static_cast<double>(bytes)) : widest / 255;
        block.step[t] = step > 0 ? std::max(static_cast<float>(step), std::numeric_limits<float>::min()) : 0.0f;
        block.offset[t] = wide ? 0.0f : static_cast<float>(offset);
        block.error[t] = static_cast<float>(0.5 * static_cast<double>(bytes) * block.step[t] * 1.001 + sum_error(std::sqrt(squares), sum, store));
    }
}

template <class Entry>
Aligned<Entry> build(std::vector<ResidualBlock>& blocks, const ResidualStore& store,
                     void (*row)(const ResidualBlock&, const ResidualStore&, std::size_t, Entry*)) {
    const std::size_t bytes = store.dim * store.nbits / 8, size = bytes * 256 * residual_lanes;
    Aligned<Entry> tables(blocks.size() * size);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
        Entry* table = tables.data() + b * size;
        scale(blocks[b], store, sizeof(Entry) == 2);
        for (std::size_t p = 0; p < bytes; ++p) row(blocks[b], store, p, table + p * 256 * residual_lanes);
        blocks[b].table = table;
    }
    return tables;
}

// The fastest path within the bound that was asked for: in units of a product of one token with 32 query tokens, as measured.
ResidualPath cheapest(ResidualPath asked, std::size_t tokens, std::size_t centroids, const ResidualStore& store, bool dot8) {
    const double bytes = static_cast<double>(store.dim * store.nbits) / 8, unit = static_cast<double>(store.dim) / 128;
    const double decode = 1.5 * unit * static_cast<double>(tokens);
    const double lookup = bytes * 30 + unit * static_cast<double>(centroids) + (0.08 + bytes * 0.012) * static_cast<double>(tokens);
    if (asked == ResidualPath::automatic) return lookup < decode ? ResidualPath::lookup16 : ResidualPath::decode;
    const double dot = unit * static_cast<double>(centroids) + 0.35 * unit * static_cast<double>(tokens);
    if (dot8 && store.nbits == 4 && dot < std::min(lookup, decode)) return ResidualPath::dot8;
    return lookup < decode ? store.nbits == 4 ? ResidualPath::lookup8 : ResidualPath::lookup16 : ResidualPath::decode;
}

// Where the deadline has passed: the scores from i to `end` are those of documents that it left.
bool left(const ResidualCall& call, std::span<float> scores, std::size_t begin, std::size_t i, std::size_t end) {
    if (!call.deadline.passed(i - begin, documents_between_looks)) return false;
    std::fill(scores.begin() + static_cast<std::ptrdiff_t>(i), scores.begin() + static_cast<std::ptrdiff_t>(end), std::numeric_limits<float>::quiet_NaN());
    return true;
}

std::size_t decoded(const ResidualCall& call, const Kernels& table, std::span<float> scores) {
    const BlockedQuery blocked(call.query, call.weights, call.store.dim, table.maxsim);
    std::atomic<std::size_t> bad{call.docs.size()};
    parallel_ranges(running_sums(call.docs), call.threads, tokens_per_thread, [&](std::size_t begin, std::size_t end) {
        std::size_t longest = 0;
        for (std::size_t i = begin; i < end; ++i) longest = std::max(longest, call.docs[i].n);
        const Aligned<float> tokens(longest * call.store.dim);
        std::vector<float> scratch(table.maxsim.scratch_rows * call.store.dim);
        for (std::size_t i = begin; i < end; ++i) {
            if (left(call, scores, begin, i, end)) return;
            table.residual.decode(call.store, call.docs[i].first, call.docs[i].n, tokens.data());
            if (!call.docs[i].n) {
                scores[i] = -std::numeric_limits<float>::infinity();
                continue;
            }
            double total = 0;
            const DocTokens doc{tokens.data(), nullptr, call.docs[i].n};
            const bool finite = table.maxsim.score(blocked, TokenType::f32, doc, tokens.data(), scratch.data(), &total);
            scores[i] = static_cast<float>(total);
            if (!finite || !std::isfinite(scores[i])) lower(bad, i);
        }
    });
    return bad.load();
}

}  // namespace

void centroid_scores(std::span<const float> query, std::size_t n_tokens, std::span<const float> centroids, std::size_t dim, std::size_t stride,
                     float* out, int threads, Isa isa) {
    const Blocks blocks(query, n_tokens, dim);
    const ResidualStore store{centroids.data(), dim ? centroids.size() / dim : 0, dim, 0, nullptr, 0, nullptr, false, nullptr, nullptr};
    products(kernels(isa).residual, blocks.blocks, store, nullptr, out, stride, threads);
}

namespace {

// Weighted sums of the maxima over the blocks. scan(block, document, maxima, largest inverse norm) is false when a value was not finite.
template <class Block, class MakeScan>
std::size_t scan_all(const ResidualCall& call, const std::vector<Block>& blocks, std::span<float> scores, std::span<float> slack, MakeScan make_scan) {
    std::atomic<std::size_t> bad{call.docs.size()};
    parallel_ranges(running_sums(call.docs), call.threads, tokens_per_thread, [&](std::size_t begin, std::size_t end) {
        auto scan = make_scan();
        float maxima[residual_lanes], largest = 0;
        for (std::size_t i = begin; i < end; ++i) {
            if (left(call, scores, begin, i, end)) return;
            if (!call.docs[i].n) {
                scores[i] = -std::numeric_limits<float>::infinity();
                continue;
            }
            double total = 0, error = 0;
            bool finite = true;
            for (const Block& block : blocks) {
                finite &= scan(block, call.docs[i], maxima, &largest);
                for (std::size_t t = 0; t < block.tokens; ++t) {
                    const double weight = call.weights[block.first + t];
                    total += weight * maxima[t];
                    error += std::fabs(weight) * block.error[t] * largest;
                }
            }
            scores[i] = static_cast<float>(total);
            slack[i] = static_cast<float>(error);
            if (!finite || !std::isfinite(scores[i])) lower(bad, i);
        }
    });
    return bad.load();
}

// 4-bit codes: each half of a byte becomes a byte that stands for its bucket weight.
std::size_t by_bytes(const ResidualCall& call, const Dot8Kernel& kernel, const float* centroids, std::size_t stride, std::span<float> scores,
                     std::span<float> slack) {
    const ResidualStore& store = call.store;
    const auto [low, high] = std::minmax_element(store.bucket_weights, store.bucket_weights + 16);
    const double unit = (static_cast<double>(*high) - *low) / 255, middle = *low + 128 * unit;
    std::uint8_t table[16];
    double error = 0;
    for (unsigned half = 0; half < 16; ++half) {  // ColBERT writes the lowest bit first
        const unsigned code = (half & 8) >> 3 | (half & 4) >> 1 | (half & 2) << 1 | (half & 1) << 3;
        const long byte = unit > 0 ? std::lrint((store.bucket_weights[code] - *low) / unit) : 0;
        table[half] = static_cast<std::uint8_t>(byte);
        error = std::max(error, std::fabs(*low + unit * static_cast<double>(byte) - store.bucket_weights[code]));
    }
    const std::size_t bytes = store.dim / 2, width = byte_width(store.dim);
    std::vector<std::size_t> order(store.dim);
    for (std::size_t p = 0; p < bytes; ++p) {
        order[p] = 2 * p;
        order[bytes + p] = 2 * p + 1;
    }
    ByteQuery query(call.query, call.weights.size(), store.dim, 1, middle, unit, order, error);
    const double most = std::max(std::fabs(*low), std::fabs(*high));
    for (ByteBlock& block : query.blocks)
        for (std::size_t t = 0; t < block.tokens; ++t) {
            double squares = 0, absolute = 0;
            for (const float q : call.query.subspan((block.first + t) * store.dim, store.dim)) {
                squares += static_cast<double>(q) * q;
                absolute += std::fabs(q);
            }
            block.error[t] += static_cast<float>(sum_error(std::sqrt(squares), absolute * most, store));
        }
    return scan_all(call, query.blocks, scores, slack, [&] {
        return [&, rows = std::vector<std::uint8_t>(), bases = std::vector<const float*>()](const ByteBlock& block, const TokenRange& doc, float* maxima,
                                                                                          float* largest) mutable {
            if (rows.size() < doc.n * width) rows.resize(doc.n * width);
            if (block.first == 0) kernel.halves(store.codes + doc.first * bytes, doc.n, bytes, table, width, rows.data());
            bases.resize(doc.n);
            *largest = 0;
            for (std::size_t i = 0; i < doc.n; ++i) {
                bases[i] = centroids + centroid_of(store, doc.first + i) * stride + block.first;
                __builtin_prefetch(bases[i]);
                __builtin_prefetch(bases[i] + 16);
                *largest = std::max(*largest, std::fabs(store.inverse_norms[doc.first + i]));
            }
            return kernel.scan(block, {rows.data(), bases.data(), store.inverse_norms + doc.first}, doc.n, maxima);
        };
    });
}

}  // namespace

std::size_t residual_maxsim(const ResidualCall& call, std::span<float> scores, std::span<float> slack, ResidualWork& work) {
    const ResidualStore& store = call.store;
    Kernels table = kernels(call.isa);
    if (store.dim > most_byte_dim) table.dot8 = {};
    std::size_t tokens = 0;
    for (const TokenRange& doc : call.docs) tokens += doc.n;
    const bool all = tokens >= 4 * store.n_centroids, list = !call.centroid_scores && !all && call.path != ResidualPath::decode;
    const std::vector<std::uint32_t> touched = touched_centroids(store, call.docs, list, call.deadline);
    const std::size_t n_products = call.centroid_scores ? 0 : list ? touched.size() : store.n_centroids;
    work = {call.path, tokens, n_products};
    if (work.path == ResidualPath::automatic || work.path == ResidualPath::automatic8)
        work.path = call.whole_tokens ? cheapest(work.path, call.whole_tokens, call.whole_products, store, table.dot8.scan != nullptr)
                                      : cheapest(work.path, tokens, n_products, store, table.dot8.scan != nullptr);
    const std::size_t bytes = store.dim * store.nbits / 8;
    if (work.path == ResidualPath::lookup8 && bytes > most_bytes8) work.path = ResidualPath::lookup16;
    if (work.path == ResidualPath::lookup16 && bytes > most_bytes16) work.path = ResidualPath::decode;
    if (work.path == ResidualPath::dot8 && (store.nbits != 4 || !table.dot8.scan)) throw std::invalid_argument("dot8 needs 4-bit codes and VNNI");
    std::fill(slack.begin(), slack.end(), 0.0f);
    if (work.path == ResidualPath::decode) {
        work.centroids = 0;
        return decoded(call, table, scores);
    }
    Blocks blocks(call.query, call.weights.size(), store.dim);
    const std::size_t stride = call.centroid_scores ? call.stride : blocks.blocks.size() * residual_lanes;
    const Aligned<float> computed(call.centroid_scores ? 0 : store.n_centroids * stride);
    if (!call.centroid_scores) products(table.residual, blocks.blocks, store, list ? &touched : nullptr, computed.data(), stride, call.threads, call.deadline);
    const float* centroids = call.centroid_scores ? call.centroid_scores : computed.data();
    if (work.path == ResidualPath::dot8) return by_bytes(call, table.dot8, centroids, stride, scores, slack);
    const bool wide = work.path == ResidualPath::lookup16;
    const Aligned<std::int16_t> table16 = wide ? build(blocks.blocks, store, table.residual.build16) : Aligned<std::int16_t>(0);
    const Aligned<std::uint8_t> table8 = wide ? Aligned<std::uint8_t>(0) : build(blocks.blocks, store, table.residual.build8);
    const auto scan = wide ? table.residual.scan16 : table.residual.scan8;
    return scan_all(call, blocks.blocks, scores, slack, [&] {
        return [&](const ResidualBlock& block, const TokenRange& doc, float* maxima, float* largest) {
            return scan(block, store, doc.first, doc.n, centroids + block.first, stride, maxima, largest);
        };
    });
}

}  // namespace rerank

// The kernels of residual.hpp: one template, compiled once per instruction set by residual_<isa>.cpp. `static` for the reason that
// maxsim_kernel.hpp gives.
#pragma once

#include <cstring>

#include "maxsim_kernel.hpp"
#include "residual.hpp"

namespace rerank {

// ColBERT writes each code's lowest bit first, into bytes from their highest bit on: the other way round, codes follow one another from the
// lowest bit on.
static inline std::uint8_t reversed(std::uint8_t byte) {
    byte = static_cast<std::uint8_t>((byte & 0xf0) >> 4 | (byte & 0x0f) << 4);
    byte = static_cast<std::uint8_t>((byte & 0xcc) >> 2 | (byte & 0x33) << 2);
    return static_cast<std::uint8_t>((byte & 0xaa) >> 1 | (byte & 0x55) << 1);
}

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

namespace {

// Four dimensions at a time: half a byte of codes at 1 bit, one at 2 bits, two at 4 bits.
template <int NBITS>
struct FourWeights {
    static constexpr int entries = NBITS == 1 ? 16 : 256, width = NBITS == 4 ? 2 : 4;
    float weights[entries][width];

    explicit FourWeights(const float* bucket_weights) {
        for (int e = 0; e < entries; ++e)
            for (int j = 0; j < width; ++j) {
                const int codes = reversed(static_cast<std::uint8_t>(NBITS == 1 ? e << 4 : e));
                weights[e][j] = bucket_weights[codes >> (j * NBITS) & ((1 << NBITS) - 1)];
            }
    }
    Four at(const std::uint8_t* codes, std::size_t four) const {
        if constexpr (NBITS == 1) return *reinterpret_cast<const Four*>(weights[four % 2 ? codes[four / 2] & 15 : codes[four / 2] >> 4]);
        if constexpr (NBITS == 2) return *reinterpret_cast<const Four*>(weights[codes[four]]);
        typedef double Two __attribute__((vector_size(16)));
        Two pairs{};  // of float32, moved as they are
        std::memcpy(&pairs, weights[codes[2 * four]], 8);
        double second;
        std::memcpy(&second, weights[codes[2 * four + 1]], 8);
        pairs[1] = second;
        return reinterpret_cast<Four>(pairs);
    }
};

}  // namespace

template <int NBITS>
static void residual_decode_bits(const ResidualStore& store, std::size_t first, std::size_t n, float* out) {
    const FourWeights<NBITS> weights(store.bucket_weights);
    const std::size_t bytes = store.dim * NBITS / 8, fours = store.dim / 4;
    for (std::size_t i = first; i < first + n; ++i, out += store.dim) {
        const std::uint8_t* codes = store.codes + i * bytes;
        const float* centroid = store.centroids + centroid_of(store, i) * store.dim;
        const float inverse = store.inverse_norms[i];
        for (std::size_t f = 0; f < fours; ++f)
            reinterpret_cast<Four*>(out)[f] = (reinterpret_cast<const Four*>(centroid)[f] + weights.at(codes, f)) * inverse;
        for (std::size_t k = fours * 4; k < store.dim; ++k)  // at 4 bits two dimensions may be left
            out[k] = (centroid[k] + store.bucket_weights[reversed(codes[k * NBITS / 8]) >> (k * NBITS % 8) & ((1 << NBITS) - 1)]) * inverse;
    }
}

static void residual_decode(const ResidualStore& store, std::size_t first, std::size_t n, float* out) {
    if (store.nbits == 1) return residual_decode_bits<1>(store, first, n, out);
    if (store.nbits == 2) return residual_decode_bits<2>(store, first, n, out);
    residual_decode_bits<4>(store, first, n, out);
}

template <class I, int D, int R>
static inline void product_rows(std::size_t n, const float* rows, std::size_t d, const float* query, float (*out)[residual_lanes]) {
    constexpr int nv = residual_lanes / I::width;
    if constexpr (R > 0) {
        if (n != R) return product_rows<I, D, R - 1>(n, rows, d, query, out);
        VecOf<I> sum[R][nv] = {};
        tile_products<I, nv, R, D>(rows, d, query, Ahead<I>{}, sum);
        std::memcpy(out, sum, sizeof(sum));
    }
}

template <class I>
static void residual_products(const ResidualBlock& block, const ResidualStore& store, const std::uint32_t* list, std::size_t from, std::size_t n,
                              float* scratch, float* out, std::size_t stride) {
    constexpr int most = I::rows(residual_lanes / I::width);
    const std::size_t d = store.dim;
    for (std::size_t i = 0; i < n; i += most) {
        const std::size_t rows = n - i < most ? n - i : most;
        const float* at = store.centroids + (from + i) * d;
        if (list) {
            for (std::size_t r = 0; r < rows; ++r) std::memcpy(scratch + r * d, store.centroids + list[i + r] * d, d * sizeof(float));
            at = scratch;
        }
        float products[most][residual_lanes];
        if (d == 128)
            product_rows<I, 128, most>(rows, at, d, block.query, products);
        else
            product_rows<I, 0, most>(rows, at, d, block.query, products);
        for (std::size_t r = 0; r < rows; ++r)
            std::memcpy(out + (list ? list[i + r] : from + i + r) * stride + block.first, products[r], sizeof(products[r]));
    }
}

// What each value of a byte adds, in steps, for 32 query tokens: floats [256][32], by the reversed byte.
template <class I>
struct ByteSums {
    using Vec = VecOf<I>;
    static constexpr int nv = residual_lanes / I::width;
    Vec rows[256][nv];

    ByteSums(const ResidualBlock& block, const ResidualStore& store, std::size_t position, const float* lowest) {
        const std::size_t per = 8 / store.nbits;
        const float* w = store.bucket_weights;
        Vec scaled[8][nv];
        for (int v = 0; v < nv; ++v) {
            Vec inverse{}, sum{};
            for (std::size_t l = 0; l < I::width; ++l) {
                const float step = block.step[v * I::width + l];
                inverse[l] = step > 0 ? 1 / step : 0;
                sum[l] = lowest ? -lowest[v * I::width + l] * inverse[l] : 0;
            }
            for (std::size_t j = 0; j < per; ++j) {
                const Vec q = reinterpret_cast<const typename I::Loose*>(block.query + (position * per + j) * residual_lanes)[v];
                scaled[j][v] = q * inverse;
                sum += scaled[j][v] * w[0];
            }
            rows[0][v] = sum;
        }
        for (std::size_t j = 0; j < per; ++j)
            for (std::size_t code = 1; code < std::size_t{1} << store.nbits; ++code)
                for (std::size_t low = 0; low < std::size_t{1} << (j * store.nbits); ++low)
                    for (int v = 0; v < nv; ++v) rows[code << (j * store.nbits) | low][v] = rows[low][v] + scaled[j][v] * (w[code] - w[0]);
    }

    // Rounded to the nearest integer, in the low 16 bits of each lane.
    auto rounded(std::size_t row, int v) const {
        typename I::Ints bits;
        const Vec moved = rows[row][v] + 12582912.0f;  // 1.5 * 2^23: what is left of the fraction has no place in it
        std::memcpy(&bits, &moved, sizeof(bits));
        return bits;
    }
};

template <class I>
static void residual_build16(const ResidualBlock& block, const ResidualStore& store, std::size_t position, std::int16_t* rows) {
    const ByteSums<I> sums(block, store, position, nullptr);
    for (std::size_t r = 0; r < 256; ++r)
        for (int v = 0; v < sums.nv; ++v) {
            const auto row = __builtin_convertvector(sums.rounded(r, v), typename I::Shorts);
            std::memcpy(rows + reversed(static_cast<std::uint8_t>(r)) * residual_lanes + v * I::width, &row, sizeof(row));
        }
}

// Bytes 2 j and 2 j + 1 of a row are those of query tokens j and 16 + j: 16-bit sums of the even and odd bytes need no unpacking.
template <class I>
static void residual_build8(const ResidualBlock& block, const ResidualStore& store, std::size_t position, std::uint8_t* rows) {
    const std::size_t per = 8 / store.nbits;
    float lowest[residual_lanes] = {}, w_low = store.bucket_weights[0], w_high = w_low;
    for (std::size_t code = 1; code < std::size_t{1} << store.nbits; ++code) {
        w_low = store.bucket_weights[code] < w_low ? store.bucket_weights[code] : w_low;
        w_high = store.bucket_weights[code] > w_high ? store.bucket_weights[code] : w_high;
    }
    for (std::size_t j = 0; j < per; ++j)
        for (std::size_t l = 0; l < residual_lanes; ++l) {
            const float q = block.query[(position * per + j) * residual_lanes + l];
            lowest[l] += q * (q < 0 ? w_high : w_low);
        }
    const ByteSums<I> sums(block, store, position, lowest);
    for (std::size_t r = 0; r < 256; ++r)
        for (int v = 0; v < sums.nv / 2; ++v) {
            const auto low = sums.rounded(r, v), high = sums.rounded(r, v + sums.nv / 2);
            const auto row = __builtin_convertvector((low & 0xff) | (high & 0xff) << 8, typename I::Shorts);
            std::memcpy(rows + reversed(static_cast<std::uint8_t>(r)) * residual_lanes + 2 * v * I::width, &row, sizeof(row));
        }
}

// The sums of a token's 32 table rows, per query token: two ways to hold them.
template <class I>
struct Sums16 {
    using Lanes = typename I::Table16;
    using Entry = std::int16_t;
    static constexpr int mask = -1;  // of a sum widened as a signed one
    static constexpr int n = 2 * residual_lanes / sizeof(Lanes);
    Lanes sum[n] = {};

    void add(const Entry* row) {
        for (int i = 0; i < n; ++i) sum[i] += reinterpret_cast<const Lanes*>(row)[i];
    }
    void store(std::int16_t* out) const { std::memcpy(out, sum, sizeof(sum)); }
};

template <class I>
struct Sums8 {
    using Lanes = typename I::Table8;
    using Entry = std::uint8_t;
    static constexpr int mask = 0xffff;
    static constexpr int n = residual_lanes / sizeof(Lanes);
    Lanes both[n] = {}, odd[n] = {};

    void add(const Entry* row) {
        for (int i = 0; i < n; ++i) {
            const Lanes v = reinterpret_cast<const Lanes*>(row)[i];
            both[i] += v;
            odd[i] += v >> 8;
        }
    }
    void store(std::int16_t* out) const {
        for (int i = 0; i < n; ++i) {
            const Lanes even = both[i] - (odd[i] << 8);
            std::memcpy(out + i * sizeof(Lanes) / 2, &even, sizeof(even));
            std::memcpy(out + residual_lanes / 2 + i * sizeof(Lanes) / 2, &odd[i], sizeof(even));
        }
    }
};

// BYTES: the bytes of a token where they are known at compile time, else 0.
template <class I, class Sums, int BYTES>
static bool residual_scan_bytes(const ResidualBlock& block, const ResidualStore& store, std::size_t first, std::size_t n, const float* centroid_scores,
                                std::size_t stride, float* maxima, float* largest) {
    using Vec = VecOf<I>;
    constexpr int nv = residual_lanes / I::width;
    const std::size_t bytes = BYTES ? BYTES : store.dim * store.nbits / 8;
    const auto* table = static_cast<const typename Sums::Entry*>(block.table);
    Vec best[nv], step[nv], offset[nv], poison{};
    std::memcpy(step, block.step, sizeof(step));
    std::memcpy(offset, block.offset, sizeof(offset));
    for (Vec& b : best) b = all<I>(-std::numeric_limits<float>::infinity());
    float most = 0;
    for (std::size_t i = first; i < first + n; ++i) {
        const std::size_t later = i + 8 < first + n ? i + 8 : i;  // its centroid's scores come from far
        __builtin_prefetch(centroid_scores + centroid_of(store, later) * stride);
        __builtin_prefetch(centroid_scores + centroid_of(store, later) * stride + 16);
        const std::uint8_t* codes = store.codes + i * bytes;
        Sums sums;
        std::size_t p = 0;
        for (; p + 8 <= bytes; p += 8) {  // eight codes by one load: there are loads enough
            std::uint64_t eight;
            std::memcpy(&eight, codes + p, sizeof(eight));
            for (int j = 0; j < 8; ++j) sums.add(table + ((p + j) * 256 + (eight >> (8 * j) & 255)) * residual_lanes);
        }
        for (; p < bytes; ++p) sums.add(table + (p * 256 + codes[p]) * residual_lanes);
        alignas(64) std::int16_t lanes[residual_lanes];
        sums.store(lanes);
        const float* scores = centroid_scores + centroid_of(store, i) * stride;
        const float inverse = store.inverse_norms[i];
        most = inverse > most ? inverse : -inverse > most ? -inverse : most;
        for (int v = 0; v < nv; ++v) {
            typename I::Shorts part;
            std::memcpy(&part, lanes + v * I::width, sizeof(part));
            const Vec sum = __builtin_convertvector(__builtin_convertvector(part, typename I::Ints) & Sums::mask, Vec);
            const Vec value = (reinterpret_cast<const typename I::Loose*>(scores)[v] + (sum * step[v] + offset[v])) * all<I>(inverse);
            best[v] = I::max(value, best[v]);
            poison += value * 0.0f;
        }
    }
    std::memcpy(maxima, best, sizeof(best));
    *largest = most;
    bool finite = true;
    for (std::size_t l = 0; l < I::width; ++l) finite &= poison[l] == 0.0f;
    return finite;
}

template <class I, class Sums>
static bool residual_scan(const ResidualBlock& block, const ResidualStore& store, std::size_t first, std::size_t n, const float* centroid_scores,
                          std::size_t stride, float* maxima, float* largest) {
    switch (store.dim * store.nbits) {
        case 128: return residual_scan_bytes<I, Sums, 16>(block, store, first, n, centroid_scores, stride, maxima, largest);
        case 256: return residual_scan_bytes<I, Sums, 32>(block, store, first, n, centroid_scores, stride, maxima, largest);
        case 512: return residual_scan_bytes<I, Sums, 64>(block, store, first, n, centroid_scores, stride, maxima, largest);
        default: return residual_scan_bytes<I, Sums, 0>(block, store, first, n, centroid_scores, stride, maxima, largest);
    }
}

template <class I>
static constexpr ResidualKernel residual_kernel() {
    return {residual_decode, residual_products<I>, residual_build16<I>, residual_build8<I>, residual_scan<I, Sums16<I>>, residual_scan<I, Sums8<I>>,
            static_cast<std::size_t>(I::rows(residual_lanes / I::width))};
}

}  // namespace rerank

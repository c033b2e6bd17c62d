// Bit-packed integers: blocks of 128 in four interleaved lanes (decoded four at a time, by SSE2 or NEON), shorter runs behind one another.
// Lemire and Boytsov, "Decoding billions of integers per second through vectorization", 2015. Little-endian machines only.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace rerank {

static_assert(std::endian::native == std::endian::little, "the index format is little-endian");

inline constexpr std::size_t kBlock = 128;
inline constexpr std::size_t kSlack = 8;  // bytes behind the last packed run that a reader may touch

using Lanes = std::uint32_t __attribute__((vector_size(16)));

inline unsigned bits_for(std::uint32_t largest) { return static_cast<unsigned>(std::bit_width(largest)); }

// Value i of a block lies in lane i % 4, from bit i / 4 * Bits of that lane on.
template <unsigned Bits>
void unpack_block(const std::uint8_t* in, std::uint32_t* out) {
    const auto word = [in](std::size_t w) {
        Lanes lanes;
        std::memcpy(&lanes, in + 16 * w, 16);
        return lanes;
    };
    const auto value = [&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
        constexpr std::size_t bit = I * Bits, w = bit / 32, shift = bit % 32;
        Lanes lanes{};
        if constexpr (Bits > 0) {
            lanes = word(w) >> shift;
            if constexpr (shift + Bits > 32) lanes |= word(w + 1) << (32 - shift);
            if constexpr (Bits < 32) lanes &= (std::uint32_t{1} << Bits) - 1;
        }
        std::memcpy(out + 4 * I, &lanes, 16);
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) { (value(std::integral_constant<std::size_t, I>{}), ...); }(std::make_index_sequence<32>{});
}

// bits <= 32, `in` holds 16 * bits bytes.
inline void unpack_block(const std::uint8_t* in, unsigned bits, std::uint32_t* out) {
    using Unpack = void (*)(const std::uint8_t*, std::uint32_t*);
    static constexpr auto table = []<std::size_t... B>(std::index_sequence<B...>) {
        return std::array<Unpack, sizeof...(B)>{{&unpack_block<static_cast<unsigned>(B)>...}};
    }(std::make_index_sequence<33>{});
    table[bits](in, out);
}

// Value i of a packed block alone.
inline std::uint32_t unpack_one(const std::uint8_t* in, unsigned bits, std::size_t i) {
    if (bits == 0) return 0;
    const std::size_t bit = i / 4 * bits, w = bit / 32, shift = bit % 32;
    const auto word = [&](std::size_t at) {
        std::uint32_t lane;
        std::memcpy(&lane, in + 16 * at + 4 * (i % 4), 4);
        return std::uint64_t{lane};
    };
    const std::uint64_t both = word(w) | (shift + bits > 32 ? word(w + 1) << 32 : 0);
    return static_cast<std::uint32_t>(both >> shift & ((std::uint64_t{1} << bits) - 1));
}

inline void pack_block(const std::uint32_t* in, unsigned bits, std::vector<std::uint8_t>& out) {
    std::array<std::uint32_t, kBlock> words{};
    for (std::size_t i = 0; i < kBlock && bits > 0; ++i) {
        const std::size_t bit = i / 4 * bits, w = bit / 32, shift = bit % 32;
        words[4 * w + i % 4] |= in[i] << shift;
        if (shift + bits > 32) words[4 * (w + 1) + i % 4] |= in[i] >> (32 - shift);
    }
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(words.data());
    out.insert(out.end(), bytes, bytes + 16 * bits);
}

inline std::size_t run_bytes(std::size_t n, unsigned bits) { return (n * bits + 7) / 8; }

// Value i of a run: bits [i * bits, (i + 1) * bits) of it. Reads up to kSlack bytes behind the run.
inline std::uint32_t unpack_run_one(const std::uint8_t* in, unsigned bits, std::size_t i) {
    std::uint64_t window;
    std::memcpy(&window, in + i * bits / 8, 8);
    return static_cast<std::uint32_t>(window >> (i * bits % 8) & ((std::uint64_t{1} << bits) - 1));
}

inline void pack_run(std::span<const std::uint32_t> in, unsigned bits, std::vector<std::uint8_t>& out) {
    const std::size_t start = out.size();
    out.resize(start + run_bytes(in.size(), bits), 0);
    for (std::size_t i = 0; i < in.size(); ++i) {
        std::uint64_t value = std::uint64_t{in[i]} << (i * bits % 8);
        for (std::size_t at = start + i * bits / 8; value != 0; value >>= 8) out[at++] |= static_cast<std::uint8_t>(value);
    }
}

}  // namespace rerank

// Scratch memory of the windowed scorer, and the plain helpers around it. See bm25_window.cpp.
#pragma once

#include "bm25.hpp"
#include "cpu.hpp"
#include "order.hpp"

namespace rerank {

inline constexpr std::uint32_t kMaxWindow = 65536, kMinWindow = 4096;

// One term's list while a query runs.
struct List {
    double weight;
    std::uint32_t bound;         // of its quantised contributions
    std::uint32_t window_bound;  // the same within the current window
    std::uint32_t df;
    const std::uint8_t* dense;   // its row of codes, or null

    // df < 128: [begin, end) of the scratch' short lists
    bool is_short;
    std::size_t begin, end, next;

    // more: blocks, and where in them we are: block `block` is decoded when `decoded`, rows before place `at` are done
    BlockList blocks;
    std::size_t block, at, header;
    bool decoded;
    std::uint32_t rows[kBlock];
    const std::uint8_t* codes;        // of the decoded block
    Frequencies frequencies;          // of the decoded block, while candidates are scored
    std::uint16_t impacts[kBlock];    // of the decoded block, where there are no codes
    std::uint16_t impact_of[256];     // quantised bound of each code
};

struct WindowScratch {
    std::vector<std::uint16_t> sums = std::vector<std::uint16_t>(kMaxWindow, 0);  // all 0 between windows
    std::vector<std::uint32_t> touched = std::vector<std::uint32_t>(kMaxWindow + 1);
    SweepFn sweep = kernels(best_isa()).sweep;
    std::vector<std::uint32_t> histogram = std::vector<std::uint32_t>(1024, 0);
    std::vector<List> lists;
    std::vector<std::uint32_t> short_rows, short_tfs;
    std::vector<std::uint16_t> short_impacts;
    std::vector<double> short_values;
    std::vector<std::uint32_t> essential, others;
    std::vector<Candidate> window = std::vector<Candidate>(kMaxWindow), kept;
    std::vector<double> norms;
    BucketSort sort;
    std::vector<Ranked> ranked;
};

// Clears the bits of rows that do not hold the term.
void intersect(const SegmentView& segment, std::uint32_t term, std::vector<std::uint8_t>& bitmap);

}  // namespace rerank

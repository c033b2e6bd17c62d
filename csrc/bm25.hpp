// BM25 and its variants over one or more segments: exact top-k. The formulas stand in rerank_engine/ops/bm25.py.
#pragma once

#include <memory>
#include <mutex>

#include "deadline.hpp"
#include "postings.hpp"
#include "topk.hpp"

namespace rerank {

enum class Variant { lucene, robertson, atire, bm25l, bm25plus, impact };

struct Bm25Parameters {
    Variant variant = Variant::lucene;
    double k1 = 1.2, b = 0.75, delta = 0;  // of impact, k1 is the scale that a frequency is divided by
};

// score(q, d) = constant + sum over the query's terms in d of weight * idf * gain(tf, length): rising in tf, falling in length, 0 for tf = 0.
class Gain {
public:
    Gain(const Bm25Parameters& parameters, double mean_length) : p_(parameters), mean_(mean_length) {}

    double norm(std::uint32_t length) const { return std::max(1 - p_.b + p_.b * length / mean_, 1e-12); }
    double operator()(double tf, double norm) const {
        if (p_.variant == Variant::impact) return tf / p_.k1;
        if (p_.variant != Variant::bm25l) return factor() * (tf / (tf + p_.k1 * norm));
        const double c = tf / norm + p_.delta;
        return factor() * (c / (p_.k1 + c) - absent());
    }
    // Whether it has no limit: what is known of a frequency from above matters then.
    bool unlimited() const { return p_.variant == Variant::impact; }
    // The same from x = tf / (tf + k1 norm), for all others.
    double of_share(double x) const {
        if (p_.variant != Variant::bm25l) return factor() * x;
        return factor() * ((p_.k1 * x + p_.delta * (1 - x)) / (p_.k1 + p_.delta * (1 - x)) - absent());
    }
    double idf(double n_docs, double df) const;
    // What a term adds to every document, times weight and idf: BM25L and BM25+ do not give 0 for tf = 0.
    double constant() const {
        return p_.variant == Variant::bm25plus ? p_.delta : p_.variant == Variant::bm25l ? factor() * absent() : 0;
    }
    double k1() const { return p_.k1; }

private:
    double factor() const { return p_.variant == Variant::lucene || p_.variant == Variant::robertson ? 1 : p_.k1 + 1; }
    double absent() const { return p_.delta / (p_.k1 + p_.delta); }

    Bm25Parameters p_;
    double mean_;
};

// A bitmap of rows: bit i of byte i / 8 from the lowest on; empty stands for "all".
struct Bitmap {
    std::span<const std::uint8_t> bytes;
    std::size_t base = 0;  // the bit of row 0

    bool empty() const { return bytes.empty(); }
    bool operator[](std::uint32_t row) const { return bytes[(base + row) / 8] >> ((base + row) % 8) & 1; }
};

// Which rows of a segment may be returned.
struct Allowed {
    Bitmap wanted, dead, required;

    bool any() const { return !wanted.empty() || !dead.empty() || !required.empty(); }
    bool operator()(std::uint32_t row) const {
        return (wanted.empty() || wanted[row]) && (dead.empty() || !dead[row]) && (required.empty() || required[row]);
    }
};

struct Wanted {
    std::uint32_t term;
    double weight;  // query weight * idf
};

struct Scored {
    std::uint32_t row;
    double score;
};

struct WindowScratch;

// A segment with what belongs to it in this index.
struct Source {
    SegmentView view;
    std::int64_t base = 0;                      // the index' row of the segment's row 0
    std::uint32_t shortest = 1, longest = 1;    // lengths of its documents
    std::span<const std::uint8_t> dead;         // bitmap of deleted rows, or empty
    std::span<const std::int32_t> dead_df;      // per term: how many of its documents are deleted; or empty

    std::uint32_t live_df(std::uint32_t term) const {
        const auto dead_ones = dead_df.empty() ? 0u : static_cast<std::uint32_t>(dead_df[term]);
        return view.df(term) - std::min(view.df(term), dead_ones);
    }
};

// Bounds of gain for each impact code under today's parameters.
struct CodeBounds {
    double low[256], high[256];
    double widest = 0, last = 0;  // the largest high - low, of the codes below 255 and of 255

    // Of a list's codes; code 255 of an exact coding stands for any frequency from 255 on, and most lists have none.
    double error(const Block& summary, const Coding& coding) const {
        return coding.exact() && summary.tf[0] < 255 ? widest : std::max(widest, last);
    }
};

class Searcher {
public:
    Searcher(std::vector<Source> sources, const Bm25Parameters& parameters, std::uint64_t n_docs, std::uint64_t n_tokens);
    ~Searcher();

    struct Batch {
        std::span<const std::int32_t> terms;          // [sources, total]: the term's id in each source, -1 where it is unknown
        std::span<const float> weights;               // [total]
        std::span<const std::uint8_t> required;       // [total] or empty: documents must hold the term
        std::span<const std::int64_t> query_offsets;  // [queries + 1]
        std::span<const std::uint8_t> filter;         // bitmap over all rows, or empty
        Deadline deadline{};                          // rows from where it finds a query on are not looked at
        std::span<const std::int64_t> df{};           // [total] or empty: of each term in a collection that these sources are a part of
        std::span<const float> floors{};              // [queries] or empty: documents that score less need not be found
    };

    // The k best documents of each query among those that hold at least one of its terms. The answer depends on the live documents, their
    // order and the parameters alone: not on threads, nor on how the documents are spread over segments. reached: [queries] or empty; how many
    // rows were looked at, n_rows() but for a deadline.
    PackedHits search(const Batch& batch, std::size_t k, int threads, std::span<std::int64_t> reached = {}) const;

    std::size_t n_sources() const { return sources_.size(); }
    std::int64_t n_rows() const { return n_rows_; }
    std::uint32_t n_terms(std::size_t source) const { return static_cast<std::uint32_t>(sources_[source].view.terms.size()); }

private:
    struct Term {
        std::size_t at;  // in the batch
        double weight;   // of all its repeats
        double idf;
        bool required;
    };
    std::vector<Term> terms_of(const Batch& batch, std::size_t begin, std::size_t end) const;
    std::vector<Hit> search_one(const Batch& batch, std::size_t query, std::size_t k, WindowScratch& scratch, std::int64_t& reached) const;

    std::vector<Source> sources_;
    std::vector<CodeBounds> bounds_;
    double n_docs_;
    std::int64_t n_rows_ = 0;
    Gain gain_;
    mutable std::mutex guard_;
    mutable std::vector<std::unique_ptr<WindowScratch>> idle_;  // scratch memory of past calls
};

// The two ways to score one segment (bm25_window.cpp, bm25_all.cpp): `out` gets at least the k best allowed rows with their exact scores.
// `floor`: rows whose score is lower need not be found. `constant` is what the caller adds to every score before it rounds them to float32:
// rows that tie then are all found. Both add the terms' contributions in the order of `terms`, in float64. They return how many rows they
// looked at before the deadline: the answer is that of these rows. search_all goes by terms, and looks at all or at none.
std::uint32_t search_windows(const Source& source, const CodeBounds& bounds, const Gain& gain, std::span<const Wanted> terms, const Allowed& allowed,
                             std::size_t k, double floor, double constant, Deadline deadline, WindowScratch& scratch, std::vector<Scored>& out);
std::uint32_t search_all(const Source& source, const Gain& gain, std::span<const Wanted> terms, const Allowed& allowed, Deadline deadline,
                         std::vector<Scored>& out);

inline constexpr std::size_t kMaxWindowTerms = 1024;  // beyond it, or with a negative weight, search_all

}  // namespace rerank

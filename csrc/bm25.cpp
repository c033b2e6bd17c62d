#include "bm25.hpp"

#include <limits>

#include "bm25_window.hpp"
#include "pool.hpp"

namespace rerank {

double Gain::idf(double n, double df) const {
    switch (p_.variant) {
        case Variant::lucene: return std::log1p((n - df + 0.5) / (df + 0.5));
        case Variant::robertson: return std::max(0.0, std::log((n - df + 0.5) / (df + 0.5)));
        case Variant::atire: return std::log(n / df);
        case Variant::bm25l: return std::log((n + 1) / (df + 0.5));
        case Variant::bm25plus: return std::log((n + 1) / df);
        case Variant::impact: return 1;
    }
    return 0;
}

namespace {

// x' = tf / (tf + K') from x = tf / (tf + K), when K' = ratio * K.
double moved(double x, double ratio) { return x == 0 ? 0 : x / (x + (1 - x) * ratio); }

CodeBounds bounds_of(const Source& source, const Gain& gain) {
    CodeBounds bounds{};
    const auto set = [&](int c, double low, double high) {
        bounds.low[c] = low * (1 - 1e-9);
        bounds.high[c] = high * (1 + 1e-9);
        double& widest = c == 255 ? bounds.last : bounds.widest;
        widest = std::max(widest, bounds.high[c] - bounds.low[c]);
    };
    const Coding& coding = source.view.coding;
    if (coding.exact() || gain.unlimited()) {  // by frequencies: a document has no more of them than tokens
        const double units[] = {coding.unit(source.shortest), coding.unit(source.longest)}, most = std::max(255u, source.longest);
        const auto tf = [&](int c, double unit) { return c == 255 ? most : coding.exact() ? c : std::min(most, unit * c / (255.0 - c)); };
        for (int c = 1; c < 256; ++c)
            set(c, gain(coding.exact() ? c : tf(c - 1, std::min(units[0], units[1])), gain.norm(source.longest)),
                gain(tf(c, std::max(units[0], units[1])), gain.norm(source.shortest)));
        return bounds;
    }
    // K' / K is a ratio of two linear functions of the length: its extremes lie at the shortest and the longest document.
    const auto ratio = [&](std::uint32_t length) { return gain.k1() * gain.norm(length) / source.view.coding.unit(length); };
    const double a = ratio(source.shortest), b = ratio(source.longest), low = std::min(a, b), high = std::max(a, b);
    for (int c = 1; c < 256; ++c) set(c, gain.of_share(moved((c - 1) / 255.0, high)), gain.of_share(moved(c / 255.0, low)));
    return bounds;
}

std::uint64_t rows_of(const std::vector<Source>& sources) {
    std::uint64_t n = 0;
    for (const Source& source : sources) n += source.view.rows();
    return n;
}

}  // namespace

Searcher::Searcher(std::vector<Source> sources, const Bm25Parameters& parameters, std::uint64_t n_docs, std::uint64_t n_tokens)
    : sources_(std::move(sources)),
      n_docs_(static_cast<double>(n_docs)),
      n_rows_(static_cast<std::int64_t>(rows_of(sources_))),
      gain_(parameters, n_tokens == 0 || n_docs == 0 ? 1.0 : static_cast<double>(n_tokens) / static_cast<double>(n_docs)) {
    for (const Source& source : sources_) bounds_.push_back(bounds_of(source, gain_));
}

Searcher::~Searcher() = default;

// Known terms of a query in the order of their first place, repeats merged. A term is told by its id in the first source that knows it; one
// that only the rest of the collection knows, by its place.
std::vector<Searcher::Term> Searcher::terms_of(const Batch& batch, std::size_t begin, std::size_t end) const {
    const std::size_t total = batch.weights.size();
    struct Place {
        std::uint64_t key;
        std::size_t at;
    };
    std::vector<Place> places;
    for (std::size_t i = begin; i < end; ++i) {
        std::size_t s = 0;
        while (s < sources_.size() && batch.terms[s * total + i] < 0) ++s;
        if (s < sources_.size())
            places.push_back({std::uint64_t{s} << 32 | static_cast<std::uint32_t>(batch.terms[s * total + i]), i});
        else if (!batch.df.empty() && batch.df[i] > 0)
            places.push_back({std::uint64_t{s} << 32 | i, i});
    }
    std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.key != b.key ? a.key < b.key : a.at < b.at; });
    std::vector<Term> terms;
    for (std::size_t i = 0, j; i < places.size(); i = j) {
        Term term{places[i].at, 0, 0, false};
        for (j = i; j < places.size() && places[j].key == places[i].key; ++j) {
            term.weight += batch.weights[places[j].at];
            term.required = term.required || (!batch.required.empty() && batch.required[places[j].at] != 0);
        }
        double df = 0;
        for (std::size_t s = 0; s < sources_.size() && batch.df.empty(); ++s)
            if (const std::int32_t id = batch.terms[s * total + term.at]; id >= 0) df += sources_[s].live_df(static_cast<std::uint32_t>(id));
        if (!batch.df.empty()) df = static_cast<double>(batch.df[term.at]);
        df = std::min(df, n_docs_);               // a damaged table of terms must not make an idf negative
        if (df == 0 && !term.required) continue;  // only deleted documents held it
        term.idf = df == 0 ? 0 : gain_.idf(n_docs_, df);
        terms.push_back(term);
    }
    std::sort(terms.begin(), terms.end(), [](const Term& a, const Term& b) { return a.at < b.at; });
    return terms;
}

std::vector<Hit> Searcher::search_one(const Batch& batch, std::size_t query, std::size_t k, WindowScratch& scratch, std::int64_t& reached) const {
    const auto begin = static_cast<std::size_t>(batch.query_offsets[query]), end = static_cast<std::size_t>(batch.query_offsets[query + 1]);
    const std::size_t total = batch.weights.size();
    reached = n_rows_;
    if (k == 0) return {};
    const std::vector<Term> terms = terms_of(batch, begin, end);
    double constant = 0;
    bool negative = false, required = false;
    for (const Term& term : terms) {
        constant += term.weight * term.idf * gain_.constant();
        negative = negative || term.weight < 0;
        required = required || term.required;
    }
    for (std::size_t i = begin; i < end && !batch.required.empty(); ++i) {  // a required term that no source knows: nothing can match
        bool known = batch.required[i] == 0;
        for (std::size_t s = 0; s < sources_.size() && !known; ++s) known = batch.terms[s * total + i] >= 0;
        if (!known) return {};
    }
    std::vector<Hit> best;
    std::vector<Wanted> wanted;
    std::vector<Scored> found;
    std::vector<std::uint8_t> holds_all;
    for (std::size_t s = 0; s < sources_.size() && reached == n_rows_; ++s) {
        const Source& source = sources_[s];
        if (batch.deadline.passed()) {
            reached = source.base;
            break;
        }
        wanted.clear();
        bool missing = false;
        for (const Term& term : terms) {
            const std::int32_t id = batch.terms[s * total + term.at];
            if (id >= 0) wanted.push_back({static_cast<std::uint32_t>(id), term.weight * term.idf});
            missing = missing || (id < 0 && term.required);
        }
        if (wanted.empty() || missing || source.view.rows() == 0) continue;
        Allowed allowed{{batch.filter, static_cast<std::size_t>(source.base)}, {source.dead}, {}};
        if (required) {
            holds_all.assign((source.view.rows() + 7) / 8, 0xff);
            for (const Term& term : terms)
                if (term.required) intersect(source.view, static_cast<std::uint32_t>(batch.terms[s * total + term.at]), holds_all);
            allowed.required.bytes = holds_all;
        }
        found.clear();
        std::uint32_t looked_at;
        if (negative || wanted.size() > kMaxWindowTerms) {
            looked_at = search_all(source, gain_, wanted, allowed, batch.deadline, found);
        } else {
            double floor = best.size() < k ? -std::numeric_limits<double>::infinity() : static_cast<double>(best[k - 1].score);
            if (!batch.floors.empty()) floor = std::max(floor, static_cast<double>(batch.floors[query]));
            floor -= constant;
            looked_at = search_windows(source, bounds_[s], gain_, wanted, allowed, k, floor, constant, batch.deadline, scratch, found);
        }
        if (looked_at < source.view.rows()) reached = source.base + looked_at;
        for (const Scored& hit : found) {
            const double score = hit.score + constant;
            require_finite(static_cast<float>(score));
            best.push_back({static_cast<float>(score), source.base + hit.row});
        }
        if (best.size() > k) {  // the k-th best comes to place k - 1
            std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(k - 1), best.end(), [](const Hit& a, const Hit& b) { return before(a, b); });
            best.resize(k);
        } else if (best.size() == k) {
            std::iter_swap(best.end() - 1, std::max_element(best.begin(), best.end(), [](const Hit& a, const Hit& b) { return before(a, b); }));
        }
    }
    scratch.ranked.clear();
    for (const Hit& hit : best) scratch.ranked.push_back({descending_bits(hit.score), static_cast<std::uint32_t>(scratch.ranked.size())});
    scratch.sort(scratch.ranked, [&](std::uint32_t i) { return best[i].id; });
    std::vector<Hit> sorted;
    sorted.reserve(best.size());
    for (const Ranked& place : scratch.ranked) sorted.push_back(best[place.index]);
    return sorted;
}

PackedHits Searcher::search(const Batch& batch, std::size_t k, int threads, std::span<std::int64_t> reached) const {
    const std::size_t n_queries = batch.query_offsets.size() - 1;
    std::vector<std::vector<Hit>> found(n_queries);
    std::vector<std::int64_t> untold(reached.empty() ? n_queries : 0);
    const std::span<std::int64_t> looked_at = reached.empty() ? std::span(untold) : reached;
    struct Borrowed {  // scratch memory that goes back when its thread is done
        const Searcher& owner;
        std::unique_ptr<WindowScratch> scratch;
        explicit Borrowed(const Searcher& searcher) : owner(searcher) {
            const std::lock_guard lock(owner.guard_);
            if (owner.idle_.empty()) {
                scratch = std::make_unique<WindowScratch>();
            } else {
                scratch = std::move(owner.idle_.back());
                owner.idle_.pop_back();
            }
        }
        void give_back() {  // not after an exception: it may be in any state
            const std::lock_guard lock(owner.guard_);
            owner.idle_.push_back(std::move(scratch));
        }
    };
    std::vector<std::unique_ptr<Borrowed>> borrowed;
    std::mutex guard;
    parallel_for(n_queries, threads, [&] {
        auto mine = std::make_unique<Borrowed>(*this);
        WindowScratch* scratch = mine->scratch.get();
        {
            const std::lock_guard lock(guard);
            borrowed.push_back(std::move(mine));
        }
        return [&, scratch](std::size_t q) { found[q] = search_one(batch, q, k, *scratch, looked_at[q]); };
    });
    for (auto& one : borrowed) one->give_back();
    return pack(found);
}

}  // namespace rerank

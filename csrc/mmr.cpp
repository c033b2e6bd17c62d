#include "mmr.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace rerank {
namespace {

// Memory that starts with a cache line: a vector register's load that reaches into the next line takes twice the time.
template <class T>
struct LineAligned {
    using value_type = T;
    static constexpr std::align_val_t line{64};
    LineAligned() = default;
    template <class U>
    LineAligned(const LineAligned<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
    void deallocate(T* memory, std::size_t) { ::operator delete(memory, line); }
    bool operator==(const LineAligned&) const { return true; }
};
using Vectors = std::vector<float, LineAligned<float>>;

// A greedy choice that compares rows with picks only where it matters. bound[i] is never below the value of row i: it knows the similarity
// to the first done[i] picks, and more picks can but lower it. So a row whose bound is below the best value found needs no product.
class Choice {
public:
    Choice(std::size_t n, std::span<const float> vectors, std::size_t d, const MmrOptions& options, const Kernels& kernels)
        : n_(n), d_(d), vectors_(vectors), lambda_(options.lambda), kernels_(kernels), relevance_(n), nearest_(n, 0.0f), done_(n, 0),
          bound_((n + block - 1) / block * block, gone) {
        picked_.reserve(std::min(options.k, n) * d);
    }

    void start(std::span<const float> relevance) {
        std::copy(relevance.begin(), relevance.end(), relevance_.begin());
        require_finite(relevance_);
        for (std::size_t i = 0; i < n_; ++i) bound_[i] = value(i);
    }

    // Candidates often come best first. Then the best row of the first block is the first pick, and one pass over the vectors gives their
    // products with it and with the query. Where a better row turns up, the pass goes on with the query alone, as if nothing was guessed.
    void start_from(std::span<const float> given) {
        const Vectors query(given.begin(), given.end());
        Vectors first;
        std::size_t end = lambda_ < 1 ? std::min(block, n_) : n_, meet = end;
        kernels_.dots(query.data(), row(0), end, d_, relevance_.data());
        first_ = 0;
        lead(0, end);
        first.assign(row(first_), row(first_) + d_);
        for (std::size_t begin = end; begin < n_; begin = end) {
            end = std::min(begin + block, n_);
            kernels_.two_dots(query.data(), first.data(), row(begin), end - begin, d_, &relevance_[begin], &nearest_[begin]);
            if (!lead(begin, end)) continue;
            kernels_.dots(query.data(), row(end), n_ - end, d_, relevance_.data() + end);
            lead(end, n_);
            end = meet = n_;
        }
        require_finite(relevance_);
        if (lambda_ < 1) kernels_.dots(row(first_), vectors_.data(), meet, d_, nearest_.data());
        for (std::size_t i = 0; i < n_; ++i) bound_[i] = lambda_ * static_cast<double>(relevance_[i]);  // before a pick nothing is near
    }

    Hit next() {
        // The second best of the last pick is a good guess, and whose bound is below its value need not be looked at.
        std::size_t best = std::exchange(second_, none);
        if (best == none) best = leader();
        refresh(best, gone);
        for (std::size_t begin = 0; begin < bound_.size(); begin += block)
            if (reaches(begin, bound_[best]))
                for (std::size_t i = begin; i < begin + block; ++i)
                    if (bound_[i] >= bound_[best]) consider(i, best);
        const Hit hit{static_cast<float>(bound_[best]), static_cast<std::int64_t>(best)};
        bound_[best] = gone;
        if (lambda_ < 1) pick(best);  // else products have no weight, and need not even be finite
        return hit;
    }

private:
    static constexpr std::size_t block = 32, none = std::numeric_limits<std::size_t>::max();
    static constexpr double gone = -std::numeric_limits<double>::infinity();  // the bound of what is picked, and behind the last row

    const float* row(std::size_t i) const { return vectors_.data() + i * d_; }

    double value(std::size_t i) const {
        return lambda_ * static_cast<double>(relevance_[i]) - (1 - lambda_) * static_cast<double>(nearest_[i]);
    }

    // Whether one of these rows is more relevant than row first_, which it then becomes.
    bool lead(std::size_t begin, std::size_t end) {
        const std::size_t before_it = first_;
        for (std::size_t i = begin; i < end; ++i)
            if (lambda_ * static_cast<double>(relevance_[i]) > lambda_ * static_cast<double>(relevance_[first_])) first_ = i;
        return first_ != before_it;
    }

    // Makes row i the best if it is.
    void consider(std::size_t i, std::size_t& best) {
        if (i == best) return;
        refresh(i, bound_[best]);
        if (bound_[i] > bound_[best] || (bound_[i] == bound_[best] && i < best)) second_ = std::exchange(best, i);
        else if (done_[i] == n_picked_ && (second_ == none || bound_[i] > bound_[second_])) second_ = i;
    }

    // Whether a bound of this block is at least `limit`.
    bool reaches(std::size_t begin, double limit) const {
        unsigned any = 0;
        for (std::size_t i = begin; i < begin + block; ++i) any |= bound_[i] >= limit;  // no branch
        return any != 0;
    }

    // The first row of the highest bound.
    std::size_t leader() const {
        return static_cast<std::size_t>(std::max_element(bound_.begin(), bound_.end()) - bound_.begin());
    }

    void pick(std::size_t i) {
        picked_.insert(picked_.end(), row(i), row(i) + d_);
        if (++n_picked_ > 1) return;
        // Every row meets the first pick, since without a product nothing bounds one.
        if (i != first_) kernels_.dots(picked_.data(), vectors_.data(), n_, d_, nearest_.data());
        nearest_[i] = 0;
        require_finite(nearest_);
        for (std::size_t other = 0; other < n_; ++other) bound_[other] = value(other);
        bound_[i] = gone;
        std::fill(done_.begin(), done_.end(), 1);
    }

    // Compares row i with the picks it does not know yet, a few at a time, until its bound is its value or falls below `floor`.
    void refresh(std::size_t i, double floor) {
        float similarity[2];
        while (done_[i] < n_picked_ && bound_[i] >= floor) {
            const std::size_t n = std::min(std::size(similarity), n_picked_ - done_[i]);
            kernels_.dots(row(i), picked_.data() + done_[i] * d_, n, d_, similarity);
            for (std::size_t j = 0; j < n; ++j) {
                require_finite(similarity[j]);
                nearest_[i] = std::max(nearest_[i], similarity[j]);
            }
            done_[i] += n;
            bound_[i] = value(i);
        }
    }

    std::size_t n_, d_;
    std::span<const float> vectors_;
    double lambda_;
    const Kernels& kernels_;
    std::vector<float> relevance_, nearest_;  // nearest: the highest similarity to the picks that a row knows
    std::vector<std::size_t> done_;
    std::vector<double> bound_;
    Vectors picked_;  // the vectors of the picks, behind one another
    std::size_t n_picked_ = 0, first_ = none, second_ = none;
};

std::vector<Hit> picks(Choice& choice, std::size_t want, Deadline deadline) {
    std::vector<Hit> out;
    out.reserve(want);
    while (out.size() < want && !deadline.passed()) out.push_back(choice.next());
    return out;
}

}  // namespace

std::vector<Hit> mmr(std::span<const float> relevance, std::span<const float> vectors, std::size_t d, const MmrOptions& options,
                     const Kernels& kernels) {
    Choice choice(relevance.size(), vectors, d, options, kernels);
    choice.start(relevance);
    return picks(choice, std::min(options.k, relevance.size()), options.deadline);
}

std::vector<Hit> mmr_for_query(std::span<const float> query, std::span<const float> vectors, std::size_t n, const MmrOptions& options,
                               const Kernels& kernels) {
    Choice choice(n, vectors, query.size(), options, kernels);
    choice.start_from(query);
    return picks(choice, std::min(options.k, n), options.deadline);
}

}  // namespace rerank

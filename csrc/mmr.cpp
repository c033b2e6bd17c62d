#include "mmr.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace rerank {
namespace {

// A greedy choice that compares rows with picks only where it matters. bound[i] is never below the value of row i: it knows the similarity
// to the first done[i] picks, and more picks can but lower it. So a row whose bound is below the best value found needs no product.
class Choice {
public:
    Choice(std::span<const float> relevance, std::span<const float> vectors, std::size_t d, std::size_t want, double lambda, const Kernels& kernels)
        : relevance_(relevance), vectors_(vectors), d_(d), lambda_(lambda), kernels_(kernels), bound_(relevance.size()),
          nearest_(relevance.size(), 0.0f), done_(relevance.size(), 0), second_(relevance.size()) {
        picked_.reserve(want * d);
        for (std::size_t i = 0; i < bound_.size(); ++i) bound_[i] = value(i);
    }

    Hit next() {
        // The second best of the last pick is a good guess, and whose bound is below its value need not be looked at.
        std::size_t best = std::exchange(second_, bound_.size());
        if (best == bound_.size()) best = leader();
        refresh(best, gone);
        for (std::size_t begin = 0; begin < bound_.size(); begin += block) {
            const std::size_t end = std::min(begin + block, bound_.size());
            if (!reaches(begin, end, bound_[best])) continue;
            for (std::size_t i = begin; i < end; ++i)
                if (bound_[i] >= bound_[best]) consider(i, best);
        }
        const Hit hit{static_cast<float>(bound_[best]), static_cast<std::int64_t>(best)};
        bound_[best] = gone;
        if (lambda_ < 1) pick(best);  // else products have no weight, and need not even be finite
        return hit;
    }

private:
    static constexpr std::size_t block = 32;
    static constexpr double gone = -std::numeric_limits<double>::infinity();  // the bound of what is picked

    // Makes row i the best if it is.
    void consider(std::size_t i, std::size_t& best) {
        if (i == best) return;
        refresh(i, bound_[best]);
        if (bound_[i] > bound_[best] || (bound_[i] == bound_[best] && i < best)) second_ = std::exchange(best, i);
        else if (done_[i] == n_picked_ && (second_ == bound_.size() || bound_[i] > bound_[second_])) second_ = i;
    }

    bool reaches(std::size_t begin, std::size_t end, double limit) const {
        int any = 0;
        for (std::size_t i = begin; i < end; ++i) any |= bound_[i] >= limit;  // no branch: several a cycle
        return any != 0;
    }

    // A row of the highest bound.
    std::size_t leader() const {
        double highest[4] = {gone, gone, gone, gone};
        std::size_t i = 0;
        for (; i + 4 <= bound_.size(); i += 4)
            for (std::size_t lane = 0; lane < 4; ++lane) highest[lane] = bound_[i + lane] > highest[lane] ? bound_[i + lane] : highest[lane];
        for (; i < bound_.size(); ++i) highest[0] = std::max(highest[0], bound_[i]);
        const double limit = *std::max_element(highest, highest + 4);
        for (i = 0; !reaches(i, std::min(i + block, bound_.size()), limit);) i += block;
        while (bound_[i] < limit) ++i;
        return i;
    }

    void pick(std::size_t row) {
        const float* vector = vectors_.data() + row * d_;
        picked_.insert(picked_.end(), vector, vector + d_);
        if (++n_picked_ > 1) return;
        // Every row meets the first pick, since without a product nothing bounds one.
        kernels_.dots(vector, vectors_.data(), bound_.size(), d_, nearest_.data());
        nearest_[row] = 0;
        for (const float s : nearest_) require_finite(s);
        for (std::size_t i = 0; i < bound_.size(); ++i) bound_[i] = value(i);
        bound_[row] = gone;
        std::fill(done_.begin(), done_.end(), 1);
    }

    double value(std::size_t i) const {
        return lambda_ * static_cast<double>(relevance_[i]) - (1 - lambda_) * static_cast<double>(nearest_[i]);
    }

    // Compares row i with the picks it does not know yet, a few at a time, until its bound is its value or falls below `floor`.
    void refresh(std::size_t i, double floor) {
        float similarity[2];
        while (done_[i] < n_picked_ && bound_[i] >= floor) {
            const std::size_t n = std::min(std::size(similarity), n_picked_ - done_[i]);
            kernels_.dots(vectors_.data() + i * d_, picked_.data() + done_[i] * d_, n, d_, similarity);
            for (std::size_t j = 0; j < n; ++j) {
                require_finite(similarity[j]);
                nearest_[i] = std::max(nearest_[i], similarity[j]);
            }
            done_[i] += n;
            bound_[i] = value(i);
        }
    }

    std::span<const float> relevance_, vectors_;
    std::size_t d_;
    double lambda_;
    const Kernels& kernels_;
    std::vector<double> bound_;
    std::vector<float> nearest_;  // the highest similarity to the picks it knows
    std::vector<std::size_t> done_;
    std::vector<float> picked_;  // the vectors of the picks, behind one another
    std::size_t n_picked_ = 0, second_;
};

}  // namespace

std::vector<Hit> mmr(std::span<const float> relevance, std::span<const float> vectors, std::size_t d, std::size_t k, double lambda,
                     const Kernels& kernels) {
    const std::size_t want = std::min(k, relevance.size());
    Choice choice(relevance, vectors, d, want, lambda, kernels);
    std::vector<Hit> out;
    out.reserve(want);
    while (out.size() < want) out.push_back(choice.next());
    return out;
}

}  // namespace rerank

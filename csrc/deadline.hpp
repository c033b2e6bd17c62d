// When work has to stop. Loops look at it between blocks of their work: without a deadline that is one branch.
#pragma once

#include <chrono>
#include <cstddef>

namespace rerank {

class Deadline {
public:
    Deadline() = default;  // never
    // From now on; beyond a year: never. NaN has passed.
    explicit Deadline(double seconds) : set_(!(seconds >= 0x1p25)) {
        if (set_) end_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds > 0 ? seconds : 0));
    }
    bool passed() const { return set_ && Clock::now() >= end_; }
    // For the i-th of many small pieces of work, of which every `stride`-th looks.
    bool passed(std::size_t i, std::size_t stride) const { return set_ && i % stride == 0 && Clock::now() >= end_; }

private:
    using Clock = std::chrono::steady_clock;
    bool set_ = false;
    Clock::time_point end_{};
};

constexpr std::size_t documents_between_looks = 16;  // some 0.1 to 1 ms of late interaction

}  // namespace rerank

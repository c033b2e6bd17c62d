// Work on several threads, the caller's among them: our own pool, started when it is first needed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

namespace rerank {

// Runs `work` on the caller's thread and, as far as they are idle by then, on up to `helpers` threads of the pool; returns when all that began
// are done. `work` must not throw. The pool's threads sleep between calls, are shared by all callers, and start when a call first asks for them:
// none at helpers = 0. Where no thread can be had, the caller does all of the work. After a fork the child has a pool of its own.
void run_on_pool(std::size_t helpers, const std::function<void()>& work);

// Sets `least` to i, if that is lower.
inline void lower(std::atomic<std::size_t>& least, std::size_t i) {
    std::size_t seen = least.load(std::memory_order_relaxed);
    while (i < seen && !least.compare_exchange_weak(seen, i, std::memory_order_relaxed)) {
    }
}

// body(i) for i < n, on up to `threads` threads. body is made by `make_body()` once per thread, so that it can own scratch memory. Items are
// handed out one by one; the answer must not depend on which thread gets which. The first exception is thrown again in the caller.
template <class MakeBody>
void parallel_for(std::size_t n, int threads, MakeBody make_body) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex guard;
    const auto work = [&] {
        try {
            auto body = make_body();
            for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(i);
        } catch (...) {
            const std::lock_guard lock(guard);
            if (!failure) failure = std::current_exception();
            next.store(n, std::memory_order_relaxed);
        }
    };
    const std::size_t extra = n < 2 || threads < 2 ? 0 : std::min(static_cast<std::size_t>(threads), n) - 1;
    if (extra)
        run_on_pool(extra, work);
    else
        work();
    if (failure) std::rethrow_exception(failure);
}

// body(begin, end) for ranges of items of about equal weight, a few for each thread. ends: running sums of the items' weights, from 0. Less
// weight than `least` a thread stays with fewer threads: waking one up takes longer.
template <class Body>
void parallel_ranges(std::span<const std::size_t> ends, int threads, std::size_t least, Body body) {
    const std::size_t n = ends.size() - 1, useful = std::min(static_cast<std::size_t>(std::max(threads, 1)), ends.back() / std::max<std::size_t>(least, 1) + 1);
    const std::size_t parts = useful < 2 ? 1 : std::min(n, useful * 4);
    parallel_for(parts, static_cast<int>(useful), [&] {
        return [&](std::size_t p) {
            const auto cut = [&](std::size_t part) {
                const auto at = std::lower_bound(ends.begin(), ends.end(), static_cast<std::size_t>(static_cast<double>(ends.back()) * static_cast<double>(part) / static_cast<double>(parts)));
                return part == 0 ? 0 : part == parts ? n : static_cast<std::size_t>(at - ends.begin());
            };
            body(cut(p), cut(p + 1));
        };
    });
}

}  // namespace rerank

// Runs a loop over `n` independent items on up to `threads` threads, the caller's among them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace rerank {

// body(begin) -> void is made by `make_body()` once per thread, so that it can own scratch memory. Items are handed out one by one;
// the answer must not depend on which thread gets which. The first exception is thrown again in the caller.
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
    {
        std::vector<std::jthread> pool;
        pool.reserve(extra);
        try {
            for (std::size_t t = 0; t < extra; ++t) pool.emplace_back(work);
        } catch (const std::system_error&) {  // no more threads to be had: those that are there do the work
        }
        work();
    }  // the threads are joined here
    if (failure) std::rethrow_exception(failure);
}

}  // namespace rerank

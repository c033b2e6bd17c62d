#include "pool.hpp"

#include <condition_variable>
#include <deque>
#include <new>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace rerank {
namespace {

struct Call {
    const std::function<void()>* work;
    std::size_t running = 0;
};

class Pool {
public:
    void run(std::size_t helpers, const std::function<void()>& work) {
        Call call{&work};
        {
            const std::lock_guard lock(mutex_);
            try {
                grow(helpers);
                for (std::size_t i = 0; i < std::min(helpers, threads_); ++i) waiting_.push_back(&call);
            } catch (const std::bad_alloc&) {  // fewer helpers, then
            }
        }
        for (std::size_t i = 0; i < helpers; ++i) wake_.notify_one();
        work();
        std::unique_lock lock(mutex_);
        std::erase(waiting_, &call);  // what nobody has begun is not needed any more
        done_.wait(lock, [&] { return call.running == 0; });
    }

private:
    void grow(std::size_t wanted) {
        try {
            for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {  // no more threads to be had: those that are there do the work
        }
    }

    void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return !waiting_.empty(); });
            Call* call = waiting_.front();
            waiting_.pop_front();
            ++call->running;
            lock.unlock();
            (*call->work)();
            lock.lock();
            if (--call->running == 0) done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::deque<Call*> waiting_;
    std::size_t threads_ = 0;
};

// Never destroyed: its threads sleep until the process ends. A child of a fork has none of them, and perhaps a locked mutex: it starts over.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
    Pool* there = the_pool.load(std::memory_order_acquire);
    if (there) return *there;
#if defined(__unix__) || defined(__APPLE__)
    static const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_relaxed); });
    static_cast<void>(registered);
#endif
    auto* fresh = new Pool;
    if (the_pool.compare_exchange_strong(there, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;
    return *there;
}

}  // namespace

void run_on_pool(std::size_t helpers, const std::function<void()>& work) { pool().run(helpers, work); }

}  // namespace rerank

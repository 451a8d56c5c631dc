#include "threads.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <pthread.h>
#include <thread>
#include <vector>

namespace simt {
namespace {

// How long a helper looks for work before it sleeps: the calls of a training step follow one
// another faster, and waking it costs as much. A caller that has no more pieces looks for as long,
// and then yields its core between two looks: on a loaded machine the helper that it waits for may
// be waiting for that core.
constexpr std::chrono::microseconds kPatience{50};

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Whether time is left to look once more.
class Patience {
  public:
    bool lasts() {
        if (++looks_ % 16 == 0) lasts_ = lasts_ && Clock::now() - begun_ < kPatience;
        return lasts_;
    }

  private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point begun_ = Clock::now();
    unsigned looks_ = 0;
    bool lasts_ = true;
};

// Each worker has a share of neighbouring pieces, and then helps with the others': in one operation
// after another it works on the same part of the maps, which its cache may still hold.
//
// A piece belongs to the worker that increments its share's counter of the same run. A helper that
// comes late finds none, and is not waited for: the caller counts pieces that are done, not
// helpers.
class Pool {
  public:
    explicit Pool(int workers)
        : workers_(workers), used_(workers), shares_(static_cast<std::size_t>(workers)) {
        for (int worker = 1; worker < workers; ++worker)
            std::thread([this, worker] { help(worker); }).detach();
    }

    int workers() const { return workers_; }
    void use(int count) { used_.store(count, std::memory_order_relaxed); }
    int used() const { return used_.load(std::memory_order_relaxed); }

    void run(std::int64_t pieces, detail::Piece piece, void* work) {
        const int used = this->used();
        // At first no piece may be taken: a late helper may have read the last run's counter, and
        // would compare it with this run's share.
        for (Share& share : shares_) share.next.exchange(std::uint64_t{runs_} << 32 | kNone);
        piece_.store(piece, std::memory_order_relaxed);
        work_.store(work, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        const std::uint32_t run = ++runs_;
        for (int i = 0; i < used; ++i) {
            Share& share = shares_[static_cast<std::size_t>(i)];
            share.end.store(static_cast<std::uint32_t>(pieces * (i + 1) / used),
                            std::memory_order_relaxed);
            share.next.store(std::uint64_t{run} << 32 |
                             static_cast<std::uint32_t>(pieces * i / used));
        }
        run_.store(run); // seq_cst, as `asleep_`: one side sees the other
        if (asleep_.load() > 0) {
            const std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        take(run, 0, used);
        for (Patience patience; done_.load(std::memory_order_acquire) < pieces;)
            patience.lasts() ? pause() : std::this_thread::yield();
    }

  private:
    static constexpr std::uint32_t kNone = ~std::uint32_t{0}; // no piece
    struct alignas(64) Share {                                // a cache line
        std::atomic<std::uint64_t> next{0}; // the run's number above, its next piece below
        std::atomic<std::uint32_t> end{0};
    };

    void take(std::uint32_t run, int worker, int used) {
        for (int i = 0; i < used; ++i)
            while (take_one(shares_[static_cast<std::size_t>((worker + i) % used)], run, worker)) {}
    }

    // Whether there was a piece of this run.
    bool take_one(Share& share, std::uint32_t run, int worker) {
        std::uint64_t next = share.next.load(std::memory_order_acquire);
        for (;;) {
            const detail::Piece piece = piece_.load(std::memory_order_relaxed);
            void* const work = work_.load(std::memory_order_relaxed);
            const std::uint32_t end = share.end.load(std::memory_order_relaxed);
            const auto mine = static_cast<std::uint32_t>(next);
            if (next >> 32 != run || mine >= end) return false;
            // If it succeeds, what was read above is this run's: the counter changes before that
            // does.
            if (!share.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel))
                continue;
            piece(work, mine, worker);
            done_.fetch_add(1, std::memory_order_release);
            return true;
        }
    }

    void help(int worker) {
        std::uint32_t seen = 0;
        for (;;) {
            Patience patience;
            while (run_.load() == seen) {
                if (patience.lasts()) {
                    pause();
                    continue;
                }
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_.fetch_add(1);
                wake_.wait(lock, [&] { return run_.load() != seen; });
                asleep_.fetch_sub(1);
            }
            seen = run_.load();
            const int used = this->used();
            if (worker < used) take(seen, worker, used);
        }
    }

    const int workers_;
    std::atomic<int> used_;
    std::vector<Share> shares_;
    std::atomic<detail::Piece> piece_{nullptr};
    std::atomic<void*> work_{nullptr};
    std::atomic<std::int64_t> done_{0};
    std::atomic<std::uint32_t> run_{0};
    std::atomic<int> asleep_{0};
    std::uint32_t runs_ = 0;
    std::mutex mutex_;
    std::condition_variable wake_;
};

std::atomic<int> settled{0}; // how many workers there are; 0: not settled yet
std::mutex busy;             // its holder has the helpers
Pool* pool = nullptr;

// A forked child has no helpers, and the lock may have been in any state: it starts anew. What the
// parent had is left alone; destroying it would wait for threads that are gone.
void forget() {
    new (&busy) std::mutex;
    pool = nullptr;
}

Pool& started() {
    if (pool == nullptr) {
        static const int once = pthread_atfork(nullptr, nullptr, forget);
        static_cast<void>(once);
        pool = new Pool(workers()); // never destroyed: helpers may sleep in it at exit
    }
    return *pool;
}

} // namespace

int workers() {
    set_workers(1);
    return settled.load();
}

bool set_workers(int count) {
    int none = 0;
    return settled.compare_exchange_strong(none, count) || none == count;
}

void use_workers(int count) {
    const std::lock_guard<std::mutex> lock(busy);
    started().use(count);
}

namespace detail {

void run(std::int64_t pieces, Piece piece, void* work) {
    constexpr std::int64_t most = 1 << 30; // of a run: counted in 32 bits
    if (pieces > 1 && pieces < most && workers() > 1 && busy.try_lock()) {
        const std::lock_guard<std::mutex> lock(busy, std::adopt_lock);
        if (started().used() > 1) return started().run(pieces, piece, work);
    }
    for (std::int64_t i = 0; i < pieces; ++i) piece(work, i, 0);
}

} // namespace detail
} // namespace simt

#include "threads.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <pthread.h>
#include <thread>

namespace simt {
namespace {

// How long a helper looks for work before it sleeps: the calls of a training step follow one
// another faster, and waking it costs as much. A caller that has no more pieces looks as long, and
// then gives its core away between two looks: on a loaded machine the helper that it waits for may
// be waiting for that very core.
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

// A piece belongs to whoever moves the counter of the same run on by one. A helper that comes late
// finds none, and nobody waits for it: the caller counts pieces that are done, not helpers.
class Pool {
  public:
    explicit Pool(int workers) : workers_(workers), used_(workers) {
        for (int worker = 1; worker < workers; ++worker)
            std::thread([this, worker] { help(worker); }).detach();
    }

    int workers() const { return workers_; }
    void use(int count) { used_.store(count, std::memory_order_relaxed); }
    int used() const { return used_.load(std::memory_order_relaxed); }

    void run(std::int64_t pieces, detail::Piece piece, void* work) {
        const auto count = static_cast<std::uint32_t>(pieces);
        // First nobody may take a piece: a helper that is late has perhaps looked at the last run's
        // counter, and would compare it with this run's count.
        next_.exchange(std::uint64_t{runs_} << 32 | kNone);
        piece_.store(piece, std::memory_order_relaxed);
        work_.store(work, std::memory_order_relaxed);
        count_.store(count, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        const std::uint32_t run = ++runs_;
        next_.store(std::uint64_t{run} << 32); // seq_cst, as `asleep_`: one of us sees the other
        if (asleep_.load() > 0) {
            const std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        take(run, 0);
        for (Patience patience; done_.load(std::memory_order_acquire) < count;)
            patience.lasts() ? pause() : std::this_thread::yield();
    }

  private:
    void take(std::uint32_t run, int worker) {
        std::uint64_t next = next_.load(std::memory_order_acquire);
        for (;;) {
            const detail::Piece piece = piece_.load(std::memory_order_relaxed);
            void* const work = work_.load(std::memory_order_relaxed);
            const std::uint32_t count = count_.load(std::memory_order_relaxed);
            const auto mine = static_cast<std::uint32_t>(next);
            if (next >> 32 != run || mine >= count) return;
            // Where it succeeds, what was read above is this run's: before it changes, the counter
            // does.
            if (!next_.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) continue;
            piece(work, mine, worker);
            done_.fetch_add(1, std::memory_order_release);
            next = next_.load(std::memory_order_acquire);
        }
    }

    std::uint32_t current() const { return static_cast<std::uint32_t>(next_.load() >> 32); }

    void help(int worker) {
        std::uint32_t seen = 0;
        for (;;) {
            Patience patience;
            while (current() == seen) {
                if (patience.lasts()) {
                    pause();
                    continue;
                }
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_.fetch_add(1);
                wake_.wait(lock, [&] { return current() != seen; });
                asleep_.fetch_sub(1);
            }
            seen = current();
            if (worker < used()) take(seen, worker);
        }
    }

    const int workers_;
    std::atomic<int> used_;
    std::atomic<detail::Piece> piece_{nullptr};
    std::atomic<void*> work_{nullptr};
    std::atomic<std::uint32_t> count_{0}, done_{0};
    static constexpr std::uint32_t kNone = ~std::uint32_t{0}; // no piece
    std::atomic<std::uint64_t> next_{0}; // the run's number above, its next piece below
    std::atomic<int> asleep_{0};
    std::uint32_t runs_ = 0;
    std::mutex mutex_;
    std::condition_variable wake_;
};

std::atomic<int> wanted{1};
std::atomic<bool> settled{false};
std::mutex busy; // whoever has it has the helpers
Pool* pool = nullptr;

// In a forked child there are no helpers, and who knows in what state the lock was: it starts anew.
// What the parent had stays where it was; destroying it would wait for threads that are gone.
void forget() {
    new (&busy) std::mutex;
    pool = nullptr;
}

Pool& started() {
    if (pool == nullptr) {
        static const int once = pthread_atfork(nullptr, nullptr, forget);
        static_cast<void>(once);
        pool = new Pool(workers()); // never destroyed: helpers may sleep in it when we exit
    }
    return *pool;
}

} // namespace

int workers() {
    settled.store(true);
    return wanted.load();
}

bool set_workers(int count) {
    if (!settled.exchange(true)) wanted.store(count);
    return wanted.load() == count;
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

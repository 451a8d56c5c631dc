// A worker: an OS thread that runs the clusters of a launch, one at a time. scheduler.cpp has what
// it does, launch.cpp how launches are handed to workers.
#pragma once

#include "simt.hpp"

#include "async.hpp"
#include "check.hpp"
#include "copies.hpp"
#include "fiber.hpp"

#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace simt {

constexpr std::size_t kSharedBytes = 48 * 1024; // static shared memory of a block
constexpr std::size_t kMaxSharedArrays = 16;
constexpr std::size_t kSharedFence = kChecked ? 256 : 0; // no array ends where the next begins
constexpr std::size_t kArenaAlignment = 1024;            // a swizzled tile's
constexpr std::size_t kDynamicOffset =
    (kSharedBytes + (kMaxSharedArrays + 1) * kSharedFence + kArenaAlignment - 1) / kArenaAlignment *
    kArenaAlignment;
constexpr std::size_t kMaxSharedBytes = 227 * 1024; // of both kinds together, on Hopper
constexpr std::size_t kSharedOfAnyCard = 99 * 1024; // compute capability 8.6, 8.9 or 12.0
constexpr std::size_t kArenaBytes =
    kDynamicOffset + kMaxSharedBytes + (kSharedFence ? kArenaAlignment : 0); // of a block

// splitmix64: a permutation needs few random bits, and none of them secret.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t operator()() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    template <class T> void shuffle(T* values, std::size_t count) {
        for (std::size_t i = count; i > 1; --i) std::swap(values[i - 1], values[(*this)() % i]);
    }

  private:
    std::uint64_t state_;
};

inline bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}
inline std::string line_of(Site site) { return text(site.file, ':', site.line); }

// What all workers of one launch share.
struct Launch {
    Launch(const Grid& grid_, const detail::Call& call_, std::string name_, std::uint64_t seed_,
           bool cuts_)
        : grid(grid_), call(call_), name(std::move(name_)), seed(seed_), cuts(cuts_),
          clusters(volume(grid.blocks) / grid.cluster),
          block_threads(static_cast<unsigned>(volume(grid.threads))),
          threads(grid.cluster * block_threads) {}

    const Grid& grid;
    const detail::Call& call;
    std::string name;
    std::uint64_t seed;
    bool cuts; // sums of products
    std::uint64_t clusters;
    unsigned block_threads;
    unsigned threads;                         // of a cluster
    std::vector<std::uint32_t> cluster_order; // empty in natural order
    std::atomic<std::uint64_t> next_cluster{0};
    std::atomic<std::size_t> static_bytes{0}; // of shared memory
    std::atomic<bool> on_hopper{false};       // a block has used what Hopper alone has
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::string failure; // the first one

    Error error(const std::string& what) const {
        return Error(text(name, " launched at ", line_of(grid.site), ": ", what));
    }
    void fail(const std::string& message) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!failed.exchange(true)) failure = message;
    }
};

// Runs clusters, one at a time, on one OS thread.
class Worker : public Scheduler {
  public:
    // What a thread waits for, and where.
    struct Waiting {
        Site site;
        std::uint32_t lanes = 0;
        void* slot = nullptr; // of an exchange; or what a parked thread waits for
        Exchange exchange = nullptr;
    };

    void run(Launch& launch);
    // Of the running thread; one that is parked goes on after a wake() of its slot.
    void wait(State state, const Waiting& waiting);
    void wake(const void* what);
    [[noreturn]] void fail(const std::string& message);

    void* shared_memory(const SharedArray& array);
    // "full[1]", as the source has it.
    std::string element_at(const void* address) const;
    // Whether it lies in the shared memory of the running thread's block.
    bool in_the_arena(const void* address) const {
        const std::byte* const own = shared_[rank()];
        return address >= own && address < own + kArenaBytes;
    }
    // The place in another block's shared memory that is this one in the running thread's block.
    template <class T> T* at_rank(T* own, unsigned rank) const {
        const auto offset = reinterpret_cast<std::uintptr_t>(own) -
                            reinterpret_cast<std::uintptr_t>(shared_[this->rank()]);
        return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(shared_[rank]) + offset);
    }
    unsigned cluster_blocks() const { return total_ / block_threads_; }
    unsigned rank() const { return current_ / block_threads_; } // of the running thread's block
    bool has_ended(unsigned rank) const;
    // " of rank 1" in a cluster, otherwise nothing.
    std::string of_rank(unsigned rank) const;
    // Its stack, the kernel's arguments, threadIdx and the like.
    bool belongs_to_the_thread(const void* address) const;

    Copies& copies() { // of the running thread
        copied_ = true;
        return copies_[current_];
    }
    AsyncWork& async() { return async_; }
    bool cuts() const { return launch_->cuts; }
    unsigned threads() const { return total_; }
    unsigned current() const { return current_; } // linear number of the running thread
    std::string where() const;

  private:
    struct Placed {
        const SharedArray* array;
        std::byte* memory;
        std::size_t bytes;
    };

    static void fiber_main();
    void begin_launch(Launch& launch);
    void run_cluster(std::uint64_t cluster);
    void go_on(void** saved);
    bool release();
    bool release_all(State barrier, unsigned first, unsigned count);
    bool release_warp(unsigned warp);
    void release_lanes(unsigned warp, std::uint32_t lanes, bool all);
    void resume_later(unsigned thread);
    void arrive_in_whole_warp(unsigned warp);
    std::uint32_t lanes_in(unsigned warp, bool (*wanted)(State)) const;
    std::string thread_name(unsigned thread) const;
    [[noreturn]] void report_deadlock();

    FiberPool fibers_{kMaxThreads};
    alignas(kArenaAlignment) std::byte shared_[kMaxCluster][kArenaBytes]; // by rank
    std::vector<Placed> placed_;                                          // of rank 0
    std::size_t shared_used_ = 0;
    bool copied_ = false; // a thread of this cluster has used its copies
    AsyncWork async_;
    Launch* launch_ = nullptr;
    Random random_{0};
    void* main_ = nullptr; // the worker's own stack, left while a cluster runs
    Fiber* fiber_ = nullptr;
    unsigned ready_count_ = 0;
    Waiting waiting_[kMaxThreads];
    Fiber* fiber_of_[kMaxThreads];
    Copies copies_[kMaxThreads];
    std::uint16_t ready_[kMaxThreads];      // those released, the next to run last
    unsigned whole_warp_[kMaxThreads / 32]; // lanes that wait in an operation of all 32
    std::uint16_t shuffled_[kMaxThreads];
};

inline Worker& this_worker() { return *static_cast<Worker*>(self.scheduler); }

} // namespace simt

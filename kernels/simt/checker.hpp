// What the checker knows, and the steps of its work: check.cpp has the rules, check_told.cpp what
// the emulation tells it, check_hooks.cpp what the compiler does.
#pragma once

#include "clocks.hpp"
#include "lint.hpp"
#include "source_lines.hpp"
#include "worker.hpp"

#include <array>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace simt::check {

// ---------------------------------------------------------------------- who did what, and when

// What carries an access out. All but a thread do so later than the thread that requests it.
enum class By : std::uint8_t {
    thread,
    cp_async,      // not waited for yet: nothing of its launch is ordered after it
    tied_cp_async, // ends with a phase of an mbarrier
    load_tile,     // likewise
    wgmma          // ends with a warpgroup's product
};

// One access, with all that decides whether another one comes after it. `launch` 0: none yet. The
// blocks of a cluster count as one, their threads as its threads, and cluster_sync as their
// __syncthreads: clocks tell what orders the threads of each.
struct Event {
    std::uint32_t launch;
    std::uint32_t block;       // the cluster's first
    std::uint32_t block_epoch; // __syncthreads that came before
    std::uint32_t warp_epoch;  // __syncwarp of its warp, likewise
    Time time;                 // of `actor`, at the access or, if that is no thread, at its end
    std::uint32_t pc;          // offset in the module, for addr2line
    std::uint16_t actor;       // whose time it is (clocks.hpp)
    std::uint16_t thread;      // that did or requested it
    By by;
};

inline bool same_warp(const Event& a, const Event& b) {
    return a.block == b.block && a.thread / 32 == b.thread / 32;
}

// Whether it belongs to the running block of the present launch.
bool of_this_block(const Event& event);

// Whether the tensor cores and the copy engine see it only after a fence.
inline bool is_generic(const Event& event) {
    return event.by == By::thread || event.by == By::tied_cp_async;
}

// The history of one element. Without mbarriers two readers are enough, of different warps whenever
// readers of two warps exist (docs/checker.md has the proof). With them, all are kept that are not
// ordered before another.
struct Cell {
    Event write;
    Event reads[2];
    std::vector<Event> more_reads;
};

// ---------------------------------------------------------------------- what may be touched

struct Region {
    std::string name;
    const std::byte* begin;
    std::size_t bytes;
    std::size_t element_bytes;
    Access access;
    int device;   // kShared: the block's own
    bool written; // elements hold a value from the start
    std::vector<Cell> cells;
    std::string of_rank; // of a block of a cluster

    bool holds(const std::byte* p) const { return p >= begin && p < begin + bytes; }
};

constexpr int kShared = -2;

struct Checker {
    std::vector<Region> buffers; // of the session
    std::vector<Region> shared;  // of the launch
    Region* last = nullptr;      // where the last access fell: the next one usually does too
    Event now{};
    std::array<std::uint32_t, 32> warp_epochs{};
    std::array<Time, 32> times_at_barrier{}; // of each warp's threads, at the last __syncthreads
    Clocks clocks;                           // from the block's first use of them
    const Knowledge* view = nullptr;         // of the accessing actor; null without clocks
    Knowledge common;                        // of a warpgroup
    std::array<Event, kMbarriers> inits{};   // of this block's mbarriers
    std::array<Event, kMbarriers> told{};    // and the fences by which the copy engine knows them
    struct Hold {
        Event arrival;
        const void* barrier;
        unsigned rank; // of the barrier's block
    };
    std::vector<Hold> holds; // the last arrivals of each thread of the cluster at other blocks'
    unsigned threads = 0;    // of a cluster
    unsigned block_threads = 0;
    int device = 0;
    const char* module_begin = simt::module_begin();
    std::set<std::pair<std::string, int>> barriers;
    std::pair<std::string, int> left_out;
    std::string shortened;
    std::unique_ptr<Lint> lint; // while it is switched on
};

Checker& checker();

// Set while kernel code runs; everything else in an instrumented file is ignored.
extern __thread bool active __attribute__((tls_model("initial-exec")));

// ---------------------------------------------------------------------- steps

// Makes the running thread the actor of `now`, at the line that `pc` returns to.
void begin_access(const void* pc);

// The array in which an address lies, or null; the element that it is in.
Region* find(const std::byte* p);
std::size_t element_of(const Region& region, const void* address);

// Calls each(element) for those that hold these bytes.
template <class Each>
void for_elements(Region& region, const void* address, std::size_t bytes, Each each) {
    const auto offset =
        static_cast<std::size_t>(static_cast<const std::byte*>(address) - region.begin);
    const std::size_t end = (offset + bytes + region.element_bytes - 1) / region.element_bytes;
    for (std::size_t e = offset / region.element_bytes; e < end; ++e) each(e);
}

// "x[3]", and "read by block 0 thread 1 at lrn.cu:48".
std::string place(const Region& region, std::size_t element);
std::string describe(const char* verb, const Event& event);

// Whether an earlier access comes before the one that is being made; if not, what to say.
bool ordered(const Event& before);
[[noreturn]] void report_race(const Region& region, std::size_t element, const char* verb_before,
                              const Event& before, const char* verb_now);

// The tensor cores and the copy engine may miss what a thread wrote, even after a barrier.
void require_fenced(const Region& region, std::size_t element, const char* verb_now);

// The array that holds these bytes, all of them.
Region& hold(Region* region, const std::byte* p, std::size_t bytes, const char* verb);

// A read by the actor of `now`; kept as `event`, which says when it is over.
void read_element(Region& region, std::size_t element, const Event& event);

// A thread's access, kept as `event`, or as the thread's own where there is none.
void access(const void* address, std::size_t bytes, bool is_write, const void* pc,
            const Event* event = nullptr);

// Only clocks can tell what mbarriers and asynchronous copies order: started at the first one.
Clocks& clocks();
// As begin_access, with clocks.
void begin_clocked(const void* pc);

// An event of the running thread, carried out by another actor and over at that actor's time.
Event event_of(By by, unsigned actor, Time time, const void* pc);

} // namespace simt::check

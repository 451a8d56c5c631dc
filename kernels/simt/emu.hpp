// simt.hpp as a C++ compiler sees it: CUDA's vocabulary, and an emulated device underneath.
//
// One block runs at a time on a worker (an OS thread), or one cluster of blocks: a block without
// one is a cluster of its own here. Its CUDA threads start one after the other in a plain loop on
// one fiber; only when one of them has to wait does the loop go on, on a fresh fiber. A kernel
// without barriers therefore never switches. scheduler.cpp holds the other half.
#pragma once

#include "emu_tensor.hpp"
#include "host.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>

namespace simt {
#if defined(SIMT_CHECK)
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif
} // namespace simt

// ---------------------------------------------------------------------- barriers and shuffles

namespace simt {

// Lanes that have met hand their slots to one function, which the last of them runs for all.
using Exchange = void (*)(void* const slots[32], std::uint32_t lanes);

void block_barrier(Site site);
void warp_barrier(std::uint32_t lanes, Site site);
void warp_exchange(std::uint32_t lanes, void* slot, Exchange exchange, Site site);

template <class T> struct Shuffled {
    T value;
    unsigned source; // lane whose value this lane takes
    T result;

    static void exchange(void* const slots[32], std::uint32_t lanes) {
        for (unsigned lane = 0; lane < 32; ++lane) {
            if (!(lanes >> lane & 1u)) continue;
            auto* mine = static_cast<Shuffled*>(slots[lane]);
            const bool present = mine->source < 32 && (lanes >> mine->source & 1u);
            mine->result =
                present ? static_cast<Shuffled*>(slots[mine->source])->value : mine->value;
        }
    }
};

inline unsigned lane_id() {
    const unsigned linear =
        self.thread.x + self.threads.x * (self.thread.y + self.threads.y * self.thread.z);
    return linear & 31u;
}

template <class T> T shuffle(std::uint32_t lanes, T value, unsigned source, Site site) {
    Shuffled<T> slot{value, source, value};
    warp_exchange(lanes, &slot, &Shuffled<T>::exchange, site);
    return slot.result;
}

} // namespace simt

// Each takes the call's own line by default, so that a report can name it.
inline void __syncthreads(simt::Site site = simt::Site::here()) { simt::block_barrier(site); }
inline void __syncwarp(std::uint32_t lanes = 0xffffffffu, simt::Site site = simt::Site::here()) {
    simt::warp_barrier(lanes, site);
}
template <class T>
T __shfl_sync(std::uint32_t lanes, T value, int source, simt::Site site = simt::Site::here()) {
    return simt::shuffle(lanes, value, static_cast<unsigned>(source) & 31u, site);
}
template <class T>
T __shfl_xor_sync(std::uint32_t lanes, T value, int mask, simt::Site site = simt::Site::here()) {
    return simt::shuffle(lanes, value, simt::lane_id() ^ static_cast<unsigned>(mask), site);
}
// ---------------------------------------------------------------------- shared memory

namespace simt {

// One SIMT_SHARED or SIMT_DYN_SHARED of the source. Constant-initialised, so no guard variable
// stands in a kernel.
struct SharedArray {
    const char* name;
    std::size_t bytes; // 0: as many as the launch gives
    std::size_t element_bytes;
};

void* shared_memory(const SharedArray& array); // the current block's copy

} // namespace simt

#define SIMT_SHARED(type, name, ...)                                                               \
    using name##_array = type __VA_ARGS__;                                                         \
    static const ::simt::SharedArray name##_shared = {#name, sizeof(name##_array), sizeof(type)};  \
    name##_array& name = *static_cast<name##_array*>(::simt::shared_memory(name##_shared))

#define SIMT_DYN_SHARED(type, name)                                                                \
    static const ::simt::SharedArray name##_shared = {#name, 0, sizeof(type)};                     \
    type* const name = static_cast<type*>(::simt::shared_memory(name##_shared))

// ---------------------------------------------------------------------- launching

namespace simt {

struct Grid;

constexpr unsigned kMaxThreads = 1024; // that run together here
constexpr unsigned kMaxCluster = 2;    // blocks

// The part of the scheduler that a launch's row loop needs inline.
class Scheduler {
  public:
    // Makes the next thread of the cluster the current one; false when all have been started.
    bool start_next() {
        if (started_ == total_) return false;
        become(order_ ? order_[started_] : started_);
        ++started_;
        return true;
    }
    void finish_current() {
        states_[current_] = State::exited;
        ++exited_;
    }

    enum class State : std::uint8_t {
        running,
        at_block_barrier,
        at_cluster_barrier,
        at_warp_barrier,
        at_exchange,
        parked, // until something comes
        exited
    };

  protected:
    void become(unsigned thread) {
        current_ = thread;
        self.thread = position_of_[thread];
        if (block_threads_ != total_) self.block = block_of_[thread / block_threads_];
    }

    unsigned started_ = 0;
    unsigned total_ = 0; // threads of the cluster, those of its first block first
    unsigned block_threads_ = 0;
    uint3 block_of_[kMaxCluster]; // blockIdx of each
    unsigned exited_ = 0;
    unsigned current_ = 0;
    State states_[kMaxThreads];
    uint3 position_of_[kMaxThreads];       // threadIdx of each
    const std::uint16_t* order_ = nullptr; // a permutation of the threads; none in natural order
};

namespace detail {

// One launch, as the scheduler sees it: `rows(call)` starts threads until none is left to start.
struct Call {
    void (*rows)(const void* arguments);
    const void* arguments;
    std::size_t argument_bytes;
};

void run(const Grid& grid, const char* pretty_function, const Call& call);

// The checker's hooks look at memory only between these two.
void enter_kernel();
void leave_kernel();

template <auto kernel, class... Arguments> void rows(const void* arguments) {
    const auto& tuple = *static_cast<const std::tuple<Arguments...>*>(arguments);
    while (self.scheduler->start_next()) {
        if (kChecked) enter_kernel();
        std::apply([](auto... each) { kernel(each...); }, tuple);
        if (kChecked) leave_kernel();
        self.scheduler->finish_current();
    }
}

template <auto kernel, class GridType, class... Arguments>
void launch(const GridType& grid, const char* pretty_function, Arguments... arguments) {
    const std::tuple<Arguments...> tuple(arguments...);
    run(grid, pretty_function, {&rows<kernel, Arguments...>, &tuple, sizeof tuple});
}

} // namespace detail
} // namespace simt

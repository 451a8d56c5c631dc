// The exact checker: the rules that every memory access of a kernel is checked against.
//
// The kernel files of the checker build are compiled with -fsanitize=thread, but libtsan is not
// linked: the hooks that the compiler then calls before each access are in check_hooks.cpp. They
// know which thread of which block runs, how many barriers it has passed, and which buffers the
// launch was given, so that a race is decided by CUDA's rules and not by what happened to run
// first.
#pragma once

#include "simt.hpp"

#include <string>

namespace simt {

#if defined(SIMT_CHECK)
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

// Ends the launch with this message (scheduler.cpp).
[[noreturn]] void fail(const std::string& message);
// "block (x,y,z) thread (x,y,z)" of the running thread.
std::string where();
// Linear number of the running thread, within its block.
unsigned current_thread();
// Whether the address lies in the shared memory of the running block.
bool is_shared(const void* address);
// Its stack, the kernel's arguments, threadIdx and the like.
bool belongs_to_the_thread(const void* address);

namespace check {

#if defined(SIMT_CHECK)
void begin_launch(unsigned threads);
void begin_block(std::uint32_t block);
void block_barrier();
void warp_barrier(unsigned warp);
void declare_shared(const SharedArray& array, const void* memory, std::size_t bytes);
bool meet_barrier(Site site); // false: this one is left out

// An access that the emulation makes for the kernel, at the line that `pc` returns to.
void read(const void* address, std::size_t bytes, const void* pc);
// A cp.async writes this memory at some time between these two, both called for its thread.
void begin_copy(const void* address, std::size_t bytes, const void* pc);
void end_copy(const void* address, std::size_t bytes, const void* pc);
// "x + 4 bytes", or a bare address where no array holds it.
std::string place_of(const void* address);

// What Hopper adds (hopper.hpp), each by the running thread. `barrier` is one of the block's.
void mbarrier_init(unsigned barrier, const void* address, const void* pc);
void mbarrier_fence_init();
void mbarrier_use(unsigned barrier, const void* address, const void* pc);
void mbarrier_use_by_engine(unsigned barrier, const void* address); // after mbarrier_use
void mbarrier_arrive(unsigned barrier);
void mbarrier_phase_ends(unsigned barrier);
void mbarrier_acquire(unsigned barrier); // its last phase that ended
void fence();                            // of memory, for the copy engine and the tensor cores
// A cp.async ends with the barrier's phase; a load_tile writes, and reads, until then.
void tie_copy(const void* address, std::size_t bytes, unsigned barrier, const void* pc);
void load(const void* address, std::size_t bytes, unsigned barrier, const void* pc);
void load_from(const void* address, std::size_t bytes, const void* pc);
// A warpgroup's `number`-th product reads, once all its threads have begun it.
void begin_product(unsigned warpgroup, const void* pc);
void read_operand(const void* address, std::size_t bytes, unsigned warpgroup, std::uint32_t number);
void products_ended(unsigned warpgroup, std::uint32_t last);
#else
inline void begin_launch(unsigned) {}
inline void begin_block(std::uint32_t) {}
inline void block_barrier() {}
inline void warp_barrier(unsigned) {}
inline void declare_shared(const SharedArray&, const void*, std::size_t) {}
inline bool meet_barrier(Site) { return true; }
inline void read(const void*, std::size_t, const void*) {}
inline void begin_copy(const void*, std::size_t, const void*) {}
inline void end_copy(const void*, std::size_t, const void*) {}
inline std::string place_of(const void*) { return "an address"; }
inline void mbarrier_init(unsigned, const void*, const void*) {}
inline void mbarrier_fence_init() {}
inline void mbarrier_use(unsigned, const void*, const void*) {}
inline void mbarrier_use_by_engine(unsigned, const void*) {}
inline void mbarrier_arrive(unsigned) {}
inline void mbarrier_phase_ends(unsigned) {}
inline void mbarrier_acquire(unsigned) {}
inline void fence() {}
inline void tie_copy(const void*, std::size_t, unsigned, const void*) {}
inline void load(const void*, std::size_t, unsigned, const void*) {}
inline void load_from(const void*, std::size_t, const void*) {}
inline void begin_product(unsigned, const void*) {}
inline void read_operand(const void*, std::size_t, unsigned, std::uint32_t) {}
inline void products_ended(unsigned, std::uint32_t) {}
#endif

} // namespace check

namespace detail {

#if !defined(SIMT_CHECK)
inline void enter_kernel() {}
inline void leave_kernel() {}
#endif

// Stands wherever a kernel calls the emulation: that makes none of the kernel's own accesses, but
// may run an instrumented kernel file's copy of a library template. A report never returns, and
// leaves the hooks off.
struct OutsideKernel {
    OutsideKernel() { leave_kernel(); }
    ~OutsideKernel() { enter_kernel(); }
};

} // namespace detail

} // namespace simt

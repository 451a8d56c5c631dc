// The exact checker: what every memory access of a kernel is held against.
//
// The kernel files of the checker build are compiled with -fsanitize=thread, but libtsan is not
// linked: the hooks that the compiler then calls before each access are ours (check.cpp). They know
// which thread of which block runs, how many barriers lie behind it, and which buffers the launch
// was given, so that a race is decided by CUDA's rules and not by what happened to run first.
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
// "block (x,y,z) thread (x,y,z)" of the thread that runs.
std::string where();
// Linear number of the thread that runs, within its block.
unsigned current_thread();
// Whether the address lies in the shared memory of the block that runs.
bool is_shared(const void* address);
// Its stack, the kernel's arguments, threadIdx and its like.
bool belongs_to_the_thread(const void* address);

namespace check {

#if defined(SIMT_CHECK)
void begin_launch();
void begin_block(std::uint32_t block);
void block_barrier();
void warp_barrier(unsigned warp);
void declare_shared(const SharedArray& array, const void* memory, std::size_t bytes);
bool meet_barrier(Site site); // false: this one is left out

// An access that the emulation makes for the kernel, at the line that `pc` returns to.
void read(const void* address, std::size_t bytes, const void* pc);
// A cp.async writes this memory at some time between the two, both called for its thread.
void begin_copy(const void* address, std::size_t bytes, const void* pc);
void end_copy(const void* address, std::size_t bytes, const void* pc);
// "x + 4 bytes", or a bare address where no array holds it.
std::string place_of(const void* address);
#else
inline void begin_launch() {}
inline void begin_block(std::uint32_t) {}
inline void block_barrier() {}
inline void warp_barrier(unsigned) {}
inline void declare_shared(const SharedArray&, const void*, std::size_t) {}
inline bool meet_barrier(Site) { return true; }
inline void read(const void*, std::size_t, const void*) {}
inline void begin_copy(const void*, std::size_t, const void*) {}
inline void end_copy(const void*, std::size_t, const void*) {}
inline std::string place_of(const void*) { return "an address"; }
#endif

} // namespace check

namespace detail {

#if !defined(SIMT_CHECK)
inline void enter_kernel() {}
inline void leave_kernel() {}
#endif

// Stands wherever a kernel calls the emulation: what that does is none of the kernel's accesses,
// but may run an instrumented kernel file's copy of a library template. A report never comes back,
// and leaves the hooks off.
struct OutsideKernel {
    OutsideKernel() { leave_kernel(); }
    ~OutsideKernel() { enter_kernel(); }
};

} // namespace detail

} // namespace simt

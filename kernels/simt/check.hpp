// The exact checker: the rules that every memory access of a kernel is checked against.
//
// The kernel files of the checker build are compiled with -fsanitize=thread, but libtsan is not
// linked: the hooks that the compiler then calls before each access are in check_hooks.cpp. They
// know which thread of which block runs, how many barriers it has passed, and which buffers the
// launch was given, so that a race is decided by CUDA's rules and not by what happened to run
// first.
#pragma once

#include "device.hpp"
#include "simt.hpp"

#include <sstream>
#include <string>

namespace simt {

// A sentence of its parts.
template <class... Parts> std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

// Ends the launch with this message (scheduler.cpp).
[[noreturn]] void fail(const std::string& message);
template <class... Parts> [[noreturn]] void fail(const Parts&... parts) { fail(text(parts...)); }
// "block (x,y,z) thread (x,y,z)" of the running thread.
std::string where();

// The device that the calling thread launches on: the one of its session.
int current_device();
// Whether kernels on `device` may touch the memory of `peer`.
bool peers_enabled(int device, int peer);

// All but left_out() are called only in the checker's build.
namespace check {

// The session's buffers, at the places where the kernel finds them.
void declare(const Buffer& buffer, const void* placed);
void forget_buffers();
std::string unwritten_output(); // empty when all is written

void begin_launch(unsigned threads, unsigned of_a_block);
void begin_cluster(std::uint32_t first_block);
void barrier(unsigned first, unsigned last); // these threads of a cluster have met, or all
void warp_barrier(unsigned warp);
void declare_shared(const SharedArray& array, const void* memory, std::size_t bytes,
                    const std::string& of_rank);
bool meet_barrier(Site site); // false: this one is left out
inline bool left_out(Site site) { return kChecked && !meet_barrier(site); }

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
void mbarrier_hold(const void* address, unsigned rank); // before an arrival at this block's
std::string unheld_arrival(); // whose block may have ended before it; empty if there is none
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
} // namespace check

namespace detail {

// Stands wherever a kernel calls the emulation: that makes none of the kernel's own accesses, but
// may run an instrumented kernel file's copy of a library template. A report never returns, and
// leaves the hooks off.
struct OutsideKernel {
    OutsideKernel() {
        if (kChecked) leave_kernel();
    }
    ~OutsideKernel() {
        if (kChecked) enter_kernel();
    }
};

} // namespace detail

} // namespace simt

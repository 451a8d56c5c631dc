// Stacks that a worker can leave and come back to: what a waiting CUDA thread is on the CPU.
#pragma once

#include <cstddef>
#include <vector>

namespace simt {

// Saves the callee-saved registers on the present stack, leaves its pointer in *saved, and goes on
// where `resumed` was left. Plain assembly: 3 to 16 ns, against 200 for swapcontext, which makes
// two system calls for the signal mask.
extern "C" void simt_switch_fiber(void** saved, void* resumed);

struct Fiber {
    void* stack_pointer = nullptr;
    std::byte* bottom = nullptr;
    std::byte* top = nullptr;

    // Makes the next switch to this fiber begin `entry`, which must never return.
    void prepare(void (*entry)());
    bool holds(const void* address) const { return address >= bottom && address < top; }
};

// A worker's fibers: 64 KiB stacks, each under a guard page that an overflow hits.
class FiberPool {
  public:
    explicit FiberPool(std::size_t count);
    ~FiberPool();
    FiberPool(const FiberPool&) = delete;
    FiberPool& operator=(const FiberPool&) = delete;

    void take_back_all();
    Fiber* take();
    void give_back(Fiber* fiber) { free_.push_back(fiber); }

  private:
    std::vector<Fiber> fibers_;
    std::vector<Fiber*> free_;
    std::byte* memory_ = nullptr;
    std::size_t bytes_ = 0;
};

} // namespace simt

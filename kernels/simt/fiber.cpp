#include "fiber.hpp"

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include <sys/mman.h>

// simt_switch_fiber, by its instructions.
#define SIMT_SWITCH(instructions)                                                                  \
    asm(".text\n.hidden simt_switch_fiber\n.globl simt_switch_fiber\n"                             \
        ".type simt_switch_fiber, %function\nsimt_switch_fiber:" instructions                      \
        ".size simt_switch_fiber, .-simt_switch_fiber\n")

#if defined(__x86_64__)

SIMT_SWITCH(R"(
.irp register, rbp, rbx, r12, r13, r14, r15
    pushq %\register
.endr
    movq %rsp, (%rdi)
    movq %rsi, %rsp
.irp register, r15, r14, r13, r12, rbx, rbp, rcx
    popq %\register
.endr
    jmp *%rcx
)");

constexpr std::size_t kFrameWords = 8; // six registers, the return address, the caller's slot
constexpr std::size_t kReturnWord = 6;

#elif defined(__aarch64__)

SIMT_SWITCH(R"(
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");

constexpr std::size_t kFrameWords = 20; // x19 to x30, d8 to d15
constexpr std::size_t kReturnWord = 11; // x30

#else
#error                                                                                             \
    "The emulation switches stacks on x86-64 and aarch64; this processor needs its own few lines."
#endif

namespace simt {
namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr std::size_t kGuardBytes = 64 * 1024; // the largest page size of either processor
constexpr std::size_t kStride = kStackBytes + kGuardBytes;

// Tops that all lie at the same offset of a page share a few cache sets, and 1,024 of them evict
// one another at every barrier. Moving each by some lines halves the cost of a switch.
std::size_t colour(std::size_t index) { return (index * 5 % 60) * 192; }

} // namespace

void Fiber::prepare(void (*entry)()) {
    auto* frame = reinterpret_cast<std::uintptr_t*>(top) - kFrameWords;
    std::memset(frame, 0, kFrameWords * sizeof *frame);
    frame[kReturnWord] = reinterpret_cast<std::uintptr_t>(entry);
    stack_pointer = frame;
}

FiberPool::FiberPool(std::size_t count) : fibers_(count), bytes_(count * kStride) {
    void* memory = mmap(nullptr, bytes_, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED)
        throw std::runtime_error("no address space for the emulation's stacks");
    memory_ = static_cast<std::byte*>(memory);
    for (std::size_t i = 0; i < count; ++i) {
        std::byte* stack = memory_ + i * kStride + kGuardBytes;
        if (mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE) != 0)
            throw std::runtime_error("no memory for the emulation's stacks");
        fibers_[i].bottom = stack;
        fibers_[i].top = stack + kStackBytes - colour(i);
    }
    take_back_all();
}

FiberPool::~FiberPool() { munmap(memory_, bytes_); }

void FiberPool::take_back_all() {
    free_.clear();
    for (std::size_t i = fibers_.size(); i > 0; --i) free_.push_back(&fibers_[i - 1]);
}

Fiber* FiberPool::take() {
    Fiber* fiber = free_.back();
    free_.pop_back();
    return fiber;
}

} // namespace simt

// A launcher's workspace, dealt out in cache lines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/gemm.hpp"

namespace pyalexnet::cpu {

// Counts what it deals out. Without memory it only counts: the same code then sizes a workspace and
// uses it.
class Scratch {
  public:
    explicit Scratch(void* memory) : start_(reinterpret_cast<std::uintptr_t>(memory)) {
        if (memory) taken_ = (kCacheLine - start_ % kCacheLine) % kCacheLine;
    }

    // Room for `count` of T, not initialised.
    template <class T> T* take(std::int64_t count) {
        const std::uintptr_t at = start_ + taken_;
        const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
        taken_ += (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
        return reinterpret_cast<T*>(at);
    }
    // Bytes of a workspace that holds all, wherever it begins.
    std::size_t bytes() const { return taken_ == 0 ? 0 : taken_ + kCacheLine; }

  private:
    std::uintptr_t start_;
    std::size_t taken_ = 0;
};

} // namespace pyalexnet::cpu

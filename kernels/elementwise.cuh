// How an elementwise kernel shares out its elements: 16 bytes a thread where such accesses are
// allowed.
#pragma once

#include "bf16.cuh"

namespace pyalexnet {

constexpr int kElementwiseThreads = 256;

// Threads [0, vectors) take kVector<T> elements each, every later thread one of the rest.
template <class T> struct Split {
    std::int64_t vectors;
    std::int64_t count; // elements in all

    std::int64_t threads() const { return count - (kVector<T> - 1) * vectors; }
};

// For arrays of `count` elements: no vectors unless every array is 16-byte aligned.
template <class T, class... Arrays> Split<T> split(std::int64_t count, const Arrays*... arrays) {
    const bool aligned = ((reinterpret_cast<std::uintptr_t>(arrays) % 16 == 0) && ...);
    return {aligned ? count / kVector<T> : 0, count};
}

template <class T> simt::Grid elementwise_grid(Split<T> split, void* stream) {
    return {simt::blocks_for(split.threads(), kElementwiseThreads), kElementwiseThreads, stream};
}

__device__ __forceinline__ std::int64_t elementwise_thread() {
    return blockIdx.x * std::int64_t{kElementwiseThreads} + threadIdx.x;
}

// The one element of a thread after the vectors; it may lie past the end.
template <class T>
__device__ __forceinline__ std::int64_t scalar_element(Split<T> split, std::int64_t thread) {
    return thread + (kVector<T> - 1) * split.vectors;
}

} // namespace pyalexnet

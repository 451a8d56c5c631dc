// How an elementwise kernel shares out its floats: four a thread where 16-byte accesses are
// allowed.
#pragma once

#include "simt/simt.hpp"

namespace pyalexnet {

constexpr int kElementwiseThreads = 256;

// Threads [0, vectors) take four elements each, those after them one each of what is left.
struct Split {
    std::int64_t vectors;
    std::int64_t count; // elements in all

    std::int64_t threads() const { return count - 3 * vectors; }
};

// Of arrays of `count` floats: no vectors unless every array is 16-byte aligned.
template <class... Arrays> Split split(std::int64_t count, const Arrays*... arrays) {
    const bool aligned = ((reinterpret_cast<std::uintptr_t>(arrays) % sizeof(float4) == 0) && ...);
    return {aligned ? count / 4 : 0, count};
}

inline simt::Grid elementwise_grid(Split split, void* stream) {
    return {simt::blocks_for(split.threads(), kElementwiseThreads), kElementwiseThreads, stream};
}

__device__ __forceinline__ std::int64_t elementwise_thread() {
    return blockIdx.x * std::int64_t{kElementwiseThreads} + threadIdx.x;
}

// The one element of a thread behind the vectors; may lie past the last one.
__device__ __forceinline__ std::int64_t scalar_element(Split split, std::int64_t thread) {
    return thread + 3 * split.vectors;
}

} // namespace pyalexnet

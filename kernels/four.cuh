// Four neighbouring elements, the unit in which a thread of an epilogue or of an update works: 16
// bytes of floats, 8 of halves, one Philox call.
#pragma once

#include "bf16.cuh"

namespace pyalexnet {

template <class T> struct alignas(4 * sizeof(T)) Four {
    T of[4];
};

// The first `count` of the four elements at `from`, followed by zeros: one access if there are four
// and they are aligned.
template <class T> __device__ __forceinline__ Four<T> read_four(const T* from, int count) {
    if (count == 4 && reinterpret_cast<std::uintptr_t>(from) % sizeof(Four<T>) == 0)
        return *reinterpret_cast<const Four<T>*>(from);
    Four<T> four{};
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (i < count) four.of[i] = from[i];
    return four;
}

// Writes them, likewise.
template <class T>
__device__ __forceinline__ void write_four(T* to, int count, const Four<T>& four) {
    if (count == 4 && reinterpret_cast<std::uintptr_t>(to) % sizeof(Four<T>) == 0) {
        *reinterpret_cast<Four<T>*>(to) = four;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (i < count) to[i] = four.of[i];
}

// Four values, each rounded to T.
template <class T> __device__ __forceinline__ Four<T> narrow_four(const float (&values)[4]) {
    return {
        {narrow<T>(values[0]), narrow<T>(values[1]), narrow<T>(values[2]), narrow<T>(values[3])}};
}

} // namespace pyalexnet

// bfloat16 in and out of the float32 that every kernel computes in.
//
// A kernel is a template on its element type T, float or bf16: it loads through widen(), which is
// exact, and stores through narrow<T>(), which rounds to nearest even and keeps a NaN a NaN. Two
// bf16 side by side are one 32-bit word, the first in the lower half.
#pragma once

#include "ops.h"
#include "simt/simt.hpp"

namespace pyalexnet {

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float(x.bits * 0x10000u); }

__device__ __forceinline__ float widen_low(std::uint32_t pair) {
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float widen_high(std::uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

template <class T> __device__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) { return {simt::to_bf16(x)}; }

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
    return simt::to_bf16_pair(low, high);
}

// ---------------------------------------------------------------------- float32 in three

// Two floats in planes of bf16, high, middle and low: each float is exactly the sum of its three if
// it is at least 2^-110 in size; smaller ones lose what is below 2^-133. An infinity, a NaN, or a
// number so large that it rounds to infinity (from 2^128 - 2^119 on) gives NaN among its three.
struct Planes {
    std::uint32_t of[3];
};

__device__ __forceinline__ Planes split(float first, float second) {
    Planes planes;
#pragma unroll
    for (std::uint32_t& plane : planes.of) {
        plane = pack(first, second);
        first -= widen_low(plane);
        second -= widen_high(plane);
    }
    return planes;
}

// ---------------------------------------------------------------------- 16 bytes at a time

// Elements of one 16-byte access: 4 floats or 8 bf16.
template <class T> constexpr int kVector = 16 / static_cast<int>(sizeof(T));

inline bool aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }

// The kVector<T> elements at `from`, which is 16-byte aligned.
__device__ __forceinline__ void load_vector(const float* from, float* values) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
}
__device__ __forceinline__ void load_vector(const bf16* from, float* values) {
    const uint4 four = *reinterpret_cast<const uint4*>(from);
    const std::uint32_t pairs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = widen_low(pairs[i]);
        values[2 * i + 1] = widen_high(pairs[i]);
    }
}

__device__ __forceinline__ void store_vector(float* to, const float* values) {
    *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
}
__device__ __forceinline__ void store_vector(bf16* to, const float* values) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(pack(values[0], values[1]), pack(values[2], values[3]),
                   pack(values[4], values[5]), pack(values[6], values[7]));
}

// Two neighbours at `to`, which is aligned to their total size.
__device__ __forceinline__ void store_pair(float* to, float first, float second) {
    *reinterpret_cast<float2*>(to) = make_float2(first, second);
}
__device__ __forceinline__ void store_pair(bf16* to, float first, float second) {
    *reinterpret_cast<std::uint32_t*>(to) = pack(first, second);
}

} // namespace pyalexnet

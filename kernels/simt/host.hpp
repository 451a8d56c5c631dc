// CUDA's vocabulary as a C++ compiler sees it, whatever runs the threads: vector types, where a
// thread stands, and the device's functions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// ---------------------------------------------------------------------- vector types

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
    unsigned x, y, z;
};
template <class T> struct alignas(2 * sizeof(T)) Vector2 {
    T x, y;
};
template <class T> struct alignas(4 * sizeof(T)) Vector4 {
    T x, y, z, w;
};
using float2 = Vector2<float>;
using float4 = Vector4<float>;
using uint2 = Vector2<unsigned>;
using uint4 = Vector4<unsigned>;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---------------------------------------------------------------------- where a thread stands

namespace simt {

class Scheduler;

// What a CUDA thread reads of itself. POD in initial-exec TLS: an access is one instruction.
struct Self {
    uint3 thread, block, threads, blocks;
    Scheduler* scheduler; // the emulation's
};
extern __thread Self self __attribute__((tls_model("initial-exec")));

inline std::uint64_t volume(dim3 extent) { return std::uint64_t{extent.x} * extent.y * extent.z; }

// That of the index-th thread or block, x fastest.
inline uint3 position(std::uint64_t index, dim3 extent) {
    return {static_cast<unsigned>(index % extent.x),
            static_cast<unsigned>(index / extent.x % extent.y),
            static_cast<unsigned>(index / extent.x / extent.y)};
}

} // namespace simt

#define threadIdx (::simt::self.thread)
#define blockIdx (::simt::self.block)
#define blockDim (::simt::self.threads)
#define gridDim (::simt::self.blocks)

// ---------------------------------------------------------------------- the device's functions

inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline std::int64_t min(std::int64_t a, std::int64_t b) { return b < a ? b : a; }
inline std::int64_t max(std::int64_t a, std::int64_t b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}

namespace simt {

// Any NaN becomes the one that the card's instruction gives.
inline std::uint16_t to_bf16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline std::uint32_t to_bf16_pair(float low, float high) {
    return std::uint32_t{to_bf16(high)} << 16 | to_bf16(low);
}

} // namespace simt

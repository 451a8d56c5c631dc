// Which elements dropout keeps: a pure function of their position (ops.h: dropout).
#pragma once

#include <cmath>

#include "ops.h"
#include "simt/simt.hpp"

namespace pyalexnet {

// ---------------------------------------------------------------------- Philox4x32-10
// Random words as a pure function of a counter and a key (Salmon, Moraes, Dror, Shaw: Parallel
// random numbers: as easy as 1, 2, 3; SC 2011).

// Four independent uniform 32-bit words.
__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
    constexpr unsigned multiplier_x = 0xD2511F53u, multiplier_z = 0xCD9E8D57u;
    constexpr unsigned golden_ratio = 0x9E3779B9u, sqrt3_minus_1 = 0xBB67AE85u;
    constexpr int rounds = 10;
    for (int round = 0; round < rounds; ++round) {
        counter = make_uint4(
            __umulhi(multiplier_z, counter.z) ^ counter.y ^ key.x, multiplier_z * counter.z,
            __umulhi(multiplier_x, counter.x) ^ counter.w ^ key.y, multiplier_x * counter.x);
        key = make_uint2(key.x + golden_ratio, key.y + sqrt3_minus_1);
    }
    return counter;
}

// ---------------------------------------------------------------------- elements

// An element is kept where its draw is below this. keep = 1 gives 2^32, above every draw: hence 64
// bits.
inline std::uint64_t dropout_threshold(double keep) {
    return static_cast<std::uint64_t>(std::ceil(std::ldexp(keep, 32)));
}

// The draws of elements 4 group to 4 group + 3.
__device__ __forceinline__ uint4 draw_group(const DropoutDraw& draw, std::int64_t group) {
    const std::uint32_t step = draw.step.on_device ? *draw.step.on_device : draw.step.value;
    return philox4x32_10(
        make_uint4(static_cast<unsigned>(group), step, draw.layer,
                   static_cast<unsigned>(group >> 32)),
        make_uint2(static_cast<unsigned>(draw.seed), static_cast<unsigned>(draw.seed >> 32)));
}

// Which of the four elements from `element` on are kept: one call of Philox if they form a group,
// else two.
__device__ __forceinline__ void draw_four(const DropoutDraw& draw, std::uint64_t threshold,
                                          std::int64_t element, bool (&kept)[4]) {
    const std::int64_t group = element / 4;
    const int skipped = static_cast<int>(element % 4);
    const uint4 here = draw_group(draw, group);
    const uint4 next = skipped ? draw_group(draw, group + 1) : here;
    unsigned words[8] = {here.x, here.y, here.z, here.w, next.x, next.y, next.z, next.w};
#pragma unroll
    for (int i = 0; i < 6; ++i) words[i] = skipped & 1 ? words[i + 1] : words[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) kept[i] = (skipped & 2 ? words[i + 2] : words[i]) < threshold;
}

} // namespace pyalexnet

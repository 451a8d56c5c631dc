// Which elements dropout keeps: a pure function of their position (ops.h: dropout).
#pragma once

#include <cmath>

#include "ops.h"
#include "philox.cuh"

namespace pyalexnet {

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

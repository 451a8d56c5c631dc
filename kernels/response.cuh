// What the two response norms share: a window's reach and the power of its sum.
#pragma once

#include "bf16.cuh"
#include "ops.h"

namespace pyalexnet {

// The window of unit i spans [i - before, i + after], so that i lies in the windows of the units
// [i - after, i + before]: the two differ where the size is even.
struct Reach {
    int before, after;
};

// Windows are clipped to an axis of `length` units: beyond it they need not reach.
inline Reach reach_of(int size, int length) {
    const int before = size / 2;
    const int after = size - 1 - before;
    return {before < length ? before : length - 1, after < length ? after : length - 1};
}

// s^-beta; the networks' .75 without a general power.
__device__ __forceinline__ float negative_power(float s, float beta) {
    if (beta == 0.75f) {
        const float root = rsqrtf(s);
        return root * sqrtf(root);
    }
    return powf(s, -beta);
}

} // namespace pyalexnet

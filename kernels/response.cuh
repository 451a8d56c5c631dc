// What the response norms share, alone or before a pool: a window's reach, and the formula's steps.
#pragma once

#include <cfloat>

#include "bf16.cuh"
#include "ops.h"

namespace pyalexnet {

// The window of unit i spans [i - before, i + after], so that i lies in the windows of the units
// [i - after, i + before]: the two differ where the size is even.
struct Reach {
    int before, after;
};

// The Reach of the networks' five channels, known to the compiler.
struct Five {
    static constexpr int before = 2;
    static constexpr int after = 2;
};

// Windows are clipped to an axis of `length` units: they need not reach beyond it.
inline Reach reach_of(int size, int length) {
    const int before = size / 2;
    const int after = size - 1 - before;
    return {before < length ? before : length - 1, after < length ? after : length - 1};
}

// The networks' s^-.75 by two reciprocal roots, without a general power, a square root or a
// division. An infinite s has root 0, whose own reciprocal root would be infinite, and their
// product NaN: hence the least normal number, which changes no other root.
__device__ __forceinline__ float three_quarters(float s) {
    const float root = rsqrtf(s);
    return root * rsqrtf(root + FLT_MIN) * root;
}

// The formula (ops.h) in steps, shared by every kernel: a call's bits do not depend on which one it
// gets. In this order nothing overflows unless the result does: factor x / s is at most
// beta (alpha / k)^.5, and x is made small by the roots before the factor can make it large.
struct Steps {
    ResponseNorm norm;
    float factor = 2.0f * norm.alpha * norm.beta;

    // s^-beta
    __device__ __forceinline__ float power(float s) const {
        return norm.beta == 0.75f ? three_quarters(s) : powf(s, -norm.beta);
    }
    // What a unit passes on to each unit of its window, before that unit's factor x; `first` is dy
    // s^-beta, the first term of dx. Not fused with the sum that follows.
    __device__ __forceinline__ float passed(float first, float x, float s) const {
        const float root = rsqrtf(s);
        return __fmul_rn(first, x * root * root * factor);
    }
};

// dx of a unit, from its first term and the sum of what is passed to it.
__device__ __forceinline__ float descend(float first, float x, float sum) {
    return fmaf(-x, sum, first);
}

} // namespace pyalexnet

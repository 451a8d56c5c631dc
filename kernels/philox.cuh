// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011):
// random words as a pure function of a counter and a key.
#pragma once

#include "simt/simt.hpp"

namespace pyalexnet {

__device__ __forceinline__ uint4 philox_round(uint4 counter, uint2 key) {
    constexpr unsigned multiplier_x = 0xD2511F53u;
    constexpr unsigned multiplier_z = 0xCD9E8D57u;
    return make_uint4(
        __umulhi(multiplier_z, counter.z) ^ counter.y ^ key.x, multiplier_z * counter.z,
        __umulhi(multiplier_x, counter.x) ^ counter.w ^ key.y, multiplier_x * counter.x);
}

// Four independent uniform 32-bit words.
__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
    constexpr unsigned golden_ratio = 0x9E3779B9u;
    constexpr unsigned sqrt3_minus_1 = 0xBB67AE85u;
    constexpr int rounds = 10;
    for (int round = 0; round < rounds; ++round) {
        counter = philox_round(counter, key);
        key = make_uint2(key.x + golden_ratio, key.y + sqrt3_minus_1);
    }
    return counter;
}

} // namespace pyalexnet

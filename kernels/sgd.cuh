// Momentum SGD with the paper's update, the learning rate inside the momentum buffer, and weights
// that are kept in halves: for every kernel that learns.
#pragma once

#include <type_traits>

#include "four.cuh"

namespace pyalexnet {

// A Rule whose learning rate has been read. A rate of 0 freezes: nothing is touched.
struct Momentum {
    float lr, momentum, decay; // decay: weight_decay lr

    __device__ bool freezes() const { return lr == 0.0f; }

    // v = momentum v - decay w - lr dw, w = w + v. Every step is rounded by itself, never fused
    // with the next: the same bits in whichever kernel this is compiled into. The rates multiply
    // first, so that what is added is already scaled down.
    __device__ __forceinline__ void step(float& w, float& v, float dw) const {
        const float slowed = __fsub_rn(__fmul_rn(momentum, v), __fmul_rn(decay, w));
        v = __fsub_rn(slowed, __fmul_rn(lr, dw));
        w = __fadd_rn(w, v);
    }
};

__device__ __forceinline__ Momentum read_rule(const Rule& rule) {
    const float lr = rule.lr.on_device ? *rule.lr.on_device : rule.lr.value;
    return {lr, rule.momentum, __fmul_rn(rule.weight_decay, lr)};
}

// ---------------------------------------------------------------------- four at a time

// The float32 numbers whose upper halves, rounded, are those of `high` (ops.h: Learned).
__device__ __forceinline__ Four<float> read_halves(const bf16* high, const std::uint16_t* low,
                                                   std::int64_t first, int count) {
    const Four<bf16> highs = read_four(high + first, count);
    const Four<std::uint16_t> lows = read_four(low + first, count);
    Four<float> four;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int missing = static_cast<std::int16_t>(lows.of[i]);
        four.of[i] =
            __uint_as_float((unsigned{highs.of[i].bits} << 16) + static_cast<unsigned>(missing));
    }
    return four;
}

// To nearest, ties away from zero: the remainder is then the lower half, read as a signed number. A
// NaN becomes the canonical one, since rounding would turn some into numbers: the card's own NaN is
// 0x7fffffff.
__device__ __forceinline__ void write_halves(bf16* high, std::uint16_t* low, std::int64_t first,
                                             int count, const Four<float>& four) {
    Four<bf16> highs;
    Four<std::uint16_t> lows;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float x = four.of[i];
        const unsigned bits = x == x ? __float_as_uint(x) : 0x7fc00000u;
        highs.of[i].bits = static_cast<std::uint16_t>((bits + 0x8000u) >> 16);
        lows.of[i] = static_cast<std::uint16_t>(bits);
    }
    write_four(high + first, count, highs);
    write_four(low + first, count, lows);
}

// Neighbouring weights and their momentum.
struct FourWeights {
    Four<float> w, v;
};

template <class T> __device__ __forceinline__ FourWeights read_weights(const Learned<T>& learned,
                                                                       std::int64_t first,
                                                                       int count) {
    const Four<float> v = read_four(learned.v + first, count);
    if constexpr (std::is_same_v<T, bf16>)
        return {read_halves(learned.w, learned.low, first, count), v};
    else
        return {read_four(learned.w + first, count), v};
}

// Updates them by their gradients and puts them back.
template <class T>
__device__ __forceinline__ void learn_weights(const Learned<T>& learned, std::int64_t first,
                                              int count, FourWeights four, const float (&dw)[4],
                                              const Momentum& rule) {
    if (rule.freezes()) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) rule.step(four.w.of[i], four.v.of[i], dw[i]);
    if constexpr (std::is_same_v<T, bf16>)
        write_halves(learned.w, learned.low, first, count, four.w);
    else
        write_four(learned.w + first, count, four.w);
    write_four(learned.v + first, count, four.v);
}

} // namespace pyalexnet

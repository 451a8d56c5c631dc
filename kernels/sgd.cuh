// Momentum SGD with the paper's update, the learning rate inside the momentum buffer, and weights
// that are kept in halves: for every kernel that learns.
#pragma once

#include <type_traits>

#include "four.cuh"

namespace pyalexnet {

// The float32 whose upper half, rounded, is `high` (ops.h: Learned).
__device__ __forceinline__ float join_halves(bf16 high, std::uint16_t low) {
    const int missing = static_cast<std::int16_t>(low);
    return __uint_as_float((unsigned{high.bits} << 16) + static_cast<unsigned>(missing));
}

struct Halves {
    bf16 high;
    std::uint16_t low;
};

// To nearest, ties away from zero: the remainder is then the lower half, read as a signed number. A
// NaN becomes the canonical one, since rounding would turn some into numbers: the card's own NaN is
// 0x7fffffff.
__device__ __forceinline__ Halves split_halves(float x) {
    const unsigned bits = x == x ? __float_as_uint(x) : 0x7fc00000u;
    return {{static_cast<std::uint16_t>((bits + 0x8000u) >> 16)}, static_cast<std::uint16_t>(bits)};
}

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

// Four neighbouring weights and what belongs to them.
template <class T> struct FourWeights {
    Four<T> w;
    Four<std::uint16_t> low; // of T = bf16 only
    Four<float> v;
};

template <class T> __device__ __forceinline__ FourWeights<T>
read_weights(const Learned<T>& learned, std::int64_t first, int count) {
    FourWeights<T> four{};
    four.w = read_four(learned.w + first, count);
    if constexpr (std::is_same_v<T, bf16>) four.low = read_four(learned.low + first, count);
    four.v = read_four(learned.v + first, count);
    return four;
}

// Updates them by their gradients and puts them back.
template <class T>
__device__ __forceinline__ void learn_weights(const Learned<T>& learned, std::int64_t first,
                                              int count, FourWeights<T> four, const float (&dw)[4],
                                              const Momentum& rule) {
    if (rule.freezes()) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (std::is_same_v<T, bf16>) {
            float w = join_halves(four.w.of[i], four.low.of[i]);
            rule.step(w, four.v.of[i], dw[i]);
            const Halves halves = split_halves(w);
            four.w.of[i] = halves.high;
            four.low.of[i] = halves.low;
        } else {
            rule.step(four.w.of[i], four.v.of[i], dw[i]);
        }
    }
    write_four(learned.w + first, count, four.w);
    if constexpr (std::is_same_v<T, bf16>) write_four(learned.low + first, count, four.low);
    write_four(learned.v + first, count, four.v);
}

} // namespace pyalexnet

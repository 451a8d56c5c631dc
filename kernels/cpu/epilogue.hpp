// What becomes of sums before they are stored: bias, activation and dropout, a ReLU's gradient, or
// the update of the weights. As on the GPU (epilogue.cuh), but for a vector of neighbours at a
// time.
#pragma once

#include "cpu/vector.hpp"
#include "draw.cuh"
#include "sgd.cuh"

namespace pyalexnet::cpu {

// A NaN passes through.
PYALEXNET_INLINE V activate(V x, Activation activation) {
    if (activation == Activation::relu) return select(x < 0.0f, V{}, x);
    if (activation == Activation::tanh)
        for (int i = 0; i < kLanes; ++i) x[i] = std::tanh(x[i]);
    return x;
}

// y = act(sums + bias), with dropout.
template <class Y> struct FpropEpilogue {
    const float* bias;
    Outputs<Y> y;
    int filters;
    std::int64_t image_pixels; // outputs of an image and a filter
    Activation activation;
    Dropped dropped;

    // The sums of up to a vector of filters at a pixel of the batch.
    PYALEXNET_INLINE void put(std::int64_t pixel, int filter, int count, V sums) const {
        if (bias) sums += load_up_to(bias + filter, count);
        sums = activate(sums, activation);
        if (dropped.on) sums = drop(pixel, filter, sums);
        y.store(pixel * filters + filter, count, sums);
    }

  private:
    V drop(std::int64_t pixel, int filter, V x) const {
        const std::uint64_t threshold = dropout_threshold(dropped.draw.keep);
        const std::int64_t element = pixel / image_pixels * dropped.draw.total +
                                     dropped.draw.offset + pixel % image_pixels * filters + filter;
        for (int i = 0; i < kLanes; i += 4) {
            bool kept[4];
            draw_four(dropped.draw, threshold, element + i, kept);
            for (int j = 0; j < 4; ++j) x[i + j] = kept[j] ? x[i + j] * dropped.factor : 0.0f;
        }
        return x;
    }
};

// dx = factor sums where the gate is open.
template <class T> struct DgradEpilogue {
    const T* gate;
    float factor;
    Outputs<T> dx;
    int channels;

    PYALEXNET_INLINE void put(std::int64_t pixel, int channel, int count, V sums) const {
        const std::int64_t place = pixel * channels + channel;
        sums *= factor;
        if (gate) sums = select(load_up_to(gate + place, count) > 0.0f, sums, V{});
        dx.store(place, count, sums);
    }
};

// ---------------------------------------------------------------------- learning

// Momentum::step (sgd.cuh) for a vector: each step rounded by itself.
PYALEXNET_INLINE void learn(const Momentum& rule, V& w, V& v, V dw) {
    const V slowed = rounded(rule.momentum * v) - rounded(rule.decay * w);
    v = slowed - rounded(rule.lr * dw);
    w += v;
}

PYALEXNET_INLINE void learn(const Momentum& rule, const Learned<float>& learned, std::int64_t place,
                            int count, V dw) {
    V w = load_up_to(learned.w + place, count), v = load_up_to(learned.v + place, count);
    learn(rule, w, v, dw);
    store_up_to(learned.w + place, w, count);
    store_up_to(learned.v + place, v, count);
}

// Up to a vector of weights that are kept in halves (sgd.cuh: join_halves, split_halves).
PYALEXNET_INLINE V joined(const bf16* highs, const std::uint16_t* lows, int count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(std::uint16_t);
    Halves16 high{}, low{};
    std::memcpy(&high, highs, bytes);
    std::memcpy(&low, lows, bytes);
    using Signed16 = std::int16_t __attribute__((vector_size(2 * PYALEXNET_LANES)));
    const Ints missing = __builtin_convertvector(as<Signed16>(low), Ints);
    return as<V>((__builtin_convertvector(high, Words) << 16) + as<Words>(missing));
}

PYALEXNET_INLINE void split(V w, bf16* highs, std::uint16_t* lows, int count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(std::uint16_t);
    const Ints number = w == w;
    const Words bits = as<Words>(select(number, as<Ints>(w), splat(std::int32_t{0x7fc00000})));
    const Halves16 high = __builtin_convertvector((bits + 0x8000u) >> 16, Halves16);
    const Halves16 low = __builtin_convertvector(bits & 0xffffu, Halves16);
    std::memcpy(highs, &high, bytes);
    std::memcpy(lows, &low, bytes);
}

PYALEXNET_INLINE void learn(const Momentum& rule, const Learned<bf16>& learned, std::int64_t place,
                            int count, V dw) {
    V w = joined(learned.w + place, learned.low + place, count);
    V v = load_up_to(learned.v + place, count);
    learn(rule, w, v, dw);
    split(w, learned.w + place, learned.low + place, count);
    store_up_to(learned.v + place, v, count);
}

// Gradients of weights (filters, taps) and of biases: stored, or learned from at once.
template <class T> struct WgradEpilogue {
    float* dw; // null where the weights learn
    float* db;
    Learned<T> w;
    Learned<float> b;
    Momentum w_rule, b_rule;

    PYALEXNET_INLINE void put(std::int64_t weight, int count, V sums) const {
        if (dw)
            store_up_to(dw + weight, sums, count);
        else if (!w_rule.freezes())
            learn(w_rule, w, weight, count, sums);
    }
    PYALEXNET_INLINE void put_bias(int filter, int count, V sums) const {
        if (dw)
            store_up_to(db + filter, sums, count);
        else if (!b_rule.freezes())
            learn(b_rule, b, filter, count, sums);
    }
};

} // namespace pyalexnet::cpu

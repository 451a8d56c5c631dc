// What becomes of sums before they are stored: bias, activation and dropout, a ReLU's gradient, or
// the update of the weights. As on the GPU (epilogue.cuh), but for a vector of neighbours at a
// time.
#pragma once

#include "cpu/functions.hpp"
#include "draw.cuh"
#include "sgd.cuh"

namespace pyalexnet::cpu {

// A NaN passes through.
PYALEXNET_INLINE V activate(V x, Activation activation) {
    if (activation == Activation::relu) return select(x < 0.0f, V{}, x);
    return activation == Activation::tanh ? tanh(x) : x;
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
        if (bias) sums += load(bias + filter, count);
        sums = activate(sums, activation);
        if (dropped.on) sums = drop(pixel, filter, sums);
        y.put(pixel * filters + filter, count, sums);
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
        if (gate) sums = select(load(gate + place, count) > 0.0f, sums, V{});
        dx.put(place, count, sums);
    }
};

// ---------------------------------------------------------------------- learning

// Up to a vector of weights that are kept in halves (sgd.cuh: read_halves, write_halves).
PYALEXNET_INLINE V joined(const bf16* highs, const std::uint16_t* lows, int count) {
    const Ints missing = load_ints(lows, count) << 16 >> 16; // its upper bits are signs
    return as<V>(as<Words>(load_ints(highs, count) << 16) + as<Words>(missing));
}

PYALEXNET_INLINE void split(V w, bf16* highs, std::uint16_t* lows, int count) {
    const Ints number = w == w;
    const Words bits = as<Words>(select(number, as<Ints>(w), splat(std::int32_t{0x7fc00000})));
    store_ints(highs, as<Ints>((bits + 0x8000u) >> 16), count);
    store_ints(lows, as<Ints>(bits & 0xffffu), count);
}

// Momentum::step (sgd.cuh) for up to a vector: each step rounded by itself.
template <class T> PYALEXNET_INLINE void learn(const Momentum& rule, const Learned<T>& learned,
                                               std::int64_t place, int count, V dw) {
    V w, v = load(learned.v + place, count);
    if constexpr (std::is_same_v<T, bf16>)
        w = joined(learned.w + place, learned.low + place, count);
    else
        w = load(learned.w + place, count);
    const V slowed = rounded(rule.momentum * v) - rounded(rule.decay * w);
    v = slowed - rounded(rule.lr * dw);
    w += v;
    if constexpr (std::is_same_v<T, bf16>)
        split(w, learned.w + place, learned.low + place, count);
    else
        store(learned.w + place, w, count);
    store(learned.v + place, v, count);
}

// Gradients of weights (filters, taps) and of biases: stored, or learned from at once.
template <class T> struct Gradient {
    float* to; // null where the weights learn
    Learned<T> learned{};
    Momentum rule{};

    PYALEXNET_INLINE void put(std::int64_t place, int count, V sums) const {
        if (to)
            store(to + place, sums, count);
        else if (!rule.freezes())
            learn(rule, learned, place, count, sums);
    }
};

template <class T> struct WgradEpilogue {
    Gradient<T> weights;
    Gradient<float> biases;
};

} // namespace pyalexnet::cpu

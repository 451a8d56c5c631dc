// What becomes of the sums of a matrix product: bias, activation and dropout, a ReLU's gradient, or
// the update of the weights, applied where the sums are, before anything is stored.
//
// An epilogue takes four neighbouring columns of a row at a time, as the main loops and the kernel
// that adds parts of the depth all provide them. It reads its inputs in one step and stores in
// another, so that a thread can load for several fours before it waits for the first:
//
//   Read read(const Place&)                          loads, and nothing else
//   void put(const Place&, const Read&, sums)        the rest
#pragma once

#include "draw.cuh"
#include "operands.cuh"
#include "sgd.cuh"

namespace pyalexnet {

// Where four sums belong in C[group]: from `column` on; only `count` of them exist.
struct Place {
    int group, row, column, count;
};

// ---------------------------------------------------------------------- parts of the depth

// The extents of a product and how its depth is split.
struct GemmSize {
    int groups;
    int rows;
    int columns;
    int depth;
    int pitch;      // floats from one row of a part's sums to the next: 16-byte aligned
    int parts;      // of the depth
    int part_depth; // of each but the last, a multiple of a slice
};

// The sums of one part, in the workspace: (parts, groups, rows, pitch).
struct Parts {
    struct Read {};
    float* partial;
    GemmSize size;
    int part;

    __device__ Read read(const Place&) const { return {}; }
    __device__ void put(const Place& at, Read, const float (&sums)[4]) const {
        write_four(first(at), at.count, narrow_four<float>(sums));
    }
    __device__ __forceinline__ float* first(const Place& at) const {
        const std::int64_t line = (std::int64_t{part} * size.groups + at.group) * size.rows;
        return partial + (line + at.row) * size.pitch + at.column;
    }
};

// ---------------------------------------------------------------------- fprop

// act(x), NaN passing through.
__device__ __forceinline__ float activate(float x, Activation activation) {
    if (activation == Activation::relu) return x < 0.0f ? 0.0f : x;
    if (activation == Activation::tanh) return tanhf(x);
    return x;
}

// Dropped in the kernels' form, for a layer's output y (images, pixels, filters).
struct Dropout {
    Dropped dropped;
    int filters;
    Divisor by_pixels;
    std::uint64_t threshold = dropout_threshold(dropped.draw.keep);

    // For up to four neighbouring filters at a pixel of the batch.
    __device__ __forceinline__ void apply(int pixel, int filter, float (&y)[4]) const {
        if (!dropped.on) return;
        const Digits image = by_pixels.divide(pixel);
        const std::int64_t element = image.high * dropped.draw.total + dropped.draw.offset +
                                     std::int64_t{image.low} * filters + filter;
        bool kept[4];
        draw_four(dropped.draw, threshold, element, kept);
#pragma unroll
        for (int i = 0; i < 4; ++i) y[i] = kept[i] ? y[i] * dropped.factor : 0.0f;
    }
};

// y = act(sums + bias), with dropout; as T into `y` or float32 into `wide`: one of them is null.
template <class T> struct FpropEpilogue {
    struct Read {
        Four<float> bias;
    };
    const float* bias;
    T* y;
    float* wide;
    int filters, group_filters;
    Activation activation;
    Dropout dropout;

    __device__ Read read(const Place& at) const {
        return bias ? Read{read_four(bias + filter(at), at.count)} : Read{};
    }
    __device__ void put(const Place& at, const Read& read, const float (&sums)[4]) const {
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            values[i] = activate(bias ? sums[i] + read.bias.of[i] : sums[i], activation);
        dropout.apply(at.row, filter(at), values);
        const std::int64_t first = std::int64_t{at.row} * filters + filter(at);
        if (y)
            write_four(y + first, at.count, narrow_four<T>(values));
        else
            write_four(wide + first, at.count, narrow_four<float>(values));
    }

  private:
    __device__ int filter(const Place& at) const { return at.group * group_filters + at.column; }
};

// ---------------------------------------------------------------------- dgrad

// dx = factor sums where gate > 0, else 0; everywhere without a gate.
template <class T> struct DgradEpilogue {
    struct Read {
        Four<T> gate;
    };
    const T* gate;
    float factor;
    T* dx;
    int channels, group_channels;

    __device__ Read read(const Place& at) const {
        return gate ? Read{read_four(gate + first(at), at.count)} : Read{};
    }
    __device__ void put(const Place& at, const Read& read, const float (&sums)[4]) const {
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bool open = !gate || widen(read.gate.of[i]) > 0.0f;
            values[i] = open ? factor * sums[i] : 0.0f;
        }
        write_four(dx + first(at), at.count, narrow_four<T>(values));
    }

  private:
    __device__ std::int64_t first(const Place& at) const {
        return std::int64_t{at.row} * channels + at.group * group_channels + at.column;
    }
};

// ---------------------------------------------------------------------- wgrad

// The gradients of (filters) x (taps, and one for the bias): stored, or learned from at once.
template <class T> struct WgradEpilogue {
    struct Read {
        FourWeights weights;
        Momentum rule;
    };
    int taps, group_filters;
    float* dw; // null where the weights learn
    float* db;
    Learned<T> w{};
    Learned<float> b{};
    Rule w_rule{}, b_rule{};

    __device__ Read read(const Place& at) const {
        return dw ? Read{} : Read{read_weights(w, first(at), weights(at)), read_rule(w_rule)};
    }
    __device__ void put(const Place& at, const Read& read, const float (&sums)[4]) const {
        const int count = weights(at);
        if (dw)
            write_four(dw + first(at), count, narrow_four<float>(sums));
        else
            learn_weights(w, first(at), count, read.weights, sums, read.rule);
        if (count < at.count) put_bias(filter(at), pick(sums, count));
    }

  private:
    __device__ void put_bias(int filter, float sum) const {
        if (dw)
            db[filter] = sum;
        else
            learn_weights(b, filter, 1, read_weights(b, filter, 1), {sum, 0.0f, 0.0f, 0.0f},
                          read_rule(b_rule));
    }
    __device__ int filter(const Place& at) const { return at.group * group_filters + at.row; }
    __device__ std::int64_t first(const Place& at) const {
        return std::int64_t{filter(at)} * taps + at.column;
    }
    // How many of the four are weights. The bias follows the last of them.
    __device__ int weights(const Place& at) const {
        return at.column + at.count <= taps ? at.count : at.count - 1;
    }
    __device__ static float pick(const float (&sums)[4], int i) {
        return i == 0 ? sums[0] : i == 1 ? sums[1] : i == 2 ? sums[2] : sums[3];
    }
};

} // namespace pyalexnet

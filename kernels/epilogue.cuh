// What becomes of the sums of a matrix product: bias, activation and dropout, a ReLU's gradient, or
// the update of the weights, applied where the sums are, before anything is stored.
//
// An epilogue takes four neighbouring columns of a row at a time, as the main loops and the kernel
// that adds parts of the depth all provide them. with_fours(columns, use) finds what is the same in
// all rows and calls `use` with an object for the rest; where nothing unusual was requested, its
// type leaves nothing to decide:
//
//   static constexpr int kTogether         rows that a thread should take at a time
//   Read read(int row)                     loads, and nothing else
//   void put(int row, const Read&, sums)   the rest
#pragma once

#include "draw.cuh"
#include "operands.cuh"
#include "sgd.cuh"

namespace pyalexnet {

// Where fours belong in C[group]: from column `first` on; only `count` of them exist.
struct Columns {
    int group, first, count;
};

// What an epilogue without inputs besides the sums reads: nothing.
struct NoRead {};

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

// The sums of one part, in the workspace: (parts, groups, rows, pitch). Its rows have whole fours.
struct Parts {
    float* partial;
    GemmSize size;
    int part;

    struct Fours {
        static constexpr int kTogether = 4;
        FourColumns<float, true> sums;

        __device__ NoRead read(int) const { return {}; }
        __device__ __forceinline__ void put(int row, NoRead, const float (&of)[4]) const {
            sums.write(row, narrow_four<float>(of));
        }
    };
    __device__ __forceinline__ Fours fours(const Columns& columns) const {
        const std::int64_t line = (std::int64_t{part} * size.groups + columns.group) * size.rows;
        return {{partial + line * size.pitch + columns.first, size.pitch, columns.count}};
    }
    template <class Use>
    __device__ __forceinline__ void with_fours(const Columns& columns, const Use& use) const {
        use(fours(columns));
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
    const float* bias;
    T* y;
    float* wide;
    int filters, group_filters;
    Activation activation;
    Dropout dropout;

    // Usual: whole fours of y, no dropout, and no activation or a ReLU.
    template <bool usual> struct Fours {
        static constexpr int kTogether = usual ? 4 : 1;
        const FpropEpilogue& of;
        int filter;
        Four<float> bias;
        float floor; // of the ReLU
        FourColumns<T, usual> y;
        FourColumns<float, false> wide;

        __device__ NoRead read(int) const { return {}; }
        __device__ __forceinline__ void put(int row, NoRead, const float (&sums)[4]) const {
            float values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                values[i] = sums[i] + bias.of[i];
                if constexpr (usual)
                    values[i] = values[i] < floor ? 0.0f : values[i];
                else
                    values[i] = activate(values[i], of.activation);
            }
            if constexpr (!usual) of.dropout.apply(row, filter, values);
            if (usual || of.y)
                y.write(row, narrow_four<T>(values));
            else
                wide.write(row, narrow_four<float>(values));
        }
    };
    template <class Use>
    __device__ __forceinline__ void with_fours(const Columns& columns, const Use& use) const {
        const int filter = columns.group * group_filters + columns.first;
        constexpr float none = -0.0f; // changes no number, not even a zero's sign
        const Four<float> biases =
            bias ? read_four(bias + filter, columns.count) : Four<float>{{none, none, none, none}};
        const float floor = activation == Activation::relu ? 0.0f : -INFINITY;
        if (y && is_aligned(y + filter) && filters % 4 == 0 && columns.count == 4 &&
            activation != Activation::tanh && !dropout.dropped.on)
            use(Fours<true>{*this, filter, biases, floor, {y + filter, filters, 4}, {}});
        else
            use(Fours<false>{*this,
                             filter,
                             biases,
                             floor,
                             {y + filter, filters, columns.count},
                             {wide + filter, filters, columns.count}});
    }
};

// ---------------------------------------------------------------------- dgrad

// dx = factor sums where gate > 0, else 0; everywhere without a gate.
template <class T> struct DgradEpilogue {
    const T* gate;
    float factor;
    T* dx;
    int channels, group_channels;

    template <bool whole, bool gated> struct Fours {
        static constexpr int kTogether = !whole ? 1 : gated ? 8 : 4; // a gate has to be fetched
        float factor;
        FourColumns<const T, whole> gate;
        FourColumns<T, whole> dx;

        __device__ __forceinline__ auto read(int row) const {
            if constexpr (gated)
                return gate.read(row);
            else
                return NoRead{};
        }
        template <class Read> __device__ __forceinline__ void put(int row, const Read& read,
                                                                  const float (&sums)[4]) const {
            float values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                values[i] = factor * sums[i];
                if constexpr (gated) values[i] = widen(read.of[i]) > 0.0f ? values[i] : 0.0f;
            }
            dx.write(row, narrow_four<T>(values));
        }
    };
    template <class Use>
    __device__ __forceinline__ void with_fours(const Columns& columns, const Use& use) const {
        const int channel = columns.group * group_channels + columns.first;
        const auto with = [&](auto whole, auto gated) {
            using Chosen = Fours<decltype(whole)::value, decltype(gated)::value>;
            use(Chosen{factor,
                       {gate + channel, channels, columns.count},
                       {dx + channel, channels, columns.count}});
        };
        const bool whole = columns.count == 4 && channels % 4 == 0 && is_aligned(dx + channel) &&
                           is_aligned(gate + channel);
        const auto with_gate = [&](auto gated) {
            whole ? with(std::true_type{}, gated) : with(std::false_type{}, gated);
        };
        gate ? with_gate(std::true_type{}) : with_gate(std::false_type{});
    }
};

// ---------------------------------------------------------------------- wgrad

// The gradients of (filters) x (taps, and one for the bias): stored, or learned from at once.
template <class T> struct WgradEpilogue {
    int taps, group_filters;
    float* dw; // null where the weights learn
    float* db;
    Learned<T> w{};
    Learned<float> b{};
    Rule w_rule{}, b_rule{};

    struct Read {
        FourWeights weights;
        Momentum rule;
    };
    struct Fours {
        static constexpr int kTogether = 4;
        const WgradEpilogue& of;
        int first_filter, tap, count; // the last may be the bias, which follows the taps
        int weights = tap + count <= of.taps ? count : count - 1;

        __device__ Read read(int row) const {
            return of.dw ? Read{}
                         : Read{read_weights(of.w, first(row), weights), read_rule(of.w_rule)};
        }
        __device__ void put(int row, const Read& read, const float (&sums)[4]) const {
            if (of.dw)
                write_four(of.dw + first(row), weights, narrow_four<float>(sums));
            else
                learn_weights(of.w, first(row), weights, read.weights, sums, read.rule);
            if (weights < count) of.put_bias(first_filter + row, pick(sums, weights));
        }

      private:
        __device__ std::int64_t first(int row) const {
            return std::int64_t{first_filter + row} * of.taps + tap;
        }
        __device__ static float pick(const float (&sums)[4], int i) {
            return i == 0 ? sums[0] : i == 1 ? sums[1] : i == 2 ? sums[2] : sums[3];
        }
    };
    template <class Use>
    __device__ __forceinline__ void with_fours(const Columns& columns, const Use& use) const {
        use(Fours{*this, columns.group * group_filters, columns.first, columns.count});
    }

  private:
    __device__ void put_bias(int filter, float sum) const {
        if (dw)
            db[filter] = sum;
        else
            learn_weights(b, filter, 1, read_weights(b, filter, 1), {sum, 0.0f, 0.0f, 0.0f},
                          read_rule(b_rule));
    }
};

} // namespace pyalexnet

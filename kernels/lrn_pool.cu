// LRN and the overlapping max-pool after it in one kernel, and their gradient with both ReLUs' in
// another: what lies between is neither stored nor rounded. Only for norms and pools of the
// networks' form (ops.h), whose channels are whole vectors of 16 bytes.
#include "channels.cuh"
#include "four.cuh"
#include "ops.h"
#include "pool_windows.cuh"
#include "response.cuh"

namespace pyalexnet {
namespace {

// The most threads of a block. Two blocks then share a multiprocessor, at 72 registers a thread:
// one computes while the other waits for memory or at its barrier.
constexpr int kThreads = 448;
constexpr int kBlocks = 2;
constexpr int kReach = 2; // of a window, to either side
static_assert(kLrnPoolNorm == 2 * kReach + 1 && kLrnPoolChannels <= kThreads * 4);
// Rows of outputs, or of the gradient's pixels, that a block walks down. Its first window's first
// row is read by the block above too: one row in 2 x 9.
constexpr int kOutputRows = 9;
constexpr int kPixelRows = 8;

int divide_up(int count, int most) { return (count - 1) / most + 1; }

// `all` split as evenly as possible into parts of at most `most`.
struct Cut {
    int size, parts;

    Cut(int all, int most)
        : size(divide_up(all, divide_up(all, most))), parts(divide_up(all, size)) {}
};

// How maps are cut into blocks: each a strip of rows, a tile of columns (of outputs, or of the
// gradient's pixels), some of a pixel's channel vectors.
struct Tiling {
    Cut rows, columns, vectors;
    int threads;
};

struct BlockPlace {
    std::int64_t image;
    int first_row, first_column, first_vector;
};

__device__ __forceinline__ BlockPlace block_place(const Tiling& tiling) {
    const unsigned column_tile = blockIdx.x / tiling.vectors.parts;
    const unsigned strip = column_tile / tiling.columns.parts;
    return {strip / tiling.rows.parts,
            static_cast<int>(strip % tiling.rows.parts) * tiling.rows.size,
            static_cast<int>(column_tile % tiling.columns.parts) * tiling.columns.size,
            static_cast<int>(blockIdx.x % tiling.vectors.parts) * tiling.vectors.size};
}

simt::Grid grid_of(std::int64_t images, const Tiling& tiling, Stream stream) {
    const std::int64_t blocks =
        images * tiling.rows.parts * tiling.columns.parts * tiling.vectors.parts;
    return {static_cast<unsigned>(blocks), static_cast<unsigned>(tiling.threads), stream};
}

// The vector of channels at `from`, and the sums s of their windows. The two channels before and
// behind, if they are of the group, come from L1, where other lanes have just brought them.
template <class T>
__device__ __forceinline__ void load_scales(const T* from, bool before, bool behind,
                                            const ResponseNorm& norm, float (&x)[kVector<T>],
                                            float (&s)[kVector<T>]) {
    constexpr int channels = kVector<T>;
    float left[kReach] = {}, right[kReach] = {};
    load_channels(from, x);
    if (before) load_pair(from - kReach, left);
    if (behind) load_pair(from + channels, right);
#pragma unroll
    for (int i = 0; i < channels; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int c = i - kReach; c <= i + kReach; ++c) {
            const float value = c < 0          ? left[c + kReach]
                                : c < channels ? x[c]
                                               : right[c - channels];
            sum += value * value;
        }
        s[i] = norm.k + norm.alpha * sum;
    }
}

// The first maximum of each channel, and its row, among a column's pixels in one window; rows are
// packed four to a word, and one instruction replaces one of them.
template <int channels> struct ColumnMaxima {
    float value[channels];
    unsigned rows[channels / 4];

    __device__ __forceinline__ void begin(const float (&values)[channels]) {
#pragma unroll
        for (int i = 0; i < channels; ++i) {
            value[i] = values[i];
            rows[i / 4] = 0;
        }
    }

    __device__ __forceinline__ void see(const float (&values)[channels], int row) {
        const unsigned four_times = static_cast<unsigned>(row) * 0x01010101u;
#pragma unroll
        for (int i = 0; i < channels; ++i) {
            // True also of the first NaN: no comparison with a NaN holds.
            if (value[i] == value[i] && !(values[i] <= value[i])) {
                const unsigned own = 0xffu << 8 * (i % 4);
                value[i] = values[i];
                rows[i / 4] = (rows[i / 4] & ~own) | (four_times & own);
            }
        }
    }
};

constexpr int kNoCode = 256; // greater than any that a byte holds

// Whether a column's maximum replaces that of the columns to its left: it is larger, or the only
// NaN, or equal with the lower code, which is then in a row above.
__device__ __forceinline__ bool goes_before(float value, int code, float best, int best_code) {
    const bool same = value == best || (value != value && best != best);
    return same ? code < best_code : best == best && !(value <= best);
}

// A thread normalises one vector of channels of one column of pixels, walking down a strip of rows,
// and keeps the maxima of each window's rows; at the end of a window the block's columns meet in
// shared memory, and every thread that has an output there takes the maximum across. Vectors of a
// pixel move fastest. Every pixel is read and normalised once, except the row that two strips share
// and the columns that two tiles share; a row that two windows share stays in registers. Bound by
// bytes, x once and y and where once; the arithmetic (two roots and some 25 instructions an
// element) is close behind.
template <class T> __global__ void __launch_bounds__(kThreads, kBlocks)
    lrn_maxpool_fprop_kernel(const T* __restrict__ x, T* __restrict__ y,
                             std::uint8_t* __restrict__ where, PoolShape g, Tiling tiling,
                             int group_vectors, ResponseNorm norm, bool relu) {
    constexpr int channels = kVector<T>;
    // In fours of a thread's channels. Two stages: the next window's are written while this one's
    // are read.
    SIMT_SHARED(Four<float>, maxima, [2][channels / 4][kThreads]);
    SIMT_SHARED(unsigned, rows_of_maxima, [2][channels / 4][kThreads]);
    const BlockPlace block = block_place(tiling);
    const int thread = static_cast<int>(threadIdx.x);
    const int column = thread / tiling.vectors.size; // of the tile
    const int vector = block.first_vector + thread % tiling.vectors.size;
    const int vectors = g.channels / channels;
    const int place = vector % group_vectors;
    const bool before = place != 0, behind = place != group_vectors - 1; // more of its group

    const int first_pixel = block.first_column * g.stride;
    const int outputs = min(tiling.columns.size, g.out_width - block.first_column);
    const int pixels = min((outputs - 1) * g.stride + g.size, g.width - first_pixel);
    const bool has_pixel = column < pixels && vector < vectors;
    const bool has_output = column < outputs && vector < vectors;
    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    x += (block.image * g.height * g.width + first_pixel + column) * g.channels + channels * vector;
    const int end = min(block.first_row + tiling.rows.size, g.out_height);

    float values[channels];
    bool first_row_is_here = false; // in `values`
    for (int p = block.first_row; p < end; ++p) {
        const Span down = window_pixels(p, g.size, g.stride, g.height);
        const int stage = p % 2;
        if (has_pixel) {
            ColumnMaxima<channels> own{};
            for (int h = down.first; h < down.end; ++h) {
                if (h > down.first || !first_row_is_here) {
                    float s[channels];
                    load_scales(x + h * row_length, before, behind, norm, values, s);
#pragma unroll
                    for (int i = 0; i < channels; ++i) values[i] *= three_quarters(s[i]);
                }
                if (h == down.first)
                    own.begin(values);
                else
                    own.see(values, h - down.first);
            }
            first_row_is_here = g.size == g.stride + 1;
#pragma unroll
            for (int four = 0; four < channels / 4; ++four) {
                const float* const of = own.value + 4 * four;
                maxima[stage][four][thread] = {{of[0], of[1], of[2], of[3]}};
                rows_of_maxima[stage][four][thread] = own.rows[four];
            }
        }
        __syncthreads();
        if (!has_output) continue;
        const Span across = window_pixels(column, g.size, g.stride, pixels);
        float best[channels];
        int best_at[channels];
#pragma unroll
        for (int i = 0; i < channels; ++i) {
            best[i] = -INFINITY; // anything replaces it, even -INFINITY: its code is lower
            best_at[i] = kNoCode;
        }
        for (int q = across.first; q < across.end; ++q) {
            const int there = q * tiling.vectors.size + thread % tiling.vectors.size;
#pragma unroll
            for (int four = 0; four < channels / 4; ++four) {
                const Four<float> column_best = maxima[stage][four][there];
                const unsigned rows = rows_of_maxima[stage][four][there];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int c = 4 * four + i;
                    const float value = column_best.of[i];
                    const int row = static_cast<int>(rows >> 8 * i & 0xffu);
                    const int code = row * g.size + (q - across.first);
                    if (goes_before(value, code, best[c], best_at[c])) {
                        best[c] = value;
                        best_at[c] = code;
                    }
                }
            }
        }
        if (relu) {
#pragma unroll
            for (float& value : best) value = value <= 0.0f ? 0.0f : value;
        }
        const std::int64_t row = block.image * g.out_height + p;
        const std::int64_t out =
            (row * g.out_width + block.first_column + column) * g.channels + channels * vector;
        store_channels(y + out, best);
        Codes<std::uint8_t, channels>::pack(best_at).store(where + out);
    }
}

// The gradient that one vector of a pixel's channels receives from the windows that hold it.
template <class T> __device__ __forceinline__ void
gather(const T* __restrict__ dy, const T* __restrict__ y, const std::uint8_t* __restrict__ where,
       const PoolShape& g, Span down, Span across, int h, int w, float (&sum)[kVector<T>]) {
    constexpr int channels = kVector<T>;
#pragma unroll
    for (float& value : sum) value = 0.0f;
    for (int p = down.first; p < down.end; ++p) {
        for (int q = across.first; q < across.end; ++q) {
            const std::int64_t out = (std::int64_t{p} * g.out_width + q) * g.channels;
            const int own = (h - p * g.stride) * g.size + (w - q * g.stride);
            const auto chosen = Codes<std::uint8_t, channels>::load(where + out);
            float passed[channels];
            load_channels(dy + out, passed);
            if (y) {
                float outputs[channels];
                load_channels(y + out, outputs);
#pragma unroll
                for (int i = 0; i < channels; ++i) passed[i] = outputs[i] > 0.0f ? passed[i] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < channels; ++i)
                if (chosen[i] == own) sum[i] += passed[i];
        }
    }
}

// A thread computes one vector of channels of one column of pixels, walking down a strip of rows; a
// block has all channels of its columns, and what a vector's neighbours pass on comes through
// shared memory. Vectors of a pixel move fastest. Bound by bytes: x is read once and dx written
// once; dy, where and y are read by every pixel of a window, from L1 after the first.
template <class T> __global__ void __launch_bounds__(kThreads, kBlocks)
    lrn_maxpool_dgrad_kernel(const T* __restrict__ x, const T* __restrict__ y,
                             const T* __restrict__ dy, const std::uint8_t* __restrict__ where,
                             T* __restrict__ dx, PoolShape g, Tiling tiling, int group_vectors,
                             Steps steps, bool gated) {
    constexpr int channels = kVector<T>;
    // What a vector's first two channels pass on, and its last two. Two stages: the next row's are
    // written while this one's are read.
    SIMT_SHARED(Four<float>, edges, [2][kThreads]);
    const BlockPlace block = block_place(tiling);
    const int thread = static_cast<int>(threadIdx.x);
    const int w = block.first_column + thread / tiling.vectors.size;
    const int vector = thread % tiling.vectors.size;
    const int place = vector % group_vectors;
    const bool before = place != 0, behind = place != group_vectors - 1; // more of its group
    const bool has_pixel = thread / tiling.vectors.size < tiling.columns.size && w < g.width;

    const std::int64_t in = (block.image * g.height * g.width + w) * g.channels + channels * vector;
    const std::int64_t out =
        block.image * g.out_height * g.out_width * g.channels + channels * vector;
    dy += out;
    where += out;
    if (y) y += out;
    const Span across = windows_of_pixel(w, g.size, g.stride, g.out_width);
    Span down = windows_of_pixel(block.first_row, g.size, g.stride, g.out_height);
    const int end = min(block.first_row + tiling.rows.size, g.height);

    for (int h = block.first_row; h < end; ++h) {
        float own[channels], gradient[channels];
        float passed[kReach + channels + kReach] = {};
        const std::int64_t at = in + std::int64_t{h} * g.width * g.channels;
        if (has_pixel) {
            gather(dy, y, where, g, down, across, h, w, gradient);
            float s[channels];
            load_scales(x + at, before, behind, steps.norm, own, s);
#pragma unroll
            for (int i = 0; i < channels; ++i) {
                gradient[i] *= three_quarters(s[i]);
                passed[kReach + i] = steps.passed(gradient[i], own[i], s[i]);
            }
            edges[h % 2][thread] = {
                {passed[kReach], passed[kReach + 1], passed[channels], passed[channels + 1]}};
        }
        __syncthreads();
        if (has_pixel) {
            if (before) {
                const Four<float> left = edges[h % 2][thread - 1];
                passed[0] = left.of[2];
                passed[1] = left.of[3];
            }
            if (behind) {
                const Four<float> right = edges[h % 2][thread + 1];
                passed[kReach + channels] = right.of[0];
                passed[kReach + channels + 1] = right.of[1];
            }
#pragma unroll
            for (int i = 0; i < channels; ++i) {
                float sum = passed[i];
#pragma unroll
                for (int d = 1; d <= 2 * kReach; ++d) sum += passed[i + d];
                gradient[i] = descend(gradient[i], own[i], sum);
                if (gated) gradient[i] = own[i] > 0.0f ? gradient[i] : 0.0f;
            }
            store_channels(dx + at, gradient);
        }
        // The windows of the row below: at most one fewer above, and one more beneath.
        if (down.first * g.stride + g.size <= h + 1) ++down.first;
        if (down.end < g.out_height && down.end * g.stride <= h + 1) ++down.end;
    }
}

// ---------------------------------------------------------------------- launching

int whole_warps(int threads) { return (threads + 31) / 32 * 32; }

// Pixels of a row under `windows` neighbouring windows.
int span_of(const PoolShape& g, std::int64_t windows) {
    const std::int64_t pixels = (windows - 1) * g.stride + g.size;
    return static_cast<int>(pixels < g.width ? pixels : g.width);
}

// All vectors of a pixel in a block, if that leaves columns for a few windows side by side; as many
// columns as there are threads for.
template <class T> Tiling fprop_tiling(const PoolShape& g) {
    const int few = span_of(g, g.out_width < 4 ? g.out_width : 4);
    const Cut vectors(g.channels / kVector<T>, few < kThreads ? kThreads / few : 1);
    const int room = kThreads / vectors.size;
    const Cut columns(g.out_width, g.width <= room ? g.out_width : (room - g.size) / g.stride + 1);
    return {Cut(g.out_height, kOutputRows), columns, vectors,
            whole_warps(span_of(g, columns.size) * vectors.size)};
}

// A pixel's vectors all fit a block.
template <class T> Tiling dgrad_tiling(const PoolShape& g) {
    const int vectors = g.channels / kVector<T>;
    const Cut columns(g.width, kThreads / vectors);
    return {Cut(g.height, kPixelRows), columns, Cut(vectors, vectors),
            whole_warps(columns.size * vectors)};
}

} // namespace

template <class T> void lrn_maxpool_fprop(const T* x, T* y, std::uint8_t* where, PoolShape shape,
                                          int groups, ResponseNorm norm, bool relu, Stream stream) {
    const Tiling tiling = fprop_tiling<T>(shape);
    simt::launch<lrn_maxpool_fprop_kernel<T>>(grid_of(shape.images, tiling, stream), x, y, where,
                                              shape, tiling, shape.channels / groups / kVector<T>,
                                              norm, relu);
}

template <class T>
void lrn_maxpool_dgrad(const T* x, const T* y, const T* dy, const std::uint8_t* where, T* dx,
                       PoolShape shape, int groups, ResponseNorm norm, bool gated, Stream stream) {
    const Tiling tiling = dgrad_tiling<T>(shape);
    simt::launch<lrn_maxpool_dgrad_kernel<T>>(
        grid_of(shape.images, tiling, stream), x, y, dy, where, dx, shape, tiling,
        shape.channels / groups / kVector<T>, Steps{norm}, gated);
}

PYALEXNET_FOR_ELEMENTS(lrn_maxpool_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_maxpool_dgrad);

} // namespace pyalexnet

// Local response normalisation across channels (paper, section 3.3).
//
// In NHWC a group's channels are contiguous: C channels in G groups are G times as many pixels of
// C / G channels. The kernels know only such rows and cut the array into tiles regardless of where
// a row ends, so that no thread idles whatever the number of channels. A window's sum is taken
// afresh for each channel: sliding it would subtract what was added and lose digits.
#include "response.cuh"

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;
constexpr int kTile = kThreads * kPerThread;

struct Rows {
    std::int64_t count; // elements in all
    int length;         // channels of a row
};

// The Reach of the networks' five channels, known to the compiler.
struct Five {
    static constexpr int before = 2;
    static constexpr int after = 2;
};

// k + alpha * sum of squares over the window of element i, which is channel c of its row.
template <class T, class Window>
__device__ __forceinline__ float window_scale(const T* __restrict__ x, std::int64_t i, int c,
                                              int length, Window window, const ResponseNorm& norm) {
    float sum = 0.0f;
#pragma unroll
    for (int d = -window.before; d <= window.after; ++d) {
        if (c + d < 0 || c + d >= length) continue;
        const float value = widen(x[i + d]);
        sum += value * value;
    }
    return norm.k + norm.alpha * sum;
}

// The channel `step` elements after channel c, where step is below the row's length.
__device__ __forceinline__ int advance(int c, int step, int length) {
    return c < length - step ? c + step : c - (length - step);
}

// A thread computes four elements a block's width apart, a block one tile; channels move fastest.
// Bound by bytes: a window's other channels come from L1.
template <class T, class Window>
__global__ void lrn_fprop_kernel(const T* __restrict__ x, T* __restrict__ y, Rows rows,
                                 Window window, ResponseNorm norm) {
    std::int64_t i = blockIdx.x * std::int64_t{kTile} + threadIdx.x;
    int c = static_cast<int>(i % rows.length);
    const int step = kThreads % rows.length;
    for (int n = 0; n < kPerThread && i < rows.count; ++n) {
        const float s = window_scale(x, i, c, rows.length, window, norm);
        y[i] = narrow<T>(widen(x[i]) * negative_power(s, norm.beta));
        i += kThreads;
        c = advance(c, step, rows.length);
    }
}

// With t_j = dy_j x_j s_j^(-beta - 1): a block stages t of its tile and of the reach around it; a
// thread then sums t for up to four elements, a block's width apart; channels move fastest. More
// than one stage only where a window reaches wider than one. Bound by bytes: s is recomputed, not
// stored by fprop and read.
template <class T, class Window>
__global__ void lrn_dgrad_kernel(const T* __restrict__ x, const T* __restrict__ dy,
                                 T* __restrict__ dx, Rows rows, int tile, Window window,
                                 ResponseNorm norm) {
    SIMT_SHARED(float, power, [kTile]); // s^-beta
    SIMT_SHARED(float, t, [kTile]);
    const int thread = static_cast<int>(threadIdx.x);
    const int step = kThreads % rows.length;
    const std::int64_t tile_first = blockIdx.x * std::int64_t{tile};
    const std::int64_t tile_end = min(tile_first + tile, rows.count);
    const std::int64_t staged_end = min(tile_end + window.before, rows.count);
    const int own_channel = static_cast<int>((tile_first + thread) % rows.length);

    float own_power[kPerThread] = {};
    float sum[kPerThread] = {};
    for (std::int64_t first = max(tile_first - window.after, std::int64_t{0}); first < staged_end;
         first += kTile) {
        const int staged = static_cast<int>(min(staged_end - first, std::int64_t{kTile}));
        int c = static_cast<int>((first + thread) % rows.length);
        for (int j = thread; j < staged; j += kThreads) {
            const float s = window_scale(x, first + j, c, rows.length, window, norm);
            power[j] = negative_power(s, norm.beta);
            t[j] = widen(dy[first + j]) * widen(x[first + j]) * power[j] / s;
            c = advance(c, step, rows.length);
        }
        __syncthreads();
        c = own_channel;
        int i = static_cast<int>(tile_first - first) + thread; // may lie in another stage
#pragma unroll
        for (int n = 0; n < kPerThread; ++n) {
            if (0 <= i && i < staged) own_power[n] = power[i];
#pragma unroll
            for (int d = -window.after; d <= window.before; ++d) {
                const bool in_row = 0 <= c + d && c + d < rows.length;
                const bool in_stage = 0 <= i + d && i + d < staged;
                if (in_row && in_stage) sum[n] += t[i + d];
            }
            i += kThreads;
            c = advance(c, step, rows.length);
        }
        __syncthreads(); // the next stage overwrites this one
    }

    const float factor = 2.0f * norm.alpha * norm.beta;
    std::int64_t i = tile_first + thread;
#pragma unroll
    for (int n = 0; n < kPerThread; ++n) {
        if (i < tile_end)
            dx[i] = narrow<T>(widen(dy[i]) * own_power[n] - factor * widen(x[i]) * sum[n]);
        i += kThreads;
    }
}

template <class T, class Window>
void launch_fprop(const T* x, T* y, Rows rows, Window window, ResponseNorm norm, Stream stream) {
    simt::launch<lrn_fprop_kernel<T, Window>>(
        simt::Grid(simt::blocks_for(rows.count, kTile), kThreads, stream), x, y, rows, window,
        norm);
}

template <class T, class Window> void launch_dgrad(const T* x, const T* dy, T* dx, Rows rows,
                                                   Window window, ResponseNorm norm,
                                                   Stream stream) {
    const int reach = window.before + window.after;
    const int tile = reach <= kTile / 2 ? kTile - reach : kTile; // tile and reach in one stage
    simt::launch<lrn_dgrad_kernel<T, Window>>(
        simt::Grid(simt::blocks_for(rows.count, tile), kThreads, stream), x, dy, dx, rows, tile,
        window, norm);
}

Rows rows_of(std::int64_t pixels, int channels, int groups) {
    return {pixels * channels, channels / groups};
}

} // namespace

template <class T> void lrn_fprop(const T* x, T* y, std::int64_t pixels, int channels, int groups,
                                  ResponseNorm norm, Stream stream) {
    const Rows rows = rows_of(pixels, channels, groups);
    if (norm.size == 5) {
        launch_fprop(x, y, rows, Five{}, norm, stream);
    } else {
        launch_fprop(x, y, rows, reach_of(norm.size, rows.length), norm, stream);
    }
}

template <class T> void lrn_dgrad(const T* x, const T* dy, T* dx, std::int64_t pixels, int channels,
                                  int groups, ResponseNorm norm, Stream stream) {
    const Rows rows = rows_of(pixels, channels, groups);
    if (norm.size == 5) {
        launch_dgrad(x, dy, dx, rows, Five{}, norm, stream);
    } else {
        launch_dgrad(x, dy, dx, rows, reach_of(norm.size, rows.length), norm, stream);
    }
}

template void lrn_fprop(const float*, float*, std::int64_t, int, int, ResponseNorm, Stream);
template void lrn_fprop(const bf16*, bf16*, std::int64_t, int, int, ResponseNorm, Stream);
template void lrn_dgrad(const float*, const float*, float*, std::int64_t, int, int, ResponseNorm,
                        Stream);
template void lrn_dgrad(const bf16*, const bf16*, bf16*, std::int64_t, int, int, ResponseNorm,
                        Stream);

} // namespace pyalexnet

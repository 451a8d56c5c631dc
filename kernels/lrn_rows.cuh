// Normalisation across channels. In NHWC a group's channels are contiguous: C channels in G groups
// are G times as many pixels of C / G. The code here knows only such rows and cuts the array into
// tiles regardless of where a row ends, so that no thread idles whatever the number of channels. A
// window's sum is taken afresh for each channel: sliding it would lose digits.
#pragma once

#include "response.cuh"

namespace pyalexnet {
namespace {

constexpr int kLrnThreads = 256;
constexpr int kLrnPerThread = 4;
constexpr int kLrnTile = kLrnThreads * kLrnPerThread;

struct Rows {
    std::int64_t count; // elements in all
    int length;         // channels of a row
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

// A block stages power = s^-beta, and what is passed on, for a tile and the reach around it, at
// once unless that exceeds a stage; a thread then sums the latter for four elements, a block's
// width apart. Channels move fastest. Bound by bytes: s is recomputed rather than stored by fprop.
template <class T, class Window>
__global__ void lrn_dgrad_kernel(const T* __restrict__ x, const T* __restrict__ dy,
                                 T* __restrict__ dx, Rows rows, int tile, Window window,
                                 Steps steps) {
    SIMT_SHARED(float, power, [kLrnTile]);
    SIMT_SHARED(float, passed, [kLrnTile]);
    const int thread = static_cast<int>(threadIdx.x);
    const int step = kLrnThreads % rows.length;
    const std::int64_t tile_first = blockIdx.x * std::int64_t{tile};
    const std::int64_t tile_end = min(tile_first + tile, rows.count);
    const std::int64_t staged_end = min(tile_end + window.before, rows.count);
    const int own_channel = static_cast<int>((tile_first + thread) % rows.length);

    float own_power[kLrnPerThread] = {};
    float sum[kLrnPerThread] = {};
    for (std::int64_t first = max(tile_first - window.after, std::int64_t{0}); first < staged_end;
         first += kLrnTile) {
        const int staged = static_cast<int>(min(staged_end - first, std::int64_t{kLrnTile}));
        int c = static_cast<int>((first + thread) % rows.length);
        for (int j = thread; j < staged; j += kLrnThreads) {
            const float s = window_scale(x, first + j, c, rows.length, window, steps.norm);
            power[j] = steps.power(s);
            const float first_term = widen(dy[first + j]) * power[j];
            passed[j] = steps.passed(first_term, widen(x[first + j]), s);
            c = advance(c, step, rows.length);
        }
        __syncthreads();
        c = own_channel;
        int i = static_cast<int>(tile_first - first) + thread; // may lie in another stage
#pragma unroll
        for (int n = 0; n < kLrnPerThread; ++n) {
            if (0 <= i && i < staged) own_power[n] = power[i];
#pragma unroll
            for (int d = -window.after; d <= window.before; ++d) {
                const bool in_row = 0 <= c + d && c + d < rows.length;
                const bool in_stage = 0 <= i + d && i + d < staged;
                if (in_row && in_stage) sum[n] += passed[i + d];
            }
            i += kLrnThreads;
            c = advance(c, step, rows.length);
        }
        __syncthreads(); // the next stage overwrites this one
    }

    std::int64_t i = tile_first + thread;
#pragma unroll
    for (int n = 0; n < kLrnPerThread; ++n) {
        if (i < tile_end) {
            const float own = widen(x[i]);
            dx[i] = narrow<T>(descend(widen(dy[i]) * own_power[n], own, sum[n]));
        }
        i += kLrnThreads;
    }
}

} // namespace
} // namespace pyalexnet

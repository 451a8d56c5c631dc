// Local response normalisation across channels (paper, section 3.3).
//
// Windows of five channels, the networks', have kernels of their own, with unrolled loops.
#include "lrn_rows.cuh"

namespace pyalexnet {
namespace {

// A thread computes four elements a block's width apart, a block one tile; channels move fastest.
// Bound by bytes: a window's other channels come from L1.
template <class T, class Window> __global__ void lrn_fprop_kernel(const T* __restrict__ x,
                                                                  T* __restrict__ y, Rows rows,
                                                                  Window window, Steps steps) {
    std::int64_t i = blockIdx.x * std::int64_t{kLrnTile} + threadIdx.x;
    int c = static_cast<int>(i % rows.length);
    const int step = kLrnThreads % rows.length;
    for (int n = 0; n < kLrnPerThread && i < rows.count; ++n) {
        const float s = window_scale(x, i, c, rows.length, window, steps.norm);
        y[i] = narrow<T>(widen(x[i]) * steps.power(s));
        i += kLrnThreads;
        c = advance(c, step, rows.length);
    }
}

// A block computes one tile, a thread four elements of it (lrn_dgrad_tile); channels move fastest.
// Bound by bytes: s is recomputed rather than stored by fprop.
template <class T, class Window>
__global__ void lrn_dgrad_kernel(const T* __restrict__ x, const T* __restrict__ dy,
                                 T* __restrict__ dx, Rows rows, int tile, Window window,
                                 Steps steps) {
    SIMT_SHARED(float, power, [kLrnTile]);
    SIMT_SHARED(float, passed, [kLrnTile]);
    lrn_dgrad_tile(power, passed, x, dy, dx, rows, tile, window, steps);
}

template <class T, class Window>
void launch_fprop(const T* x, T* y, Rows rows, Window window, ResponseNorm norm, Stream stream) {
    simt::launch<lrn_fprop_kernel<T, Window>>(
        simt::Grid(simt::blocks_for(rows.count, kLrnTile), kLrnThreads, stream), x, y, rows, window,
        Steps(norm));
}

template <class T, class Window> void launch_dgrad(const T* x, const T* dy, T* dx, Rows rows,
                                                   Window window, ResponseNorm norm,
                                                   Stream stream) {
    const int tile = lrn_tile(window);
    simt::launch<lrn_dgrad_kernel<T, Window>>(
        simt::Grid(simt::blocks_for(rows.count, tile), kLrnThreads, stream), x, dy, dx, rows, tile,
        window, Steps(norm));
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

PYALEXNET_FOR_ELEMENTS(lrn_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_dgrad);

} // namespace pyalexnet

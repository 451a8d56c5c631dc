// Local response normalisation across channels (paper, section 3.3).
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

// Calls `use` with the rows and the window of a norm. That of five channels, the networks', is
// known to the compiler, which unrolls its loops.
template <class Use>
void with_rows(std::int64_t pixels, int channels, int groups, const ResponseNorm& norm, Use use) {
    const Rows rows{pixels * channels, channels / groups};
    if (norm.size == 5) return use(rows, Five{});
    use(rows, reach_of(norm.size, rows.length));
}

} // namespace

template <class T> void lrn_fprop(const T* x, T* y, std::int64_t pixels, int channels, int groups,
                                  ResponseNorm norm, Stream stream) {
    with_rows(pixels, channels, groups, norm, [&](const Rows& rows, auto window) {
        const simt::Grid grid(simt::blocks_for(rows.count, kLrnTile), kLrnThreads, stream);
        simt::launch<lrn_fprop_kernel<T, decltype(window)>>(grid, x, y, rows, window, Steps{norm});
    });
}

template <class T> void lrn_dgrad(const T* x, const T* dy, T* dx, std::int64_t pixels, int channels,
                                  int groups, ResponseNorm norm, Stream stream) {
    with_rows(pixels, channels, groups, norm, [&](const Rows& rows, auto window) {
        // As many elements as fit one stage with the reach, if that is at most half of it.
        const int reach = window.before + window.after;
        const int tile = reach <= kLrnTile / 2 ? kLrnTile - reach : kLrnTile;
        const simt::Grid grid(simt::blocks_for(rows.count, tile), kLrnThreads, stream);
        simt::launch<lrn_dgrad_kernel<T, decltype(window)>>(grid, x, dy, dx, rows, tile, window,
                                                            Steps{norm});
    });
}

PYALEXNET_FOR_ELEMENTS(lrn_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_dgrad);

} // namespace pyalexnet

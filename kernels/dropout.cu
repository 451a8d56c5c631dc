// Dropout by the 2012 rule: a mask and no scaling. The mask is a function of an element's position
// in the whole layer, so it is never stored and towers draw what one device would.
#include "draw.cuh"
#include "four.cuh"

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;

// A thread masks four neighbouring features of one image, or fewer at its end; features move
// fastest. Bound by bytes: Philox's ten rounds hide behind them, or twenty where the features do
// not begin at a multiple of four of the layer's. No __restrict__: y may be x.
template <class T> __global__ void dropout_kernel(const T* x, T* y, std::int64_t images,
                                                  std::int64_t features, DropoutDraw draw,
                                                  std::uint64_t threshold) {
    const std::int64_t thread = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
    const std::int64_t fours = (features + 3) / 4; // of an image
    const std::int64_t image = thread / fours;
    if (image >= images) return;
    const std::int64_t feature = 4 * (thread - image * fours);
    const int count = static_cast<int>(min(features - feature, std::int64_t{4}));
    bool kept[4];
    draw_four(draw, threshold, image * draw.total + draw.offset + feature, kept);
    const std::int64_t first = image * features + feature;
    Four<T> four = read_four(x + first, count);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (!kept[i]) four.of[i] = T{};
    write_four(y + first, count, four);
}

} // namespace

template <class T> void dropout(const T* x, T* y, std::int64_t images, std::int64_t features,
                                DropoutDraw draw, Stream stream) {
    const unsigned blocks = simt::blocks_for(images * ((features + 3) / 4), kThreads);
    simt::launch<dropout_kernel<T>>(simt::Grid(blocks, kThreads, stream), x, y, images, features,
                                    draw, dropout_threshold(draw.keep));
}

PYALEXNET_FOR_ELEMENTS(dropout);

} // namespace pyalexnet

// Network inputs from stored images of bytes: crop, mirror, mean and colour in one pass, so that
// the pixels cross the bus and the card's memory as bytes; and their grouping into squares, which
// turns a strided convolution into one of stride 1 whose channels fill vectors.
#include "bf16.cuh"
#include "ops.h"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// A corner, clamped so that the crop lies inside the image: corners made on the device have not
// been checked.
__device__ __forceinline__ int inside(int corner, int room) { return min(max(corner, 0), room); }

// Whether 0 <= i < length, by one comparison.
__device__ __forceinline__ bool within(int i, int length) {
    return static_cast<unsigned>(i) < static_cast<unsigned>(length);
}

// A thread computes one channel of one column in a band of rows of a padded crop, a block up to 256
// neighbours in each; channels move fastest; a mirrored image is read backwards, pixel by pixel. A
// row of a square is contiguous in y, and the thread's next row follows it. Bound by bytes: one of
// x and those of a T per element; the mean is read again from L2. In bands enough bytes are in
// flight to keep the memory busy, and what depends on the column alone is computed once.
template <class T>
__global__ void augment_kernel(const std::uint8_t* __restrict__ x, const float* __restrict__ mean,
                               const std::int32_t* __restrict__ corners,
                               const std::uint8_t* __restrict__ flips,
                               const float* __restrict__ shifts, T* __restrict__ y, CropShape g,
                               float scale, bool mean_at_pixel) {
    const int height = g.rows * g.block, width = g.columns * g.block; // with the zeros
    const RowPlace at = row_place(bands_of(height), width, g.channels);
    if (at.column == width) return;
    const int first = at.row * kBand;
    const int rows = min(kBand, height - first);
    const int h = first - g.pad_top, w = at.column - g.pad_left; // of the crop
    const bool column_seen = within(w, g.width);

    const int down = g.stored_height - g.height, across = g.stored_width - g.width;
    const int row = inside(corners[2 * at.image], down) + h;
    const int column =
        inside(corners[2 * at.image + 1], across) + (flips[at.image] ? g.width - 1 - w : w);
    const int mean_row = mean_at_pixel ? row : down / 2 + h;
    const int mean_column = mean_at_pixel ? column : across / 2 + w;
    const float shift = shifts[at.image * g.channels + at.channel];

    const std::int64_t stored = std::int64_t{g.stored_width} * g.channels; // elements of a row
    x += (at.image * g.stored_height + row) * stored + std::int64_t{column} * g.channels +
         at.channel;
    mean += mean_row * stored + std::int64_t{mean_column} * g.channels + at.channel;
    // Separate from the stores, so that all loads are in flight before the first store; in steps,
    // so that a row costs one addition per array and no branch.
    float centred[kBand];
#pragma unroll
    for (int r = 0; r < kBand; ++r, x += stored, mean += stored)
        centred[r] = column_seen && within(h + r, g.height) ? *x - *mean : 0.0f;

    const std::int64_t square_row = std::int64_t{g.block} * g.channels; // elements
    const std::int64_t out = g.columns * g.block * square_row;
    int a = first % g.block; // the row's place in its square
    y += (at.image * g.rows + first / g.block) * out +
         (at.column / g.block * g.block + a) * square_row + at.column % g.block * g.channels +
         at.channel;
#pragma unroll
    for (int r = 0; r < kBand; ++r) {
        const bool seen = column_seen && within(h + r, g.height);
        if (r < rows) *y = narrow<T>(seen ? (centred[r] + shift) * scale : 0.0f);
        a = a + 1 == g.block ? 0 : a + 1;
        y += a ? square_row : out - (g.block - 1) * square_row;
    }
}

} // namespace

template <class T> void augment(const std::uint8_t* x, const float* mean,
                                const std::int32_t* corners, const std::uint8_t* flips,
                                const float* shifts, T* y, CropShape shape, float scale,
                                bool mean_at_pixel, Stream stream) {
    const std::int64_t bands = shape.images * bands_of(shape.rows * shape.block);
    const simt::Grid grid = row_grid(bands, shape.columns * shape.block, shape.channels, stream);
    simt::launch<augment_kernel<T>>(grid, x, mean, corners, flips, shifts, y, shape, scale,
                                    mean_at_pixel);
}

PYALEXNET_FOR_ELEMENTS(augment);

} // namespace pyalexnet

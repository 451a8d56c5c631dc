// Network inputs from stored images of bytes: crop, mirror, mean and colour in one pass, so that
// the pixels cross the bus, and the card's memory, as the bytes that they are.
#include "ops.h"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// Rows that a thread walks down: enough bytes are then under way to keep the memory busy, and what
// depends on the column alone (where it comes from, the shift) is found once.
constexpr int kBand = 8;

__device__ __host__ __forceinline__ int bands_of(int height) { return (height - 1) / kBand + 1; }

// A corner moved to where the crop lies inside the image: nobody has checked those that were made
// on the device.
__device__ __forceinline__ int inside(int corner, int room) { return min(max(corner, 0), room); }

// A thread computes one channel of one column in eight rows of a crop, a block up to 256 neighbours
// in each; channels move fastest, backwards by whole pixels in the bytes of a mirrored image. Bound
// by bytes, 5 an element: one of x and four of y; the mean is read again from L2.
__global__ void augment_kernel(const std::uint8_t* __restrict__ x, const float* __restrict__ mean,
                               const std::int32_t* __restrict__ corners,
                               const std::uint8_t* __restrict__ flips,
                               const float* __restrict__ shifts, float* __restrict__ y, CropShape g,
                               float scale, bool mean_at_pixel) {
    const RowPlace at = row_place(g.width, g.channels);
    if (at.column == g.width) return;
    const std::int64_t image = at.row / bands_of(g.height);
    const int first = static_cast<int>(at.row % bands_of(g.height)) * kBand;
    const int rows = min(kBand, g.height - first);

    const int down = g.stored_height - g.height, across = g.stored_width - g.width;
    const int row = inside(corners[2 * image], down) + first;
    const int column = inside(corners[2 * image + 1], across) +
                       (flips[image] ? g.width - 1 - at.column : at.column);
    const int mean_row = mean_at_pixel ? row : down / 2 + first;
    const int mean_column = mean_at_pixel ? column : across / 2 + at.column;
    const float shift = shifts[image * g.channels + at.channel];

    const std::int64_t stored = std::int64_t{g.stored_width} * g.channels; // elements of a row
    const std::int64_t out = std::int64_t{g.width} * g.channels;
    x += (image * g.stored_height + row) * stored + std::int64_t{column} * g.channels + at.channel;
    mean += mean_row * stored + std::int64_t{mean_column} * g.channels + at.channel;
    y += (image * g.height + first) * out + std::int64_t{at.column} * g.channels + at.channel;
    // Apart from the stores, so that all loads are under way before the first of them; by steps, so
    // that a row costs an addition an array and no branch.
    float centred[kBand];
#pragma unroll
    for (int r = 0; r < kBand; ++r, x += stored, mean += stored)
        centred[r] = r < rows ? *x - *mean : 0.0f;
#pragma unroll
    for (int r = 0; r < kBand; ++r, y += out)
        if (r < rows) *y = (centred[r] + shift) * scale;
}

} // namespace

void augment(const std::uint8_t* x, const float* mean, const std::int32_t* corners,
             const std::uint8_t* flips, const float* shifts, float* y, CropShape shape, float scale,
             bool mean_at_pixel, Stream stream) {
    const std::int64_t bands = shape.images * bands_of(shape.height);
    simt::launch<augment_kernel>(row_grid(bands, shape.width, shape.channels, stream), x, mean,
                                 corners, flips, shifts, y, shape, scale, mean_at_pixel);
}

} // namespace pyalexnet

// How a kernel over NHWC maps is cut into blocks: one image row, W * C contiguous floats, is shared
// out to as many blocks as it needs, so that neighbouring threads hold neighbouring floats whatever
// the number of channels, and only a thread's place within its row takes a division.
#pragma once

#include "simt/simt.hpp"

namespace pyalexnet {

constexpr int kRowThreads = 256;

// Blocks of one row.
__device__ __host__ __forceinline__ unsigned blocks_of_row(int width, int channels) {
    const unsigned length = static_cast<unsigned>(width) * static_cast<unsigned>(channels);
    return (length + (kRowThreads - 1)) / kRowThreads;
}

inline simt::Grid row_grid(std::int64_t rows, int width, int channels, void* stream) {
    return {static_cast<unsigned>(rows * blocks_of_row(width, channels)), kRowThreads, stream};
}

// A thread's place: in row `line` of all images, which is row `row` of `image`, at pixel `column`
// and channel `channel`. Past the row's end, column is the width.
struct RowPlace {
    std::int64_t line, image;
    int row, column, channel;
};

__device__ __forceinline__ RowPlace row_place(int height, int width, int channels) {
    const unsigned blocks = blocks_of_row(width, channels);
    const unsigned position = blockIdx.x % blocks * kRowThreads + threadIdx.x;
    const unsigned column = position / static_cast<unsigned>(channels);
    const unsigned channel = position - column * static_cast<unsigned>(channels);
    const std::int64_t line = blockIdx.x / blocks;
    return {line, line / height, static_cast<int>(line % height),
            static_cast<int>(min(column, static_cast<unsigned>(width))), static_cast<int>(channel)};
}

// ---------------------------------------------------------------------- bands of rows

// Rows that a thread walks down, in kernels where it reuses for the next row what it has of one.
constexpr int kBand = 8;

__device__ __host__ __forceinline__ int bands_of(int height) { return (height - 1) / kBand + 1; }

} // namespace pyalexnet

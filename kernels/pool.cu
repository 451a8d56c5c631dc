// Overlapping max and average pooling (paper, section 3.4).
#include "ops.h"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// Pixels [first, end) of one axis.
struct Span {
    int first, end;

    __device__ __forceinline__ int length() const { return end - first; }
};

// The pixels of window p, clipped to the image.
__device__ __forceinline__ Span window_pixels(int p, int size, int stride, int length) {
    const int first = p * stride;
    return {first, first + min(size, length - first)};
}

// The windows that hold pixel h, of `windows` in all.
__device__ __forceinline__ Span windows_of_pixel(int h, int size, int stride, int windows) {
    return {h < size ? 0 : (h - size) / stride + 1, min(h / stride + 1, windows)};
}

// The first index of image `n`'s row `row` in maps of `height` rows.
__device__ __forceinline__ std::int64_t row_start(std::int64_t n, int row, int height, int width,
                                                  int channels) {
    return (n * height + row) * width * channels;
}

// A thread computes one output of one channel, a block up to 256 of an output row; channels move
// fastest. Bound by bytes: overlapping windows meet in L1.
template <class Where>
__global__ void maxpool_fprop_kernel(const float* __restrict__ x, float* __restrict__ y,
                                     Where* __restrict__ where, PoolShape g) {
    const RowPlace at = row_place(g.out_width, g.channels);
    if (at.column == g.out_width) return;
    const std::int64_t image = at.row / g.out_height;
    const int p = static_cast<int>(at.row % g.out_height);
    const Span rows = window_pixels(p, g.size, g.stride, g.height);
    const Span columns = window_pixels(at.column, g.size, g.stride, g.width);

    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const float* row = x + row_start(image, rows.first, g.height, g.width, g.channels) +
                       std::int64_t{columns.first} * g.channels + at.channel;
    float best = *row;
    int best_at = 0;
    for (int r = 0; r < rows.length(); ++r, row += row_length) {
        for (int s = 0; s < columns.length(); ++s) {
            const float value = row[std::int64_t{s} * g.channels];
            // True also of the first NaN: no comparison with a NaN holds.
            if (best == best && !(value <= best)) {
                best = value;
                best_at = r * g.size + s;
            }
        }
    }
    const std::int64_t out =
        at.row * g.out_width * g.channels + std::int64_t{at.column} * g.channels + at.channel;
    y[out] = best;
    where[out] = static_cast<Where>(best_at);
}

// A thread gathers one pixel of one channel from the windows that hold it, a block up to 256 of an
// image row; channels move fastest. Bound by bytes. Every dx is written: nothing to zero first.
template <class Where> __global__ void maxpool_dgrad_kernel(const float* __restrict__ dy,
                                                            const Where* __restrict__ where,
                                                            float* __restrict__ dx, PoolShape g) {
    const RowPlace at = row_place(g.width, g.channels);
    if (at.column == g.width) return;
    const std::int64_t image = at.row / g.height;
    const int h = static_cast<int>(at.row % g.height);
    const Span windows_down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    const Span windows_across = windows_of_pixel(at.column, g.size, g.stride, g.out_width);

    float sum = 0.0f;
    for (int p = windows_down.first; p < windows_down.end; ++p) {
        const std::int64_t row =
            row_start(image, p, g.out_height, g.out_width, g.channels) + at.channel;
        for (int q = windows_across.first; q < windows_across.end; ++q) {
            const std::int64_t out = row + std::int64_t{q} * g.channels;
            const int own = (h - p * g.stride) * g.size + (at.column - q * g.stride);
            if (where[out] == own) sum += dy[out];
        }
    }
    dx[at.row * g.width * g.channels + std::int64_t{at.column} * g.channels + at.channel] = sum;
}

// As maxpool_fprop_kernel.
__global__ void avgpool_fprop_kernel(const float* __restrict__ x, float* __restrict__ y,
                                     PoolShape g) {
    const RowPlace at = row_place(g.out_width, g.channels);
    if (at.column == g.out_width) return;
    const std::int64_t image = at.row / g.out_height;
    const int p = static_cast<int>(at.row % g.out_height);
    const Span rows = window_pixels(p, g.size, g.stride, g.height);
    const Span columns = window_pixels(at.column, g.size, g.stride, g.width);

    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const float* row = x + row_start(image, rows.first, g.height, g.width, g.channels) +
                       std::int64_t{columns.first} * g.channels + at.channel;
    float sum = 0.0f;
    for (int r = 0; r < rows.length(); ++r, row += row_length) {
        for (int s = 0; s < columns.length(); ++s) sum += row[std::int64_t{s} * g.channels];
    }
    const float pixels = static_cast<float>(rows.length()) * static_cast<float>(columns.length());
    y[at.row * g.out_width * g.channels + std::int64_t{at.column} * g.channels + at.channel] =
        sum / pixels;
}

// As maxpool_dgrad_kernel.
__global__ void avgpool_dgrad_kernel(const float* __restrict__ dy, float* __restrict__ dx,
                                     PoolShape g) {
    const RowPlace at = row_place(g.width, g.channels);
    if (at.column == g.width) return;
    const std::int64_t image = at.row / g.height;
    const int h = static_cast<int>(at.row % g.height);
    const Span windows_down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    const Span windows_across = windows_of_pixel(at.column, g.size, g.stride, g.out_width);

    float sum = 0.0f;
    for (int p = windows_down.first; p < windows_down.end; ++p) {
        const int rows = window_pixels(p, g.size, g.stride, g.height).length();
        const std::int64_t row =
            row_start(image, p, g.out_height, g.out_width, g.channels) + at.channel;
        for (int q = windows_across.first; q < windows_across.end; ++q) {
            const int columns = window_pixels(q, g.size, g.stride, g.width).length();
            const float pixels = static_cast<float>(rows) * static_cast<float>(columns);
            sum += dy[row + std::int64_t{q} * g.channels] / pixels;
        }
    }
    dx[at.row * g.width * g.channels + std::int64_t{at.column} * g.channels + at.channel] = sum;
}

// A thread for every output, and one for every input.
simt::Grid output_grid(const PoolShape& g, Stream stream) {
    return row_grid(g.images * g.out_height, g.out_width, g.channels, stream);
}

simt::Grid input_grid(const PoolShape& g, Stream stream) {
    return row_grid(g.images * g.height, g.width, g.channels, stream);
}

} // namespace

void maxpool_fprop(const float* x, float* y, std::uint8_t* where, PoolShape shape, Stream stream) {
    simt::launch<maxpool_fprop_kernel<std::uint8_t>>(output_grid(shape, stream), x, y, where,
                                                     shape);
}

void maxpool_fprop(const float* x, float* y, std::uint16_t* where, PoolShape shape, Stream stream) {
    simt::launch<maxpool_fprop_kernel<std::uint16_t>>(output_grid(shape, stream), x, y, where,
                                                      shape);
}

void maxpool_dgrad(const float* dy, const std::uint8_t* where, float* dx, PoolShape shape,
                   Stream stream) {
    simt::launch<maxpool_dgrad_kernel<std::uint8_t>>(input_grid(shape, stream), dy, where, dx,
                                                     shape);
}

void maxpool_dgrad(const float* dy, const std::uint16_t* where, float* dx, PoolShape shape,
                   Stream stream) {
    simt::launch<maxpool_dgrad_kernel<std::uint16_t>>(input_grid(shape, stream), dy, where, dx,
                                                      shape);
}

void avgpool_fprop(const float* x, float* y, PoolShape shape, Stream stream) {
    simt::launch<avgpool_fprop_kernel>(output_grid(shape, stream), x, y, shape);
}

void avgpool_dgrad(const float* dy, float* dx, PoolShape shape, Stream stream) {
    simt::launch<avgpool_dgrad_kernel>(input_grid(shape, stream), dy, dx, shape);
}

} // namespace pyalexnet

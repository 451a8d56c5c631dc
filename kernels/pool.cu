// Overlapping max and average pooling (paper, section 3.4).
#include "channels.cuh"
#include "ops.h"
#include "pool_windows.cuh"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// The element where a thread's kWidth channels begin, in maps `width` pixels wide; rows count over
// all images.
template <int kWidth> __device__ __forceinline__ std::int64_t
index_of(std::int64_t row, int column, int vector, int width, int channels) {
    return (row * width + column) * channels + std::int64_t{kWidth} * vector;
}

// A thread computes kWidth channels of one output (16 bytes, or one channel), a block up to 256
// neighbours of an output row; channels move fastest. Bound by bytes: overlapping windows meet in
// L1.
template <class T, class Where, int kWidth>
__global__ void maxpool_fprop_kernel(const T* __restrict__ x, T* __restrict__ y,
                                     Where* __restrict__ where, PoolShape g) {
    const RowPlace at = row_place(g.out_width, g.channels / kWidth);
    if (at.column == g.out_width) return;
    const std::int64_t image = at.row / g.out_height;
    const int p = static_cast<int>(at.row % g.out_height);
    const Span rows = window_pixels(p, g.size, g.stride, g.height);
    const Span columns = window_pixels(at.column, g.size, g.stride, g.width);

    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const T* row = x + index_of<kWidth>(image * g.height + rows.first, columns.first, at.channel,
                                        g.width, g.channels);
    float best[kWidth];
    int best_at[kWidth] = {};
    load_channels(row, best);
    for (int r = 0; r < rows.length(); ++r, row += row_length) {
        for (int s = 0; s < columns.length(); ++s) {
            float values[kWidth];
            load_channels(row + std::int64_t{s} * g.channels, values);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                // True also of the first NaN: no comparison with a NaN holds.
                if (best[i] == best[i] && !(values[i] <= best[i])) {
                    best[i] = values[i];
                    best_at[i] = r * g.size + s;
                }
            }
        }
    }
    const std::int64_t out =
        index_of<kWidth>(at.row, at.column, at.channel, g.out_width, g.channels);
    store_channels(y + out, best);
    Codes<Where, kWidth>::pack(best_at).store(where + out);
}

// A thread gathers kWidth channels of one pixel from the windows that hold it, a block up to 256
// neighbours of an image row; channels move fastest. Bound by bytes. Every dx is written, so none
// is zeroed first.
template <class T, class Where, int kWidth>
__global__ void maxpool_dgrad_kernel(const T* __restrict__ dy, const Where* __restrict__ where,
                                     const T* __restrict__ gate, T* __restrict__ dx, PoolShape g) {
    const RowPlace at = row_place(g.width, g.channels / kWidth);
    if (at.column == g.width) return;
    const std::int64_t image = at.row / g.height;
    const int h = static_cast<int>(at.row % g.height);
    const Span windows_down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    const Span windows_across = windows_of_pixel(at.column, g.size, g.stride, g.out_width);

    float sum[kWidth] = {};
    for (int p = windows_down.first; p < windows_down.end; ++p) {
        for (int q = windows_across.first; q < windows_across.end; ++q) {
            const std::int64_t out =
                index_of<kWidth>(image * g.out_height + p, q, at.channel, g.out_width, g.channels);
            const int own = (h - p * g.stride) * g.size + (at.column - q * g.stride);
            const auto chosen = Codes<Where, kWidth>::load(where + out);
            float passed[kWidth];
            load_channels(dy + out, passed);
#pragma unroll
            for (int i = 0; i < kWidth; ++i)
                if (chosen[i] == own) sum[i] += passed[i];
        }
    }
    const std::int64_t in = index_of<kWidth>(at.row, at.column, at.channel, g.width, g.channels);
    if (gate) {
        float outputs[kWidth];
        load_channels(gate + in, outputs);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum[i] = outputs[i] > 0.0f ? sum[i] : 0.0f;
    }
    store_channels(dx + in, sum);
}

// As maxpool_fprop_kernel.
template <class T, int kWidth>
__global__ void avgpool_fprop_kernel(const T* __restrict__ x, T* __restrict__ y, PoolShape g) {
    const RowPlace at = row_place(g.out_width, g.channels / kWidth);
    if (at.column == g.out_width) return;
    const std::int64_t image = at.row / g.out_height;
    const int p = static_cast<int>(at.row % g.out_height);
    const Span rows = window_pixels(p, g.size, g.stride, g.height);
    const Span columns = window_pixels(at.column, g.size, g.stride, g.width);

    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const T* row = x + index_of<kWidth>(image * g.height + rows.first, columns.first, at.channel,
                                        g.width, g.channels);
    float sum[kWidth] = {};
    for (int r = 0; r < rows.length(); ++r, row += row_length) {
        for (int s = 0; s < columns.length(); ++s) {
            float values[kWidth];
            load_channels(row + std::int64_t{s} * g.channels, values);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) sum[i] += values[i];
        }
    }
    const float pixels = static_cast<float>(rows.length()) * static_cast<float>(columns.length());
#pragma unroll
    for (float& value : sum) value /= pixels;
    store_channels(y + index_of<kWidth>(at.row, at.column, at.channel, g.out_width, g.channels),
                   sum);
}

// As maxpool_dgrad_kernel.
template <class T, int kWidth>
__global__ void avgpool_dgrad_kernel(const T* __restrict__ dy, T* __restrict__ dx, PoolShape g) {
    const RowPlace at = row_place(g.width, g.channels / kWidth);
    if (at.column == g.width) return;
    const std::int64_t image = at.row / g.height;
    const int h = static_cast<int>(at.row % g.height);
    const Span windows_down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    const Span windows_across = windows_of_pixel(at.column, g.size, g.stride, g.out_width);

    float sum[kWidth] = {};
    for (int p = windows_down.first; p < windows_down.end; ++p) {
        const int rows = window_pixels(p, g.size, g.stride, g.height).length();
        for (int q = windows_across.first; q < windows_across.end; ++q) {
            const int columns = window_pixels(q, g.size, g.stride, g.width).length();
            const float pixels = static_cast<float>(rows) * static_cast<float>(columns);
            float shared[kWidth];
            load_channels(dy + index_of<kWidth>(image * g.out_height + p, q, at.channel,
                                                g.out_width, g.channels),
                          shared);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) sum[i] += shared[i] / pixels;
        }
    }
    store_channels(dx + index_of<kWidth>(at.row, at.column, at.channel, g.width, g.channels), sum);
}

// One thread per `width` channels of an output, or of an input.
simt::Grid output_grid(const PoolShape& g, int width, Stream stream) {
    return row_grid(g.images * g.out_height, g.out_width, g.channels / width, stream);
}

simt::Grid input_grid(const PoolShape& g, int width, Stream stream) {
    return row_grid(g.images * g.height, g.width, g.channels / width, stream);
}

} // namespace

template <class T, class Where>
void maxpool_fprop(const T* x, T* y, Where* where, PoolShape shape, Stream stream) {
    const auto launch = [&](auto width) {
        simt::launch<maxpool_fprop_kernel<T, Where, width()>>(output_grid(shape, width, stream), x,
                                                              y, where, shape);
    };
    with_width<T>(shape.channels, launch, x, y, where);
}

template <class T, class Where> void maxpool_dgrad(const T* dy, const Where* where, const T* gate,
                                                   T* dx, PoolShape shape, Stream stream) {
    const auto launch = [&](auto width) {
        simt::launch<maxpool_dgrad_kernel<T, Where, width()>>(input_grid(shape, width, stream), dy,
                                                              where, gate, dx, shape);
    };
    with_width<T>(shape.channels, launch, dy, where, gate, dx);
}

template <class T> void avgpool_fprop(const T* x, T* y, PoolShape shape, Stream stream) {
    const auto launch = [&](auto width) {
        simt::launch<avgpool_fprop_kernel<T, width()>>(output_grid(shape, width, stream), x, y,
                                                       shape);
    };
    with_width<T>(shape.channels, launch, x, y);
}

template <class T> void avgpool_dgrad(const T* dy, T* dx, PoolShape shape, Stream stream) {
    const auto launch = [&](auto width) {
        simt::launch<avgpool_dgrad_kernel<T, width()>>(input_grid(shape, width, stream), dy, dx,
                                                       shape);
    };
    with_width<T>(shape.channels, launch, dy, dx);
}

template decltype(maxpool_fprop<float, std::uint8_t>) maxpool_fprop<float, std::uint8_t>;
template decltype(maxpool_fprop<bf16, std::uint8_t>) maxpool_fprop<bf16, std::uint8_t>;
template decltype(maxpool_fprop<float, std::uint16_t>) maxpool_fprop<float, std::uint16_t>;
template decltype(maxpool_fprop<bf16, std::uint16_t>) maxpool_fprop<bf16, std::uint16_t>;
template decltype(maxpool_dgrad<float, std::uint8_t>) maxpool_dgrad<float, std::uint8_t>;
template decltype(maxpool_dgrad<bf16, std::uint8_t>) maxpool_dgrad<bf16, std::uint8_t>;
template decltype(maxpool_dgrad<float, std::uint16_t>) maxpool_dgrad<float, std::uint16_t>;
template decltype(maxpool_dgrad<bf16, std::uint16_t>) maxpool_dgrad<bf16, std::uint16_t>;
PYALEXNET_FOR_ELEMENTS(avgpool_fprop);
PYALEXNET_FOR_ELEMENTS(avgpool_dgrad);

} // namespace pyalexnet

// Overlapping max and average pooling (paper, section 3.4).
#include "channels.cuh"
#include "ops.h"
#include "pool_windows.cuh"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// A thread computes kWidth channels of one output (16 bytes, or one channel), a block up to 256
// neighbours of an output row; channels move fastest. Where is void for means. Bound by bytes:
// overlapping windows meet in L1.
template <class T, class Where, int kWidth>
__global__ void pool_fprop_kernel(const T* __restrict__ x, T* __restrict__ y,
                                  Where* __restrict__ where, PoolShape g) {
    constexpr bool mean = std::is_void_v<Where>;
    const RowPlace at = row_place(g.out_height, g.out_width, g.channels / kWidth);
    if (at.column == g.out_width) return;
    const Span rows = window_pixels(at.row, g.size, g.stride, g.height);
    const Span columns = window_pixels(at.column, g.size, g.stride, g.width);

    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const T* row = x + (at.image * g.height + rows.first) * row_length +
                   std::int64_t{columns.first} * g.channels + kWidth * at.channel;
    float result[kWidth] = {};
    int result_at[kWidth] = {};
    if constexpr (!mean) load_channels(row, result);
    for (int r = 0; r < rows.length(); ++r, row += row_length) {
        for (int s = 0; s < columns.length(); ++s) {
            float values[kWidth];
            load_channels(row + std::int64_t{s} * g.channels, values);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                if (mean) {
                    result[i] += values[i];
                } else if (result[i] == result[i] && !(values[i] <= result[i])) {
                    // Also the first NaN: no comparison with a NaN holds.
                    result[i] = values[i];
                    result_at[i] = r * g.size + s;
                }
            }
        }
    }
    const float pixels = static_cast<float>(rows.length()) * static_cast<float>(columns.length());
#pragma unroll
    for (float& value : result) value = mean ? value / pixels : value;
    const std::int64_t out = (at.line * g.out_width + at.column) * g.channels + kWidth * at.channel;
    store_channels(y + out, result);
    if constexpr (!mean) Codes<Where, kWidth>::pack(result_at).store(where + out);
}

// A thread gathers kWidth channels of one pixel from the windows that hold it, a block up to 256
// neighbours of an image row; channels move fastest. Where is void for means. Bound by bytes. Every
// dx is written, so none is zeroed first.
template <class T, class Where, int kWidth>
__global__ void pool_dgrad_kernel(const T* __restrict__ dy, const Where* __restrict__ where,
                                  const T* __restrict__ gate, T* __restrict__ dx, PoolShape g) {
    const RowPlace at = row_place(g.height, g.width, g.channels / kWidth);
    if (at.column == g.width) return;
    const Span windows_down = windows_of_pixel(at.row, g.size, g.stride, g.out_height);
    const Span windows_across = windows_of_pixel(at.column, g.size, g.stride, g.out_width);

    float sum[kWidth] = {};
    for (int p = windows_down.first; p < windows_down.end; ++p) {
        for (int q = windows_across.first; q < windows_across.end; ++q) {
            const std::int64_t window = (at.image * g.out_height + p) * g.out_width + q;
            const std::int64_t out = window * g.channels + kWidth * at.channel;
            float passed[kWidth];
            load_channels(dy + out, passed);
            if constexpr (std::is_void_v<Where>) {
                const int rows = window_pixels(p, g.size, g.stride, g.height).length();
                const int columns = window_pixels(q, g.size, g.stride, g.width).length();
                const float pixels = static_cast<float>(rows) * static_cast<float>(columns);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) sum[i] += passed[i] / pixels;
            } else {
                const int own = (at.row - p * g.stride) * g.size + (at.column - q * g.stride);
                const auto chosen = Codes<Where, kWidth>::load(where + out);
#pragma unroll
                for (int i = 0; i < kWidth; ++i)
                    if (chosen[i] == own) sum[i] += passed[i];
            }
        }
    }
    const std::int64_t in = (at.line * g.width + at.column) * g.channels + kWidth * at.channel;
    if (gate) {
        float outputs[kWidth];
        load_channels(gate + in, outputs);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum[i] = outputs[i] > 0.0f ? sum[i] : 0.0f;
    }
    store_channels(dx + in, sum);
}

} // namespace

template <class T, class Where>
void maxpool_fprop(const T* x, T* y, Where* where, PoolShape shape, Stream stream) {
    const auto launch = [&](auto width) {
        simt::launch<pool_fprop_kernel<T, Where, width()>>(row_grid(shape.images * shape.out_height,
                                                                    shape.out_width,
                                                                    shape.channels / width, stream),
                                                           x, y, where, shape);
    };
    with_width<T>(shape.channels, launch, x, y, where);
}

template <class T, class Where> void maxpool_dgrad(const T* dy, const Where* where, const T* gate,
                                                   T* dx, PoolShape shape, Stream stream) {
    const auto launch = [&](auto width) {
        simt::launch<pool_dgrad_kernel<T, Where, width()>>(
            row_grid(shape.images * shape.height, shape.width, shape.channels / width, stream), dy,
            where, gate, dx, shape);
    };
    with_width<T>(shape.channels, launch, dy, where, gate, dx);
}

// Means are launched in the same way, without `where`.
template <class T> void avgpool_fprop(const T* x, T* y, PoolShape shape, Stream stream) {
    maxpool_fprop<T, void>(x, y, nullptr, shape, stream);
}

template <class T> void avgpool_dgrad(const T* dy, T* dx, PoolShape shape, Stream stream) {
    maxpool_dgrad<T, void>(dy, nullptr, nullptr, dx, shape, stream);
}

PYALEXNET_FOR_ELEMENTS_AND_CODES(maxpool_fprop);
PYALEXNET_FOR_ELEMENTS_AND_CODES(maxpool_dgrad);
PYALEXNET_FOR_ELEMENTS(avgpool_fprop);
PYALEXNET_FOR_ELEMENTS(avgpool_dgrad);

} // namespace pyalexnet

// Images in blocks, filters of a strided convolution to match, and their gradient back: so conv1,
// with three channels, 11 x 11 taps and stride 4, runs with 48 channels, 3 x 3 and stride 1.
#include "bf16.cuh"
#include "ops.h"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// Where an element of a block lies: in row a, column b, at channel c.
struct InBlock {
    int a, b, c;
};

__device__ __forceinline__ InBlock in_block(int channel, int block, int channels) {
    const int pixel = channel / channels;
    return {pixel / block, pixel % block, channel % channels};
}

// A thread rounds one element of y, a block up to 256 of a row of blocks; y's channels move
// fastest. Bound by bytes: 4 and sizeof(T) an element. A block's rows of x are `block` runs, each
// read whole.
template <class T> __global__ void images_to_depth_kernel(const float* __restrict__ x,
                                                          T* __restrict__ y, BlockShape g) {
    const int deep = g.block * g.block * g.channels;
    const RowPlace at = row_place(g.columns, deep);
    if (at.column == g.columns) return;
    const std::int64_t image = at.row / g.rows;
    const InBlock in = in_block(at.channel, g.block, g.channels);
    const int row = static_cast<int>(at.row % g.rows) * g.block + in.a - g.pad_top;
    const int column = at.column * g.block + in.b - g.pad_left;
    const bool inside = 0 <= row && row < g.height && 0 <= column && column < g.width;
    float value = 0.0f;
    if (inside) value = x[((image * g.height + row) * g.width + column) * g.channels + in.c];
    y[(at.row * g.columns + at.column) * deep + at.channel] = narrow<T>(value);
}

// A thread moves one element of the deep filters, deep channels fastest; a block 256 of one row.
// Bound by its launch: conv1 has 35 thousand weights.
template <class T> __global__ void filters_to_depth_kernel(const T* __restrict__ w,
                                                           T* __restrict__ deep, FilterShape g,
                                                           FilterShape d, int block) {
    const RowPlace at = row_place(d.width, d.channels);
    if (at.column == d.width) return;
    const std::int64_t filter = at.row / d.height;
    const InBlock in = in_block(at.channel, block, g.channels);
    const int r = static_cast<int>(at.row % d.height) * block + in.a;
    const int s = at.column * block + in.b;
    T value{};
    if (r < g.height && s < g.width)
        value = w[((filter * g.height + r) * g.width + s) * g.channels + in.c];
    deep[(at.row * d.width + at.column) * d.channels + at.channel] = value;
}

// A thread moves one element of dw, channels fastest; a block 256 of one row. Bound by its launch.
__global__ void filters_from_depth_kernel(const float* __restrict__ ddeep, float* __restrict__ dw,
                                          FilterShape g, FilterShape d, int block) {
    const RowPlace at = row_place(g.width, g.channels);
    if (at.column == g.width) return;
    const std::int64_t filter = at.row / g.height;
    const int r = static_cast<int>(at.row % g.height);
    const int a = r % block, b = at.column % block;
    const std::int64_t pixel = (filter * d.height + r / block) * d.width + at.column / block;
    dw[(at.row * g.width + at.column) * g.channels + at.channel] =
        ddeep[pixel * d.channels + (a * block + b) * g.channels + at.channel];
}

} // namespace

template <class T> void images_to_depth(const float* x, T* y, BlockShape shape, Stream stream) {
    const int deep = shape.block * shape.block * shape.channels;
    simt::launch<images_to_depth_kernel<T>>(
        row_grid(shape.images * shape.rows, shape.columns, deep, stream), x, y, shape);
}

template <class T>
void filters_to_depth(const T* w, T* deep, FilterShape shape, int block, Stream stream) {
    const FilterShape d = shape.deep(block);
    simt::launch<filters_to_depth_kernel<T>>(row_grid(d.rows(), d.width, d.channels, stream), w,
                                             deep, shape, d, block);
}

void filters_from_depth(const float* ddeep, float* dw, FilterShape shape, int block,
                        Stream stream) {
    simt::launch<filters_from_depth_kernel>(
        row_grid(shape.rows(), shape.width, shape.channels, stream), ddeep, dw, shape,
        shape.deep(block), block);
}

PYALEXNET_FOR_ELEMENTS(images_to_depth);
PYALEXNET_FOR_ELEMENTS(filters_to_depth);

} // namespace pyalexnet

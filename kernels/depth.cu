// Images in blocks, filters of a strided convolution to match, and their gradient back: so conv1,
// with three channels, 11 x 11 taps and stride 4, runs with 48 channels, 3 x 3 and stride 1.
#include "bf16.cuh"
#include "ops.h"
#include "rows.cuh"

namespace pyalexnet {
namespace {

// A thread rounds one element of y, a block up to 256 of a row of blocks; y's channels move
// fastest. Bound by bytes: those of an element of x and of y. A block's rows of x are `block` runs,
// each read whole.
template <class X, class Y>
__global__ void to_depth_kernel(const X* __restrict__ x, Y* __restrict__ y, BlockShape g) {
    const int deep = g.block * g.block * g.channels;
    const RowPlace at = row_place(g.rows, g.columns, deep);
    if (at.column == g.columns) return;
    const int pixel = at.channel / g.channels, c = at.channel % g.channels; // of the block
    const int row = at.row * g.block + pixel / g.block - g.pad_top;
    const int column = at.column * g.block + pixel % g.block - g.pad_left;
    const bool inside = 0 <= row && row < g.height && 0 <= column && column < g.width;
    X value{};
    if (inside) value = x[((at.image * g.height + row) * g.width + column) * g.channels + c];
    y[(at.line * g.columns + at.column) * deep + at.channel] = narrow<Y>(widen(value));
}

// A thread moves one element of dw, channels fastest; a block 256 of one row. Bound by its launch:
// conv1 has 35 thousand weights.
__global__ void filters_from_depth_kernel(const float* __restrict__ ddeep, float* __restrict__ dw,
                                          FilterShape g, FilterShape d, int block) {
    const RowPlace at = row_place(g.height, g.width, g.channels);
    if (at.column == g.width) return;
    const int a = at.row % block, b = at.column % block;
    const std::int64_t line = at.image * d.height + at.row / block;
    const std::int64_t pixel = line * d.width + at.column / block;
    dw[(at.line * g.width + at.column) * g.channels + at.channel] =
        ddeep[pixel * d.channels + (a * block + b) * g.channels + at.channel];
}

template <class X, class Y> void launch(const X* x, Y* y, const BlockShape& g, Stream stream) {
    const int deep = g.block * g.block * g.channels;
    simt::launch<to_depth_kernel<X, Y>>(row_grid(g.images * g.rows, g.columns, deep, stream), x, y,
                                        g);
}

} // namespace

template <class T> void images_to_depth(const float* x, T* y, BlockShape shape, Stream stream) {
    launch(x, y, shape, stream);
}

template <class T>
void filters_to_depth(const T* w, T* deep, FilterShape shape, int block, Stream stream) {
    const FilterShape d = shape.deep(block);
    launch(w, deep,
           {d.filters, shape.height, shape.width, shape.channels, block, 0, 0, d.height, d.width},
           stream);
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

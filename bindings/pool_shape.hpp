// The arguments of pools of every kind, checked.
#pragma once

#include "array.hpp"

#include <algorithm>

namespace pyalexnet {

// (size, stride, ceil)
using PoolTuple = std::tuple<std::int64_t, std::int64_t, bool>;

// Number of windows along an extent of a map, as in Python's PoolGeometry.out_size.
inline std::int64_t windows(std::int64_t extent, std::int64_t size, std::int64_t stride,
                            bool ceil) {
    if (!ceil) return extent < size ? 0 : (extent - size) / stride + 1;
    return std::min((extent - size + stride - 1) / stride + 1, (extent - 1) / stride + 1);
}

// A pool of maps x (N, H, W, C), or of their gradient.
template <class X> PoolShape pool_shape(const Call& call, const X& x, const PoolTuple& pool) {
    const auto [images, height, width, channels] = call.maps(x);
    const int size = call.extent("size", std::get<0>(pool));
    const int stride = call.extent("stride", std::get<1>(pool));
    const bool ceil = std::get<2>(pool);
    const int rows = call.extent("output height", windows(height, size, stride, ceil));
    const int columns = call.extent("output width", windows(width, size, stride, ceil));
    return {images, height, width, channels, rows, columns, size, stride};
}

// The shape of the pooled maps, (N, P, Q, C).
inline Extents pooled(const PoolShape& shape) {
    return {shape.images, shape.out_height, shape.out_width, shape.channels};
}

} // namespace pyalexnet

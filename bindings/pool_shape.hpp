// What pools of every kind require of their arguments.
#pragma once

#include "array.hpp"

#include <tuple>

namespace pyalexnet {

// (size, stride, ceil); whether windows are kept that the border clips follows from y.
using PoolGiven = std::tuple<std::int64_t, std::int64_t, bool>;

// Shapes of maps x (N, H, W, C) and y (N, P, Q, C), or of their gradients.
// No window may start outside the image; y need not hold every window that fits.
template <class X, class Y>
PoolShape pool_shape(const Call& call, const X& x, const Y& y, const PoolGiven& pool) {
    PoolShape shape{};
    shape.images = x.dim(0);
    shape.height = call.extent("height", x.dim(1));
    shape.width = call.extent("width", x.dim(2));
    shape.channels = call.extent("channels", x.dim(3));
    shape.out_height = call.extent("output height", y.dim(1));
    shape.out_width = call.extent("output width", y.dim(2));
    shape.size = call.extent("size", std::get<0>(pool));
    shape.stride = call.extent("stride", std::get<1>(pool));
    call.expect(y.dim(0) == x.dim(0) && y.dim(3) == x.dim(3),
                "pooled maps of shape " + y.shape_text() + " do not come from maps of shape " +
                    x.shape_text());
    const std::int64_t last_row = std::int64_t{shape.out_height - 1} * shape.stride;
    const std::int64_t last_column = std::int64_t{shape.out_width - 1} * shape.stride;
    call.expect(last_row < shape.height && last_column < shape.width,
                "pooled maps of shape " + y.shape_text() +
                    " have windows that start outside maps "
                    "of shape " +
                    x.shape_text());
    // Kernels count rows, and places within one, in 32 bits.
    call.extent("rows of pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of pixels", x.dim(2) * x.dim(3));
    return shape;
}

// r * size + s fits a byte in windows up to 16 x 16, and 16 bits in those up to 256 x 256.
inline bool fits_byte(const Call& call, const PoolGiven& pool) {
    const std::int64_t size = std::get<0>(pool);
    call.expect(size <= 256, "size is " + std::to_string(size) + "; at most 256 was expected");
    return size <= 16;
}

// Calls `use` with a value of the maps' element type, and one of where's.
template <class Use>
void with_types(const Call& call, const py::object& maps, const PoolGiven& pool, Use use) {
    with_element(maps, [&](auto element) {
        fits_byte(call, pool) ? use(element, std::uint8_t{}) : use(element, std::uint16_t{});
    });
}

} // namespace pyalexnet

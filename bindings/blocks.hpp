// Images in blocks: squares of pixels that become one pixel of many channels.
#pragma once

#include "array.hpp"

namespace pyalexnet {

// (block, pad_top, pad_bottom, pad_left, pad_right)
using BlockTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

// The layout of images of these extents in blocks.
inline BlockShape in_blocks(const Call& call, int images, int height, int width, int channels,
                            const BlockTuple& tuple) {
    const auto& [side, top, bottom, left, right] = tuple;
    const int block = call.extent("block", side);
    const int pad_top = call.extent("pad_top", top, 0), pad_left = call.extent("pad_left", left, 0);
    const std::int64_t tall = height + top + call.extent("pad_bottom", bottom, 0);
    const std::int64_t wide = width + left + call.extent("pad_right", right, 0);
    const int rows = call.extent("rows", (tall - 1) / block + 1);
    const int columns = call.extent("columns", (wide - 1) / block + 1);
    // Kernels count these in 32 bits.
    call.expect_countable("pixels of a block", side * side);
    call.expect_countable("columns of pixels", columns * side);
    const auto row = call.extent("elements of a row of pixels", columns * side * channels);
    call.extent("elements of a row of blocks", row * side);
    call.expect_countable("rows of an image", rows * side);
    call.expect_countable("rows of pixels", images * (rows * side));
    return {images, height, width, channels, block, pad_top, pad_left, rows, columns};
}

// The shape of the images in blocks.
inline Extents blocked(const BlockShape& s) {
    return {s.images, s.rows, s.columns, std::int64_t{s.block} * s.block * s.channels};
}

} // namespace pyalexnet

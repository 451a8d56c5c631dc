// Images in blocks: squares of pixels that become one pixel of many channels.
#pragma once

#include "array.hpp"

#include <tuple>

namespace pyalexnet {

// (block, pad_top, pad_bottom, pad_left, pad_right); padding below and on the right follows from y.
using BlockGiven = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

// The fields of CropShape and of BlockShape that say how `images` of height x width pixels with
// these channels lie in y. `what` names them in a refusal.
template <class Shape, class Y>
Shape in_blocks(const Call& call, const std::string& what, std::int64_t images, std::int64_t height,
                std::int64_t width, std::int64_t channels, const BlockGiven& given, const Y& y) {
    const auto& [block, top, bottom, left, right] = given;
    Shape shape{};
    shape.images = images;
    shape.height = call.extent("height", height);
    shape.width = call.extent("width", width);
    shape.channels = call.extent("channels", channels);
    shape.block = call.extent("block", block);
    shape.pad_top = call.extent("pad_top", top, 0);
    shape.pad_left = call.extent("pad_left", left, 0);
    shape.rows = call.extent("rows", y.dim(1));
    shape.columns = call.extent("columns", y.dim(2));
    const std::int64_t square = block * block; // below 2^62
    call.expect_countable("pixels of a block", square);
    const std::int64_t rows = y.dim(1) * block, columns = y.dim(2) * block;
    call.expect(y.dim(0) == images && y.dim(3) == square * channels && rows >= top + height &&
                    columns >= left + width,
                "y of shape " + y.shape_text() + " does not hold " + what + " in blocks of " +
                    std::to_string(block));
    call.expect_countable("rows of pixels", images * rows); // kernels count them in 32 bits
    return shape;
}

} // namespace pyalexnet

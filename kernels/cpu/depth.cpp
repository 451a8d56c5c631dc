// Images and filters in blocks of pixels, and back (ops.h). The pixels of one row of a block are
// neighbours on either side, and are copied together. Bound by bytes.
#include "cpu/lanes.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

BlockShape as_images(const FilterShape& s, int block) {
    const FilterShape deep = s.deep(block);
    return {s.filters, s.height, s.width, s.channels, block, 0, 0, deep.height, deep.width};
}

// Calls visit(image, blocks, begin, end) for every row of every block: of its elements, from
// `blocks` on, those in [begin, end) lie in an image, the first of them at `image`.
template <class Visit> void by_rows_of_blocks(const BlockShape& g, const Visit& visit) {
    const int length = g.block * g.channels;
    const std::int64_t row_elements = std::int64_t{g.columns} * g.block * length;
    parallel_rows(g.images * g.rows, row_elements, [&](std::int64_t row) {
        for (int j = 0; j < g.columns; ++j)
            for (int a = 0; a < g.block; ++a) {
                const std::int64_t h = row % g.rows * g.block + a - g.pad_top;
                const std::int64_t w = std::int64_t{j} * g.block - g.pad_left;
                const bool inside = h >= 0 && h < g.height;
                const std::int64_t left = std::clamp<std::int64_t>(-w, 0, g.block);
                const std::int64_t right =
                    inside ? std::clamp<std::int64_t>(g.width - w, left, g.block) : left;
                const std::int64_t pixel = (row / g.rows * g.height + h) * g.width + w + left;
                visit(pixel * g.channels, ((row * g.columns + j) * g.block + a) * length,
                      left * g.channels, right * g.channels);
            }
    });
}

template <class From, class To> void to_depth(const From* from, To* to, const BlockShape& g) {
    by_rows_of_blocks(
        g, [&](std::int64_t image, std::int64_t blocks, std::int64_t begin, std::int64_t end) {
            To* const row = to + blocks;
            std::fill(row, row + begin, To{});
            if (begin < end) copy(from + image, row + begin, end - begin);
            std::fill(row + end, row + g.block * g.channels, To{});
        });
}

} // namespace

template <class T> void images_to_depth(const float* x, T* y, BlockShape shape, Stream) {
    to_depth(x, y, shape);
}

template <class T>
void filters_to_depth(const T* w, T* deep, FilterShape shape, int block, Stream) {
    to_depth(w, deep, as_images(shape, block));
}

void filters_from_depth(const float* ddeep, float* dw, FilterShape shape, int block, Stream) {
    by_rows_of_blocks(as_images(shape, block), [&](std::int64_t filter, std::int64_t blocks,
                                                   std::int64_t begin, std::int64_t end) {
        if (begin < end) copy(ddeep + blocks + begin, dw + filter, end - begin);
    });
}

PYALEXNET_FOR_ELEMENTS(images_to_depth);
PYALEXNET_FOR_ELEMENTS(filters_to_depth);

} // namespace pyalexnet

// Images and filters in blocks of pixels, and back (ops.h). The pixels of one row of a block are
// neighbours on either side, and are copied together. Bound by bytes.
#include <algorithm>

#include "cpu/lanes.hpp"

namespace pyalexnet {
namespace cpu {
namespace {

// Images, or filters, of height x width pixels, and the same in rows x columns blocks.
struct Blocks {
    int height, width, channels;
    int block, pad_top, pad_left;
    int rows, columns;

    Blocks(const BlockShape& s)
        : height(s.height), width(s.width), channels(s.channels), block(s.block),
          pad_top(s.pad_top), pad_left(s.pad_left), rows(s.rows), columns(s.columns) {}
    Blocks(const FilterShape& s, int size)
        : height(s.height), width(s.width), channels(s.channels), block(size), pad_top(0),
          pad_left(0), rows(s.deep(size).height), columns(s.deep(size).width) {}

    // Elements of a row of a block.
    int length() const { return block * channels; }
};

// Calls visit(image, blocks, begin, end) for every row of every block: of its elements, from
// `blocks` on, those in [begin, end) lie in an image, the first of them at `image`.
template <class Visit>
void by_rows_of_blocks(std::int64_t images, const Blocks& g, const Visit& visit) {
    const std::int64_t row_elements = std::int64_t{g.columns} * g.block * g.length();
    parallel_rows(images * g.rows, row_elements, [&](std::int64_t first, std::int64_t end) {
        for (std::int64_t row = first; row < end; ++row)
            for (int j = 0; j < g.columns; ++j)
                for (int a = 0; a < g.block; ++a) {
                    const std::int64_t h = row % g.rows * g.block + a - g.pad_top;
                    const std::int64_t w = std::int64_t{j} * g.block - g.pad_left;
                    const bool inside = h >= 0 && h < g.height;
                    const std::int64_t left = std::clamp<std::int64_t>(-w, 0, g.block);
                    const std::int64_t right =
                        inside ? std::clamp<std::int64_t>(g.width - w, left, g.block) : left;
                    const std::int64_t pixel = (row / g.rows * g.height + h) * g.width + w + left;
                    visit(pixel * g.channels, ((row * g.columns + j) * g.block + a) * g.length(),
                          left * g.channels, right * g.channels);
                }
    });
}

inline void copy(const float* from, bf16* to, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += kLanes) {
        const int lanes = static_cast<int>(std::min<std::int64_t>(kLanes, count - i));
        store_up_to(to + i, load_up_to(from + i, lanes), lanes);
    }
}
template <class T> void copy(const T* from, T* to, std::int64_t count) {
    std::copy(from, from + count, to);
}

template <class From, class To>
void to_depth(const From* from, To* to, std::int64_t images, const Blocks& g) {
    by_rows_of_blocks(
        images, g,
        [&](std::int64_t image, std::int64_t blocks, std::int64_t begin, std::int64_t end) {
            std::fill(to + blocks, to + blocks + begin, To{});
            if (begin < end) copy(from + image, to + blocks + begin, end - begin);
            std::fill(to + blocks + end, to + blocks + g.length(), To{});
        });
}

} // namespace
} // namespace cpu

template <class T> void images_to_depth(const float* x, T* y, BlockShape shape, Stream) {
    cpu::to_depth(x, y, shape.images, cpu::Blocks(shape));
}

template <class T>
void filters_to_depth(const T* w, T* deep, FilterShape shape, int block, Stream) {
    cpu::to_depth(w, deep, shape.filters, cpu::Blocks(shape, block));
}

void filters_from_depth(const float* ddeep, float* dw, FilterShape shape, int block, Stream) {
    cpu::by_rows_of_blocks(
        shape.filters, cpu::Blocks(shape, block),
        [&](std::int64_t filter, std::int64_t blocks, std::int64_t begin, std::int64_t end) {
            if (begin < end) cpu::copy(ddeep + blocks + begin, dw + filter, end - begin);
        });
}

PYALEXNET_FOR_ELEMENTS(images_to_depth);
PYALEXNET_FOR_ELEMENTS(filters_to_depth);

} // namespace pyalexnet

// A part of a map with the zeros around it, as float32: a patch is then a few contiguous runs, and
// no loop checks whether a pixel is inside. The copy is small beside the products that use it, and
// stays in a core's cache.
#pragma once

#include <algorithm>

#include "cpu/vector.hpp"

namespace pyalexnet::cpu {

// Copies `count` elements, widened.
template <class T> PYALEXNET_INLINE void widen(const T* from, float* to, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
    for (; i < count; ++i) to[i] = widen_one(from[i]);
}

// `depth` of a map's `channels`, from the first one at `map` on.
template <class T> struct Maps {
    const T* map;
    int height, width, channels, depth;

    // The frame (rows, columns, depth) whose pixel (0, 0) is pixel (row, column) of an image.
    void frame(int image, int row, int column, int rows, int columns, float* to) const {
        const std::int64_t line = std::int64_t{columns} * depth;
        const int first = std::clamp(-column, 0, columns);
        const int last = std::clamp(width - column, first, columns);
        for (int i = 0; i < rows; ++i, to += line) {
            const int y = row + i;
            if (y < 0 || y >= height || first == last) {
                std::fill(to, to + line, 0.0f);
                continue;
            }
            const std::int64_t start = (std::int64_t{image} * height + y) * width + column + first;
            std::fill(to, to + std::int64_t{first} * depth, 0.0f);
            copy(map + start * channels, to + std::int64_t{first} * depth, last - first);
            std::fill(to + std::int64_t{last} * depth, to + line, 0.0f);
        }
    }

  private:
    void copy(const T* from, float* to, int pixels) const {
        if (depth == channels) return widen(from, to, std::int64_t{pixels} * depth);
        for (int i = 0; i < pixels; ++i)
            widen(from + std::int64_t{i} * channels, to + std::int64_t{i} * depth, depth);
    }
};

} // namespace pyalexnet::cpu

// What fprop and dgrad have in common: a map is correlated with filters. fprop correlates x with w;
// dgrad correlates dy with w turned by half a turn or, with a stride, does so once for each
// position of a pixel within the stride, with the taps that see it.
#pragma once

#include <algorithm>

#include "cpu/gemm.hpp"

namespace pyalexnet::cpu {

// Output (p, q) of an image is the sum over taps (r, s) and the group's channels of input pixel
// (p step_h - top + r, q step_w - left + s), 0 outside, times a filter.
struct Correlation {
    int images, groups;
    int depth; // channels of a group that are summed over
    int width; // channels of a group that come out
    int height_in, width_in;
    int rows, columns; // of outputs of an image
    int taps_h, taps_w;
    int step_h, step_w;
    int top, left;
    // Where outputs lie in their map: (first_row + p row_step, first_column + q column_step).
    int height_out, width_out;
    int first_row = 0, first_column = 0;
    int row_step = 1, column_step = 1;

    int channels_in() const { return groups * depth; }
    int panels() const { return static_cast<int>(quotient_up(width, kPanel)); }
    std::int64_t terms() const { return std::int64_t{taps_h} * taps_w * depth; }
    std::int64_t pixel_out(int image, int p, int q) const {
        const std::int64_t row = std::int64_t{image} * height_out + first_row + p * row_step;
        return row * width_out + first_column + q * column_step;
    }
};

// Where the weights of a correlation lie: that of group g, tap (r, s), channel d in and j out is
// at first + g group + r row + s column + d depth + j width, one of the last two being 1.
template <class T> struct Filters {
    const T* first;
    std::int64_t group, row, column, depth, width;

    const T* at(int g, int r, int s, int d, int j) const {
        return first + g * group + r * row + s * column + d * depth + j * width;
    }
    // kLanes channels in by kLanes out, zeros where there are fewer: a vector of channels out for
    // each channel in.
    PYALEXNET_INLINE void load_block(const T* from, int deep, int wide, V (&block)[kLanes]) const {
        const int vectors = width == 1 ? deep : wide;
        const int lanes = width == 1 ? wide : deep;
        const std::int64_t pitch = width == 1 ? depth : width;
        for (int i = 0; i < kLanes; ++i) {
            if (i >= vectors)
                block[i] = V{};
            else if (lanes >= kLanes)
                block[i] = load(from + i * pitch);
            else
                block[i] = load_some(from + i * pitch, lanes);
        }
        if (width != 1) transpose(block);
    }
};

// Packs `deep` channels in, at most kLanes, and `wide` channels out, at most kPanel, from those at
// `from` on: a row of kPanel for each channel in.
template <class T> PYALEXNET_INLINE void pack_rows(const Filters<T>& filters, const T* from,
                                                   int deep, int wide, float* to) {
    for (int half = 0; half < kPanel; half += kLanes) {
        V block[kLanes];
        filters.load_block(from + half * filters.width, deep, std::clamp(wide - half, 0, kLanes),
                           block);
        for (int i = 0; i < deep; ++i) store(to + i * kPanel + half, block[i]);
    }
}

inline Correlation fprop_correlation(const ConvShape& s) {
    Correlation c{};
    c.images = s.images;
    c.groups = s.groups;
    c.depth = s.channels / s.groups;
    c.width = s.filters / s.groups;
    c.height_in = s.height;
    c.width_in = s.width;
    c.rows = c.height_out = s.out_height;
    c.columns = c.width_out = s.out_width;
    c.taps_h = s.filter_h;
    c.taps_w = s.filter_w;
    c.step_h = s.stride_h;
    c.step_w = s.stride_w;
    c.top = s.pad_top;
    c.left = s.pad_left;
    return c;
}

template <class T> Filters<T> fprop_filters(const T* w, const ConvShape& s) {
    const std::int64_t channels = s.channels / s.groups;
    return {w, s.filters / s.groups * s.taps(), s.filter_w * channels, channels, 1, s.taps()};
}

// Along one axis: the pixels that a phase of dgrad computes, first + p stride, and the taps that
// see them: lowest, lowest + stride, .., where lowest is (first + pad) % stride.
struct Phase {
    int pixels; // 0 in some phases of short axes
    int lowest, taps;
    int top; // of the correlation: of dy, as the turned taps see it
};

inline Phase phase_of(int first, int length, int stride, int pad, int filter) {
    const int padded = first + pad;
    const int lowest = padded % stride;
    const int taps = lowest < filter ? (filter - lowest - 1) / stride + 1 : 0;
    return {first < length ? (length - first - 1) / stride + 1 : 0, lowest, taps,
            taps - 1 - padded / stride};
}

inline Correlation dgrad_correlation(const ConvShape& s, int first_row, int first_column) {
    const Phase down = phase_of(first_row, s.height, s.stride_h, s.pad_top, s.filter_h);
    const Phase across = phase_of(first_column, s.width, s.stride_w, s.pad_left, s.filter_w);
    Correlation c{};
    c.images = s.images;
    c.groups = s.groups;
    c.depth = s.filters / s.groups;
    c.width = s.channels / s.groups;
    c.height_in = s.out_height;
    c.width_in = s.out_width;
    c.rows = down.pixels;
    c.columns = across.pixels;
    c.taps_h = down.taps;
    c.taps_w = across.taps;
    c.step_h = c.step_w = 1;
    c.top = down.top;
    c.left = across.top;
    c.height_out = s.height;
    c.width_out = s.width;
    c.first_row = first_row;
    c.first_column = first_column;
    c.row_step = s.stride_h;
    c.column_step = s.stride_w;
    return c;
}

template <class T>
Filters<T> dgrad_filters(const T* w, const ConvShape& s, int first_row, int first_column) {
    const Phase down = phase_of(first_row, s.height, s.stride_h, s.pad_top, s.filter_h);
    const Phase across = phase_of(first_column, s.width, s.stride_w, s.pad_left, s.filter_w);
    const std::int64_t channels = s.channels / s.groups, line = s.filter_w * channels;
    const T* last = w + (down.lowest + (down.taps - 1) * s.stride_h) * line +
                    (across.lowest + (across.taps - 1) * s.stride_w) * channels;
    return {
        last, s.filters / s.groups * s.taps(), -s.stride_h * line, -s.stride_w * channels, s.taps(),
        1};
}

// Calls use(first_row, first_column) for every phase of dgrad that has pixels: one, unless strided.
template <class Use> void for_each_phase(const ConvShape& s, Use use) {
    for (int row = 0; row < s.stride_h && row < s.height; ++row)
        for (int column = 0; column < s.stride_w && column < s.width; ++column) use(row, column);
}

} // namespace pyalexnet::cpu

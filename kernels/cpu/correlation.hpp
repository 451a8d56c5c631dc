// What fprop and dgrad have in common: a map is correlated with filters. fprop correlates x with w;
// dgrad correlates dy with w turned by half a turn or, with a stride, does so once for each
// position of a pixel within the stride, with the taps that see it.
#pragma once

#include <algorithm>

#include "cpu/gemm.hpp"

namespace pyalexnet::cpu {

// Along one axis, output p is the sum over taps r of input p step - before + r, 0 outside, times a
// tap.
struct Axis {
    int inputs, outputs;
    int taps, step, before;
    int length, first, stride; // of the outputs' map: p lies at first + p stride

    // Inputs that so many neighbouring outputs see.
    int seen_by(int count) const { return (count - 1) * step + taps; }
};

// Output (p, q) of an image is the sum over taps (r, s) and the group's channels of pixels of a map
// times a filter.
struct Correlation {
    int images, groups;
    int depth; // channels of a group that are summed over
    int width; // channels of a group that come out
    Axis down, across;

    int channels_in() const { return groups * depth; }
    int panels() const { return quotient_up(width, kPanel); }
    std::int64_t terms() const { return std::int64_t{down.taps} * across.taps * depth; }
    std::int64_t pixel_out(int image, int p, int q) const {
        const std::int64_t row = std::int64_t{image} * down.length + down.first + p * down.stride;
        return row * across.length + across.first + q * across.stride;
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
    const Axis down{s.height, s.out_height, s.filter_h, s.stride_h, s.pad_top, s.out_height, 0, 1};
    const Axis across{s.width, s.out_width, s.filter_w, s.stride_w, s.pad_left, s.out_width, 0, 1};
    return {s.images, s.groups, s.channels / s.groups, s.filters / s.groups, down, across};
}

template <class T> Filters<T> fprop_filters(const T* w, const ConvShape& s) {
    const std::int64_t channels = s.channels / s.groups;
    return {w, s.filters / s.groups * s.taps(), s.filter_w * channels, channels, 1, s.taps()};
}

// Calls use(correlation) for every phase of dgrad: one, unless strided. A phase computes pixels
// first, first + stride, .., which are seen by taps lowest, lowest + stride, .., where lowest is
// (first + pad) % stride.
template <class Use> void for_each_phase(const ConvShape& s, Use use) {
    const auto axis = [](int first, int outputs, int length, int filter, int stride, int pad) {
        const int padded = first + pad, lowest = padded % stride;
        const int pixels = (length - first - 1) / stride + 1;
        const int taps = lowest < filter ? (filter - lowest - 1) / stride + 1 : 0;
        return Axis{outputs, pixels, taps, 1, taps - 1 - padded / stride, length, first, stride};
    };
    for (int row = 0; row < s.stride_h && row < s.height; ++row)
        for (int column = 0; column < s.stride_w && column < s.width; ++column)
            use(Correlation{
                s.images, s.groups, s.filters / s.groups, s.channels / s.groups,
                axis(row, s.out_height, s.height, s.filter_h, s.stride_h, s.pad_top),
                axis(column, s.out_width, s.width, s.filter_w, s.stride_w, s.pad_left)});
}

template <class T>
Filters<T> dgrad_filters(const T* w, const ConvShape& s, const Correlation& phase) {
    const auto last_tap = [](const Axis& axis, int pad) {
        return (axis.first + pad) % axis.stride + (axis.taps - 1) * axis.stride;
    };
    const std::int64_t channels = phase.width, line = s.filter_w * channels;
    const T* last =
        w + last_tap(phase.down, s.pad_top) * line + last_tap(phase.across, s.pad_left) * channels;
    const std::int64_t group = phase.depth * s.taps();
    return {last, group, -s.stride_h * line, -s.stride_w * channels, s.taps(), 1};
}

} // namespace pyalexnet::cpu

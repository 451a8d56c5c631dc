// What happens in a pool's window, and what a pixel receives from the windows that hold it, for a
// vector of channels.
#pragma once

#include "cpu/lanes.hpp"
#include "pool_windows.cuh"

namespace pyalexnet::cpu {

// The first maximum of those seen, and its code. A NaN is greater than any number.
struct Maximum {
    V value;
    Ints code;

    PYALEXNET_INLINE void see(V other, Ints other_code) {
        // True also of the first NaN: no comparison with a NaN holds.
        const Ints larger = ~(other <= value) & (value == value);
        value = select(larger, other, value);
        code = select(larger, other_code, code);
    }
};

// How many things there are down and across, and how many pixels a side a window has: compile-time
// constants where they are not 0.
template <int kDown, int kAcross, int kSize> struct Counts {
    static constexpr int known = kDown * kAcross; // how many in all, or 0

    int down_, across_, size_;

    PYALEXNET_INLINE int down() const { return kDown ? kDown : down_; }
    PYALEXNET_INLINE int across() const { return kAcross ? kAcross : across_; }
    PYALEXNET_INLINE int size() const { return kSize ? kSize : size_; }
};

// Calls body(counts), with all of them as constants where there are two numbers to choose from on
// each side, `low` and the next: the loops over them are then unrolled.
template <int kLow, int kSize, class Body>
PYALEXNET_INLINE void with_counts(int down, int across, int size, Body body) {
    constexpr int high = kLow + 1;
    const bool known = kSize == 0 || size == kSize;
    if (known && down == high && across == high) return body(Counts<high, high, kSize>{0, 0, size});
    if (known && down == high && across == kLow) return body(Counts<high, kLow, kSize>{0, 0, size});
    if (known && down == kLow && across == high) return body(Counts<kLow, high, kSize>{0, 0, size});
    if (known && down == kLow && across == kLow) return body(Counts<kLow, kLow, kSize>{0, 0, size});
    body(Counts<0, 0, 0>{down, across, size});
}

// Counts of a window's pixels: the networks' 3 x 3, of which the image may clip one at a side.
template <class Body>
PYALEXNET_INLINE void with_pixels(Span down, Span across, int size, Body body) {
    with_counts<2, 3>(down.length(), across.length(), size, body);
}

// Counts of the windows that hold a pixel: one or two a side where these overlap by one pixel.
template <class Body>
PYALEXNET_INLINE void with_windows(Span down, Span across, int size, Body body) {
    with_counts<1, 0>(down.length(), across.length(), size, body);
}

// Calls body(w, across) for pixels [first, end) of a row: the windows across that hold each.
template <class Body>
PYALEXNET_INLINE void by_pixels(int first, int end, const PoolShape& g, Body body) {
    Span across = windows_of_pixel(first, g.size, g.stride, g.out_width);
    for (int w = first; w < end; ++w) {
        body(w, across);
        // The windows of the next pixel: at most one fewer before, and one more after.
        if (across.first * std::int64_t{g.stride} + g.size <= w + 1) ++across.first;
        if (across.end < g.out_width && across.end * std::int64_t{g.stride} <= w + 1) ++across.end;
    }
}

// The gradient that a vector of n channels of pixel (h, w) receives from the windows that chose it,
// so many from (p, q) on. `where` is that of window (0, 0); passed(place) belongs to the window
// `place` elements after it.
template <class Where, class Counts, class N, class Passed>
PYALEXNET_INLINE V received(const Where* where, int p, int q, Counts counts, int h, int w,
                            const PoolShape& g, N n, Passed passed) {
    V sum{};
    for (int i = 0; i < counts.down(); ++i) {
        for (int j = 0; j < counts.across(); ++j) {
            const std::int64_t place = (std::int64_t{p + i} * g.out_width + q + j) * g.channels;
            const int own = (h - (p + i) * g.stride) * g.size + (w - (q + j) * g.stride);
            const Ints chosen = load_ints(where + place, n) == splat(own);
            sum += select(chosen, passed(place), V{});
        }
    }
    return sum;
}

} // namespace pyalexnet::cpu

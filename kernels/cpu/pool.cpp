// Max-pool and average pool (paper, section 3.4). A piece is some rows of outputs, or of pixels.
#include "cpu/windows.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

// Shapes are passed by value throughout: otherwise the compiler has to assume that a store may
// change them, and reads them again for each vector.

// Calls body(corner, out, counts) for every window of output row `row`, which counts over all
// images: the elements where its first pixel and its output lie, and the counts of its pixels.
template <class Body>
PYALEXNET_INLINE void by_windows(std::int64_t row, const PoolShape& g, Body body) {
    const std::int64_t image = row / g.out_height;
    const int p = static_cast<int>(row % g.out_height);
    const Span down = window_pixels(p, g.size, g.stride, g.height);
    const std::int64_t first_row = image * g.height + down.first;
    for (int q = 0; q < g.out_width; ++q) {
        const Span across = window_pixels(q, g.size, g.stride, g.width);
        const std::int64_t corner = (first_row * g.width + across.first) * g.channels;
        const std::int64_t out = (row * g.out_width + q) * g.channels;
        with_pixels(down, across, g.size, [&](auto counts) { body(corner, out, counts); });
    }
}

// Bound by bytes: a pixel's channels come from L1 after the first of the windows that hold it.
template <class T, class Where>
void maxima(const T* x, T* y, Where* where, std::int64_t row, PoolShape g) {
    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    by_windows(row, g, [&](std::int64_t corner, std::int64_t out, auto counts) {
        by_vectors(g.channels, [&](int c, auto n) {
            const T* line = x + corner + c;
            Maximum best{load(line, n), Ints{}};
            for (int r = 0; r < counts.down(); ++r, line += row_length) {
                for (int s = 0; s < counts.across(); ++s)
                    best.see(load(line + std::int64_t{s} * g.channels, n),
                             splat(r * counts.size() + s));
            }
            store(y + out + c, best.value, n);
            store_ints(where + out + c, best.code, n);
        });
    });
}

// A pixel's share in a mean.
PYALEXNET_INLINE float share_of(int rows, int columns) {
    return 1.0f / (static_cast<float>(rows) * static_cast<float>(columns));
}

// As maxima.
template <class T> void means(const T* x, T* y, std::int64_t row, PoolShape g) {
    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    by_windows(row, g, [&](std::int64_t corner, std::int64_t out, auto counts) {
        const float share = share_of(counts.down(), counts.across());
        by_vectors(g.channels, [&](int c, auto n) {
            const T* line = x + corner + c;
            V sum{};
            for (int r = 0; r < counts.down(); ++r, line += row_length) {
                for (int s = 0; s < counts.across(); ++s)
                    sum += load(line + std::int64_t{s} * g.channels, n);
            }
            store(y + out + c, sum * splat(share), n);
        });
    });
}

// A row of pixels, counted over all images; the windows down that hold it; where its first element,
// and its image's first output, lie.
struct PixelRow {
    int h;
    Span down;
    std::int64_t in, out;

    PixelRow(std::int64_t row, const PoolShape& g)
        : h(static_cast<int>(row % g.height)),
          down(windows_of_pixel(h, g.size, g.stride, g.out_height)), in(row * g.width * g.channels),
          out(row / g.height * g.out_height * g.out_width * g.channels) {}
};

// Bound by bytes: dx once; dy and where come from L1 after the first pixel of a window.
template <class T, class Where> void spread_maxima(const T* dy, const Where* where, const T* gate,
                                                   T* dx, PixelRow row, PoolShape g) {
    by_pixels(0, g.width, g, [&](int w, Span across) {
        const std::int64_t in = row.in + std::int64_t{w} * g.channels;
        with_windows(row.down, across, g.size, [&](auto counts) {
            by_vectors(g.channels, [&](int c, auto n) {
                const T* const from = dy + row.out + c;
                V sum =
                    received(where + row.out + c, row.down.first, across.first, counts, row.h, w, g,
                             n, [&](std::int64_t place) { return load(from + place, n); });
                if (gate) sum = select(load(gate + in + c, n) > V{}, sum, V{});
                store(dx + in + c, sum, n);
            });
        });
    });
}

// As spread_maxima.
template <class T> void spread_means(const T* dy, T* dx, PixelRow row, PoolShape g) {
    const auto share = [&](int p, int q) {
        return share_of(window_pixels(p, g.size, g.stride, g.height).length(),
                        window_pixels(q, g.size, g.stride, g.width).length());
    };
    by_pixels(0, g.width, g, [&](int w, Span across) {
        const std::int64_t in = row.in + std::int64_t{w} * g.channels;
        with_windows(row.down, across, g.size, [&](auto counts) {
            constexpr int known = decltype(counts)::known;
            V shares[known + 1]; // where they are few: once for all channels
            for (int i = 0; i < known; ++i)
                shares[i] = splat(share(row.down.first + i / counts.across(),
                                        across.first + i % counts.across()));
            by_vectors(g.channels, [&](int c, auto n) {
                V sum{};
                for (int i = 0; i < counts.down(); ++i) {
                    for (int j = 0; j < counts.across(); ++j) {
                        const int p = row.down.first + i, q = across.first + j;
                        const std::int64_t place = (std::int64_t{p} * g.out_width + q) * g.channels;
                        sum += load(dy + row.out + place + c, n) *
                               (known ? shares[i * counts.across() + j] : splat(share(p, q)));
                    }
                }
                store(dx + in + c, sum, n);
            });
        });
    });
}

template <class Work> void by_rows_of_outputs(const PoolShape& g, const Work& work) {
    const std::int64_t pixels = std::int64_t{g.stride} * g.width; // that make an output row
    parallel_rows(g.images * g.out_height, pixels * g.channels, work);
}

template <class Work> void by_rows_of_pixels(const PoolShape& g, const Work& work) {
    parallel_rows(g.images * g.height, std::int64_t{g.width} * g.channels,
                  [&](std::int64_t row) { work(PixelRow(row, g)); });
}

} // namespace

template <class T, class Where>
void maxpool_fprop(const T* x, T* y, Where* where, PoolShape shape, Stream) {
    by_rows_of_outputs(shape, [&](std::int64_t row) { maxima(x, y, where, row, shape); });
}

template <class T, class Where>
void maxpool_dgrad(const T* dy, const Where* where, const T* gate, T* dx, PoolShape shape, Stream) {
    by_rows_of_pixels(shape,
                      [&](const PixelRow& row) { spread_maxima(dy, where, gate, dx, row, shape); });
}

template <class T> void avgpool_fprop(const T* x, T* y, PoolShape shape, Stream) {
    by_rows_of_outputs(shape, [&](std::int64_t row) { means(x, y, row, shape); });
}

template <class T> void avgpool_dgrad(const T* dy, T* dx, PoolShape shape, Stream) {
    by_rows_of_pixels(shape, [&](const PixelRow& row) { spread_means(dy, dx, row, shape); });
}

PYALEXNET_FOR_ELEMENTS_AND_CODES(maxpool_fprop);
PYALEXNET_FOR_ELEMENTS_AND_CODES(maxpool_dgrad);
PYALEXNET_FOR_ELEMENTS(avgpool_fprop);
PYALEXNET_FOR_ELEMENTS(avgpool_dgrad);

} // namespace pyalexnet

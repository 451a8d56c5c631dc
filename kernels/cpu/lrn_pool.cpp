// LRN and the overlapping max-pool after it in one pass, and their gradient with both ReLUs' in
// another: what lies between stays in a worker's cache, and is never rounded. Only for norms and
// pools of the networks' form (ops.h), so that a pixel's channels are never taken in parts.
#include "cpu/lrn_rows.hpp"
#include "cpu/windows.hpp"

namespace pyalexnet {
namespace cpu {
namespace {

// Floats of a row of normalised pixels, and of the maxima across each row under a window.
constexpr int kRow = 8192;
constexpr int kMaxima = 16384;
static_assert(kLrnPoolSize * kLrnPoolChannels <= kRow && kLrnPoolChannels <= kMostChannels);
// Rows of outputs that are computed one after the other: the first window's rows are normalised for
// the outputs above, too, one row in 2 x 16.
constexpr int kBand = 16;

// The networks' norm.
using Power = Response<ThreeQuarters>;
using Norm = Normaliser<Five, ThreeQuarters>;
using NormGradient = Descent<Five, ThreeQuarters>;

// The maxima across each row under a window, for some neighbouring outputs; a row's are found once,
// for all windows that it lies in. The topmost of equal maxima is the window's first in row-major
// order.
class Maxima {
  public:
    Maxima(const PoolShape& shape, int columns)
        : size_(shape.size), stride_(shape.stride), columns_(columns), width_(shape.channels) {}

    // For row h, `pixels` of which lie at `row`.
    [[gnu::noinline]] void across(int h, const float* row, int pixels) {
        const int width = width_; // a local copy, which no store can change
        for (int q = 0; q < columns_; ++q) {
            const Span window = window_pixels(q, size_, stride_, pixels);
            float* const values = values_ + place(h, q);
            std::uint8_t* const columns_of = columns_of_ + place(h, q);
            by_vectors(width, [&](int c, auto lanes) {
                const float* const from = row + window.first * width + c;
                Maximum best{lanes.load(from), Ints{}};
                for (int s = 1; s < window.length(); ++s)
                    best.see(lanes.load(from + s * width), splat(s));
                lanes.store(values + c, best.value);
                lanes.store_codes(columns_of + c, best.code);
            });
        }
    }

    // For a row of outputs, whose windows have these rows: stores y and where.
    template <class T>
    [[gnu::noinline]] void down(Span rows, T* y, std::uint8_t* where, bool relu) const {
        const int width = width_; // a local copy, which no store can change
        for (int q = 0; q < columns_; ++q, y += width, where += width) {
            by_vectors(width, [&](int c, auto lanes) {
                Maximum best{lanes.load(values_ + place(rows.first, q) + c),
                             lanes.load_codes(columns_of_ + place(rows.first, q) + c)};
                for (int r = 1; r < rows.length(); ++r) {
                    const int at = place(rows.first + r, q) + c;
                    best.see(lanes.load(values_ + at),
                             lanes.load_codes(columns_of_ + at) + r * size_);
                }
                lanes.store(y + c, relu ? select(best.value <= V{}, V{}, best.value) : best.value);
                lanes.store_codes(where + c, best.code);
            });
        }
    }

  private:
    int place(int h, int q) const { return (h % size_ * columns_ + q) * width_; }

    const int size_, stride_, columns_, width_;
    float values_[kMaxima];
    std::uint8_t columns_of_[kMaxima]; // where in the window
};

// Outputs `columns` of rows `rows` of an image. Bound by bytes, x once.
template <class T> void pool_band(const T* x, T* y, std::uint8_t* where, const PoolShape& g,
                                  int groups, Span rows, Span columns, const Power& response,
                                  bool relu) {
    const int length = g.channels / groups;
    Norm norm({}, response, {0, length}, length);
    Maxima maxima(g, columns.length());
    alignas(64) float normalised[kRow];
    const int first_pixel = columns.first * g.stride;
    const int pixels = std::min((columns.length() - 1) * g.stride + g.size, g.width - first_pixel);
    int next = 0; // the first row of pixels whose maxima are yet to be found
    for (int p = rows.first; p < rows.end; ++p) {
        const Span down = window_pixels(p, g.size, g.stride, g.height);
        for (int h = std::max(next, down.first); h < down.end; ++h) {
            const std::int64_t pixel = std::int64_t{h} * g.width + first_pixel;
            norm.run(x + pixel * g.channels, length, std::int64_t{pixels} * groups, normalised,
                     length);
            maxima.across(h, normalised, pixels);
        }
        next = down.end;
        const std::int64_t out = (std::int64_t{p} * g.out_width + columns.first) * g.channels;
        maxima.down(down, y + out, where + out, relu);
    }
}

// What pixels [first, end) of a row receive from the windows that chose them. Compiled once,
// whatever norm the gradient then passes through.
template <class T>
[[gnu::noinline]] void receive(const T* y, const T* dy, const std::uint8_t* where, float* gradient,
                               const PoolShape& shape, int h, int first, int end) {
    const PoolShape g = shape; // a local copy, which no store can change
    const Span down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    by_pixels(first, end, g, [&](int w, Span across) {
        float* const to = gradient + (w - first) * g.channels;
        with_windows(down, across, g.size, [&](auto counts) {
            by_vectors(g.channels, [&](int c, auto lanes) {
                const auto passed = [&](std::int64_t place) {
                    const V each = lanes.load(dy + place + c);
                    return y ? select(lanes.load(y + place + c) > V{}, each, V{}) : each;
                };
                lanes.store(to + c, received(where + c, down.first, across.first, counts, h, w, g,
                                             lanes, passed));
            });
        });
    });
}

// dx of a row of pixels; y, dy and where are the image's. Bound by bytes: x and dx once, the others
// once from memory and then from L1.
template <class T> void spread_row(const T* x, const T* y, const T* dy, const std::uint8_t* where,
                                   T* dx, const PoolShape& g, int groups, int h,
                                   NormGradient& descent, bool gated) {
    alignas(64) float gradient[kStage];
    const int length = g.channels / groups;
    const int at_once = std::max(descent.rows() / groups, 1);
    for (int first = 0; first < g.width; first += at_once) {
        const int end = std::min(first + at_once, g.width);
        receive(y, dy, where, gradient, g, h, first, end);
        const std::int64_t in = std::int64_t{first} * g.channels;
        descent.run(x + in, gradient, length, dx + in, length, std::int64_t{end - first} * groups,
                    gated);
    }
}

} // namespace
} // namespace cpu

template <class T> void lrn_maxpool_fprop(const T* x, T* y, std::uint8_t* where, PoolShape g,
                                          int groups, ResponseNorm norm, bool relu, Stream) {
    const std::int64_t in = std::int64_t{g.height} * g.width * g.channels;
    const std::int64_t out = std::int64_t{g.out_height} * g.out_width * g.channels;
    const int bands = (g.out_height - 1) / cpu::kBand + 1;
    // So that their pixels fit a row, and the maxima of all its rows fit too.
    const int columns = std::min((cpu::kRow / g.channels - g.size) / g.stride + 1,
                                 cpu::kMaxima / (g.size * g.channels));
    const cpu::Power response(norm, {});
    simt::parallel(g.images * bands, [&](std::int64_t piece, int) {
        const std::int64_t image = piece / bands;
        const int band = static_cast<int>(piece % bands) * cpu::kBand;
        const Span rows{band, std::min(band + cpu::kBand, g.out_height)};
        for (int q = 0; q < g.out_width; q += columns)
            cpu::pool_band(x + image * in, y + image * out, where + image * out, g, groups, rows,
                           {q, std::min(q + columns, g.out_width)}, response, relu);
    });
}

template <class T> void lrn_maxpool_dgrad(const T* x, const T* y, const T* dy,
                                          const std::uint8_t* where, T* dx, PoolShape g, int groups,
                                          ResponseNorm norm, bool gated, Stream) {
    const int length = g.channels / groups;
    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const std::int64_t out_length = std::int64_t{g.out_height} * g.out_width * g.channels;
    const cpu::Power response(norm, {});
    cpu::parallel_rows(g.images * g.height, row_length, [&](std::int64_t first, std::int64_t end) {
        cpu::NormGradient descent({}, response, {0, length}, length);
        for (std::int64_t row = first; row < end; ++row) {
            const std::int64_t in = row * row_length, out = row / g.height * out_length;
            cpu::spread_row(x + in, y ? y + out : nullptr, dy + out, where + out, dx + in, g,
                            groups, static_cast<int>(row % g.height), descent, gated);
        }
    });
}

PYALEXNET_FOR_ELEMENTS(lrn_maxpool_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_maxpool_dgrad);

} // namespace pyalexnet

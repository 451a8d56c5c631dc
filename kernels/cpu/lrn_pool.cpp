// LRN and the overlapping max-pool after it in one pass, and their gradient with both ReLUs' in
// another: what lies between stays in a worker's cache, and is never rounded. Only for norms and
// pools of the networks' form (ops.h).
#include "cpu/lrn_rows.hpp"
#include "cpu/windows.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

// Floats of a row of normalised pixels, and of the maxima across each row under a window.
constexpr int kRow = 8192;
constexpr int kMaxima = 16384;
static_assert(kLrnPoolSize * kLrnPoolChannels <= kRow && kLrnPoolChannels <= kStage);
// Rows of outputs that are computed one after the other: the first window's rows are normalised for
// the outputs above, too, one row in 2 x 16.
constexpr int kBand = 16;

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
            by_vectors(width, [&](int c, auto n) {
                const float* const from = row + window.first * width + c;
                Maximum best{load(from, n), Ints{}};
                for (int s = 1; s < window.length(); ++s)
                    best.see(load(from + s * width, n), splat(s));
                store(values + c, best.value, n);
                store_ints(columns_of + c, best.code, n);
            });
        }
    }

    // For a row of outputs, whose windows have these rows: stores y and where.
    template <class T>
    [[gnu::noinline]] void down(Span rows, T* y, std::uint8_t* where, bool relu) const {
        const int width = width_; // a local copy, which no store can change
        for (int q = 0; q < columns_; ++q, y += width, where += width) {
            by_vectors(width, [&](int c, auto n) {
                const int first = place(rows.first, q) + c;
                Maximum best{load(values_ + first, n), load_ints(columns_of_ + first, n)};
                for (int r = 1; r < rows.length(); ++r) {
                    const int at = place(rows.first + r, q) + c;
                    best.see(load(values_ + at, n), load_ints(columns_of_ + at, n) + r * size_);
                }
                store(y + c, relu ? select(best.value <= V{}, V{}, best.value) : best.value, n);
                store_ints(where + c, best.code, n);
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
                                  int groups, Span rows, Span columns, const ResponseNorm& norm,
                                  bool relu) {
    Normaliser normaliser(Five{}, Response<ThreeQuarters>(norm, {}), g.channels / groups);
    Maxima maxima(g, columns.length());
    alignas(kCacheLine) float normalised[kRow];
    const int first_pixel = columns.first * g.stride;
    const int pixels = std::min((columns.length() - 1) * g.stride + g.size, g.width - first_pixel);
    int next = 0; // the first row of pixels whose maxima are yet to be found
    for (int p = rows.first; p < rows.end; ++p) {
        const Span down = window_pixels(p, g.size, g.stride, g.height);
        for (int h = std::max(next, down.first); h < down.end; ++h) {
            const std::int64_t pixel = std::int64_t{h} * g.width + first_pixel;
            normaliser.run(x + pixel * g.channels, std::int64_t{pixels} * groups, normalised);
            maxima.across(h, normalised, pixels);
        }
        next = down.end;
        const std::int64_t out = (std::int64_t{p} * g.out_width + columns.first) * g.channels;
        maxima.down(down, y + out, where + out, relu);
    }
}

// What pixels [first, end) of row h receive from the windows that chose them. y, dy and where are
// the image's.
template <class T>
[[gnu::noinline]] void receive(const T* y, const T* dy, const std::uint8_t* where, float* gradient,
                               const PoolShape& shape, int h, int first, int end) {
    const PoolShape g = shape; // a local copy, which no store can change
    const Span down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    by_pixels(first, end, g, [&](int w, Span across) {
        float* const to = gradient + (w - first) * g.channels;
        with_windows(down, across, g.size, [&](auto counts) {
            by_vectors(g.channels, [&](int c, auto n) {
                const auto passed = [&](std::int64_t place) {
                    const V each = load(dy + place + c, n);
                    return y ? select(load(y + place + c, n) > V{}, each, V{}) : each;
                };
                const V sum =
                    received(where + c, down.first, across.first, counts, h, w, g, n, passed);
                store(to + c, sum, n);
            });
        });
    });
}

} // namespace

template <class T> void lrn_maxpool_fprop(const T* x, T* y, std::uint8_t* where, PoolShape g,
                                          int groups, ResponseNorm norm, bool relu, Stream) {
    const std::int64_t in = std::int64_t{g.height} * g.width * g.channels;
    const std::int64_t out = std::int64_t{g.out_height} * g.out_width * g.channels;
    // So that their pixels fit a row, and the maxima of all its rows fit too.
    const int columns =
        std::min((kRow / g.channels - g.size) / g.stride + 1, kMaxima / (g.size * g.channels));
    parallel_table(g.images, quotient_up(g.out_height, kBand), [&](int image, int band, int) {
        const Span rows{band * kBand, std::min((band + 1) * kBand, g.out_height)};
        for (int q = 0; q < g.out_width; q += columns)
            pool_band(x + image * in, y + image * out, where + image * out, g, groups, rows,
                      {q, std::min(q + columns, g.out_width)}, norm, relu);
    });
}

// Bound by bytes: x and dx once, the others once from memory and then from L1.
template <class T> void lrn_maxpool_dgrad(const T* x, const T* y, const T* dy,
                                          const std::uint8_t* where, T* dx, PoolShape g, int groups,
                                          ResponseNorm norm, bool gated, Stream) {
    const std::int64_t out_length = std::int64_t{g.out_height} * g.out_width * g.channels;
    parallel_runs(g.images * g.height, std::int64_t{g.width} * g.channels,
                  [&](std::int64_t begin, std::int64_t end) {
                      Descent descent(Five{}, Response<ThreeQuarters>(norm, {}),
                                      g.channels / groups);
                      alignas(kCacheLine) float gradient[kStage];
                      const int at_once = std::max(descent.rows() / groups, 1);
                      for (std::int64_t row = begin; row < end; ++row) {
                          const auto [image, h] = cell_of(row, g.height);
                          const std::int64_t out = image * out_length;
                          for (int first = 0; first < g.width; first += at_once) {
                              const int last = std::min(first + at_once, g.width);
                              receive(y ? y + out : nullptr, dy + out, where + out, gradient, g, h,
                                      first, last);
                              const std::int64_t in = (row * g.width + first) * g.channels;
                              descent.run(x + in, gradient, dx + in,
                                          std::int64_t{last - first} * groups, gated);
                          }
                      }
                  });
}

PYALEXNET_FOR_ELEMENTS(lrn_maxpool_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_maxpool_dgrad);

} // namespace pyalexnet

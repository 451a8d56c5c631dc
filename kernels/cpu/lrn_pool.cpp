// LRN and the overlapping max-pool after it in one pass, and their gradient with both ReLUs' in
// another: what lies between stays in a worker's cache, and is never rounded.
#include "cpu/lrn_rows.hpp"
#include "cpu/windows.hpp"

namespace pyalexnet {
namespace cpu {
namespace {

// Floats of a row of normalised pixels, and of the maxima across each row under a window.
constexpr int kRow = 8192;
constexpr int kMaxima = 16384;
// Rows of outputs that are computed one after the other: the first window's rows are normalised for
// the outputs above, too, one row in 2 x 16.
constexpr int kBand = 16;

// Channels of a pixel that are processed at once: all of them, or a part of a group.
struct Part {
    int group_first; // channel of the pixel at which the group begins
    Span channels;   // of a group
    int rows;        // of a pixel: its groups, or one
    int pitch;       // channels from one row to the next

    int width() const { return rows * channels.length(); } // channels in all
    int first() const { return group_first + channels.first; }
};

// Calls use(Part): all channels at once where there are at most that many, else parts of groups.
template <class Use> void by_parts(int channels, int groups, int most, Use use) {
    const int length = channels / groups;
    if (channels <= most) return use(Part{0, {0, length}, groups, length});
    for (int group = 0; group < channels; group += length) {
        for (int first = 0; first < length; first += most)
            use(Part{group, {first, std::min(first + most, length)}, 1, channels});
    }
}

// The maxima across each row under a window, for some neighbouring outputs; a row's are found once,
// for all windows that it lies in. The topmost of equal maxima is the window's first in row-major
// order.
class Maxima {
  public:
    Maxima(const PoolShape& shape, int columns, int width)
        : size_(shape.size), stride_(shape.stride), columns_(columns), width_(width) {}

    // For row h, `pixels` of which lie at `row`. Compiled once, whatever has normalised them.
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

    // For a row of outputs, whose windows have these rows: stores y and where, `pitch` elements
    // from one output to the next.
    template <class T, class Where>
    [[gnu::noinline]] void down(Span rows, T* y, Where* where, int pitch, bool relu) const {
        const int width = width_;
        for (int q = 0; q < columns_; ++q, y += pitch, where += pitch) {
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

// Outputs [first, end) of rows p of an image, for a part of the channels. Bound by bytes, x once.
template <class T, class Where, class Window, class Power>
void pool_band(const T* x, T* y, Where* where, const PoolShape& g, Span rows, Span columns,
               const Part& part, Window window, const Response<Power>& response, int length,
               bool relu) {
    Normaliser normaliser(window, response, part.channels, length);
    Maxima maxima(g, columns.length(), part.width());
    alignas(64) float normalised[kRow];
    const int first_pixel = columns.first * g.stride;
    const int pixels = std::min((columns.length() - 1) * g.stride + g.size, g.width - first_pixel);
    int next = 0; // the first row of pixels whose maxima are yet to be found
    for (int p = rows.first; p < rows.end; ++p) {
        const Span down = window_pixels(p, g.size, g.stride, g.height);
        for (int h = std::max(next, down.first); h < down.end; ++h) {
            const std::int64_t pixel = std::int64_t{h} * g.width + first_pixel;
            normaliser.run(x + pixel * g.channels + part.group_first, part.pitch,
                           std::int64_t{pixels} * part.rows, normalised, part.channels.length());
            maxima.across(h, normalised, pixels);
        }
        next = down.end;
        const std::int64_t output = std::int64_t{p} * g.out_width + columns.first;
        const std::int64_t out = output * g.channels + part.first();
        maxima.down(down, y + out, where + out, g.channels, relu);
    }
}

// What pixels [first, end) of a row receive from the windows that chose them, `width` channels
// each. y, dy and where begin at the first of these channels. Compiled once, whatever norm the
// gradient then passes through.
template <class T, class Where>
[[gnu::noinline]] void receive(const T* y, const T* dy, const Where* where, float* gradient,
                               const PoolShape& shape, int h, int first, int end, int width) {
    const PoolShape g = shape; // a local copy, which no store can change
    const Span down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    by_pixels(first, end, g, [&](int w, Span across) {
        float* const to = gradient + (w - first) * width;
        with_windows(down, across, g.size, [&](auto counts) {
            by_vectors(width, [&](int c, auto lanes) {
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

// dx of a row of pixels, for a part of the channels; y, dy and where are the image's. Bound by
// bytes: x and dx once, the others once from memory and then from L1.
template <class T, class Where, class Descent>
void spread_row(const T* x, const T* y, const T* dy, const Where* where, T* dx, const PoolShape& g,
                int h, const Part& part, Descent& descent, bool gated) {
    alignas(64) float gradient[kStage];
    const int staged = descent.staged().length();
    const int at_once = std::max(descent.rows() / part.rows, 1);
    const std::int64_t skipped = part.group_first + descent.staged().first;
    for (int first = 0; first < g.width; first += at_once) {
        const int end = std::min(first + at_once, g.width);
        receive(y ? y + skipped : nullptr, dy + skipped, where + skipped, gradient, g, h, first,
                end, part.rows * staged);
        const std::int64_t in = std::int64_t{first} * g.channels + part.group_first;
        descent.run(x + in, gradient, staged, dx + in, part.pitch,
                    std::int64_t{end - first} * part.rows, gated);
    }
}

// Any window of channels: a row of outputs, or of pixels, one element after the other.
template <class T, class Where> void pool_far(const T* x, T* y, Where* where, std::int64_t row,
                                              const PoolShape& g, const FarReaching& far,
                                              bool relu) {
    const std::int64_t image = row / g.out_height;
    const Span down =
        window_pixels(static_cast<int>(row % g.out_height), g.size, g.stride, g.height);
    for (int q = 0; q < g.out_width; ++q) {
        const Span across = window_pixels(q, g.size, g.stride, g.width);
        for (int channel = 0; channel < g.channels; ++channel) {
            float best = 0.0f;
            int code = -1;
            for (int r = 0; r < down.length(); ++r) {
                for (int s = 0; s < across.length(); ++s) {
                    const std::int64_t line = image * g.height + down.first + r;
                    const T* const pixel = x + (line * g.width + across.first + s) * g.channels;
                    const int c = channel % far.length;
                    const float value = far.value(pixel + channel - c, c);
                    // True also of the first NaN: no comparison with a NaN holds.
                    if (code < 0 || (best == best && !(value <= best))) {
                        best = value;
                        code = r * g.size + s;
                    }
                }
            }
            const std::int64_t out = (row * g.out_width + q) * g.channels + channel;
            y[out] = narrow_one<T>(relu && best <= 0.0f ? 0.0f : best);
            where[out] = static_cast<Where>(code);
        }
    }
}

template <class T, class Where>
void spread_far(const T* x, const T* y, const T* dy, const Where* where, T* dx, std::int64_t row,
                const PoolShape& g, const FarReaching& far, bool gated) {
    const int h = static_cast<int>(row % g.height);
    const std::int64_t image = row / g.height * g.out_height * g.out_width * g.channels;
    const Span down = windows_of_pixel(h, g.size, g.stride, g.out_height);
    by_pixels(0, g.width, g, [&](int w, Span across) {
        const std::int64_t pixel = (row * g.width + w) * g.channels;
        for (int channel = 0; channel < g.channels; ++channel) {
            const int c = channel % far.length, group = channel - c;
            const auto gradient = [&](int j) {
                const std::int64_t at = image + group + j;
                const Counts<0, 0, 0> counts{down.length(), across.length(), g.size};
                const auto passed = [&](std::int64_t place) {
                    const bool passes = !y || widen_one(y[at + place]) > 0.0f;
                    return splat(passes ? widen_one(dy[at + place]) : 0.0f);
                };
                return received(where + at, down.first, across.first, counts, h, w, g, First{1},
                                passed)[0];
            };
            const bool open = !gated || widen_one(x[pixel + channel]) > 0.0f;
            dx[pixel + channel] =
                narrow_one<T>(open ? far.slope(x + pixel + group, c, gradient) : 0.0f);
        }
    });
}

} // namespace
} // namespace cpu

template <class T, class Where> void lrn_maxpool_fprop(const T* x, T* y, Where* where, PoolShape g,
                                                       int groups, ResponseNorm norm, bool relu,
                                                       Stream) {
    const int length = g.channels / groups;
    const cpu::FarReaching far(norm, length);
    if (far.needed()) {
        return simt::parallel(g.images * g.out_height, [&](std::int64_t row, int) {
            cpu::pool_far(x, y, where, row, g, far, relu);
        });
    }
    const std::int64_t in = std::int64_t{g.height} * g.width * g.channels;
    const std::int64_t out = std::int64_t{g.out_height} * g.out_width * g.channels;
    const int bands = (g.out_height - 1) / cpu::kBand + 1;
    // So that one window's pixels fit a row, and the maxima of all its rows fit too.
    const int most = std::min(cpu::kRow / g.size / cpu::kLanes * cpu::kLanes, cpu::kMostChannels);
    cpu::with_forms(norm, length, [&](auto window, auto response) {
        simt::parallel(g.images * bands, [&](std::int64_t piece, int) {
            const std::int64_t image = piece / bands;
            const int band = static_cast<int>(piece % bands) * cpu::kBand;
            const Span rows{band, std::min(band + cpu::kBand, g.out_height)};
            cpu::by_parts(g.channels, groups, most, [&](const cpu::Part& part) {
                const int room = (cpu::kRow / part.width() - g.size) / g.stride + 1;
                const int columns = std::min(room, cpu::kMaxima / (g.size * part.width()));
                for (int q = 0; q < g.out_width; q += columns)
                    cpu::pool_band(x + image * in, y + image * out, where + image * out, g, rows,
                                   {q, std::min(q + columns, g.out_width)}, part, window, response,
                                   length, relu);
            });
        });
    });
}

template <class T, class Where>
void lrn_maxpool_dgrad(const T* x, const T* y, const T* dy, const Where* where, T* dx, PoolShape g,
                       int groups, ResponseNorm norm, bool gated, Stream) {
    const int length = g.channels / groups;
    const cpu::FarReaching far(norm, length);
    if (far.needed()) {
        return simt::parallel(g.images * g.height, [&](std::int64_t row, int) {
            cpu::spread_far(x, y, dy, where, dx, row, g, far, gated);
        });
    }
    const std::int64_t row_length = std::int64_t{g.width} * g.channels;
    const std::int64_t out_length = std::int64_t{g.out_height} * g.out_width * g.channels;
    cpu::with_forms(norm, length, [&](auto window, auto response) {
        cpu::parallel_rows(
            g.images * g.height, row_length, [&](std::int64_t first, std::int64_t end) {
                cpu::by_parts(g.channels, groups, cpu::kMostChannels, [&](const cpu::Part& part) {
                    cpu::Descent descent(window, response, part.channels, length);
                    for (std::int64_t row = first; row < end; ++row) {
                        const std::int64_t in = row * row_length, out = row / g.height * out_length;
                        cpu::spread_row(x + in, y ? y + out : nullptr, dy + out, where + out,
                                        dx + in, g, static_cast<int>(row % g.height), part, descent,
                                        gated);
                    }
                });
            });
    });
}

template void lrn_maxpool_fprop(const float*, float*, std::uint8_t*, PoolShape, int, ResponseNorm,
                                bool, Stream);
template void lrn_maxpool_fprop(const float*, float*, std::uint16_t*, PoolShape, int, ResponseNorm,
                                bool, Stream);
template void lrn_maxpool_fprop(const bf16*, bf16*, std::uint8_t*, PoolShape, int, ResponseNorm,
                                bool, Stream);
template void lrn_maxpool_fprop(const bf16*, bf16*, std::uint16_t*, PoolShape, int, ResponseNorm,
                                bool, Stream);
template void lrn_maxpool_dgrad(const float*, const float*, const float*, const std::uint8_t*,
                                float*, PoolShape, int, ResponseNorm, bool, Stream);
template void lrn_maxpool_dgrad(const float*, const float*, const float*, const std::uint16_t*,
                                float*, PoolShape, int, ResponseNorm, bool, Stream);
template void lrn_maxpool_dgrad(const bf16*, const bf16*, const bf16*, const std::uint8_t*, bf16*,
                                PoolShape, int, ResponseNorm, bool, Stream);
template void lrn_maxpool_dgrad(const bf16*, const bf16*, const bf16*, const std::uint16_t*, bf16*,
                                PoolShape, int, ResponseNorm, bool, Stream);

} // namespace pyalexnet

// Network inputs from stored images of bytes: crop, mirror, mean and colour in one pass. A piece is
// some rows of padded crops.
#include "bf16.cuh"
#include "cpu/lanes.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

// Where a row of a crop comes from, for the pixels from the crop's first on: `step` elements apart,
// backwards in a mirrored image.
struct Source {
    const std::uint8_t* x;
    std::int64_t step;
    const float* mean;
    std::int64_t mean_step;
    const float* shifts;
    float scale;
};

// Pixels of a row that are computed at once, of three channels, so that these fill vectors.
constexpr int kPixels = 64;
static_assert(kPixels % kLanes == 0, "shifts would not begin anew with each vector of pixels");

// `count` pixels from `from` on, `step` elements apart: in place, or copied side by side.
template <class Number> PYALEXNET_INLINE const Number*
side_by_side(const Number* from, std::int64_t step, int count, Number (&room)[3 * kPixels]) {
    if (step == 3) return from;
    for (int w = 0; w < count; ++w)
        for (int c = 0; c < 3; ++c) room[w * 3 + c] = from[w * step + c];
    return room;
}

// `count` pixels, at most kPixels, from the crop's pixel `first` on; `shifts` are those of kLanes
// pixels. Bound by instructions.
template <class T> PYALEXNET_INLINE void crop_vectors(const Source& from, const float* shifts,
                                                      int first, int count, T* y) {
    std::uint8_t bytes[3 * kPixels];
    float means[3 * kPixels];
    const std::uint8_t* const x = side_by_side(from.x + first * from.step, from.step, count, bytes);
    const float* const mean =
        side_by_side(from.mean + first * from.mean_step, from.mean_step, count, means);
    for (int w = 0; w < 3 * count; w += 3 * kLanes)
        for (int i = 0; i < 3 * kLanes; i += kLanes) {
            const V number = __builtin_convertvector(load_ints(x + w + i, kLanes), V);
            store(y + w + i, (number - load(mean + w + i) + load(shifts + i)) * from.scale);
        }
}

// `count` pixels, of any number of channels.
template <class T> void crop_pixels(const Source& from, int first, int count, int channels, T* y) {
    const std::uint8_t* x = from.x + first * from.step;
    const float* mean = from.mean + first * from.mean_step;
    for (int w = 0; w < count; ++w, x += from.step, mean += from.mean_step, y += channels)
        for (int c = 0; c < channels; ++c)
            y[c] = narrow<T>((static_cast<float>(x[c]) - mean[c] + from.shifts[c]) * from.scale);
}

// Pixels [first, end) of the padded crop's row that has place `a` in its squares, at y + `out`.
// inside: of the crop, not of what is around it.
template <class T, class Write>
void by_squares(int first, int end, int a, const CropShape& g, T* y, Write write) {
    if (g.block == 1) return write(first, end - first, y + std::int64_t{first} * g.channels);
    while (first < end) {
        const int b = first % g.block;
        const int count = std::min(g.block - b, end - first);
        const std::int64_t square = std::int64_t{first / g.block} * g.block * g.block;
        write(first, count, y + (square + std::int64_t{a} * g.block + b) * g.channels);
        first += count;
    }
}

} // namespace

template <class T> void augment(const std::uint8_t* x, const float* mean,
                                const std::int32_t* corners, const std::uint8_t* flips,
                                const float* shifts, T* y, CropShape g, float scale,
                                bool mean_at_pixel, Stream) {
    const int height = g.rows * g.block, width = g.columns * g.block; // with the zeros
    const int down = g.stored_height - g.height, across = g.stored_width - g.width;
    const std::int64_t stored = std::int64_t{g.stored_width} * g.channels; // elements of a row
    const std::int64_t out = std::int64_t{width} * g.block * g.channels;   // of a row of squares

    parallel_rows(g.images * height, std::int64_t{width} * g.channels, [&](std::int64_t padded) {
        const auto [image, padded_row] = cell_of(padded, height);
        T* const to = y + (image * std::int64_t{g.rows} + padded_row / g.block) * out;
        const int a = padded_row % g.block;
        const auto zero = [&](int, int count, T* pixels) {
            std::fill_n(pixels, std::int64_t{count} * g.channels, T{});
        };
        const int h = padded_row - g.pad_top;
        if (h < 0 || h >= g.height) return by_squares(0, width, a, g, to, zero);

        // Corners are clamped so that the crop lies inside the image: nothing else checks them.
        const bool mirrored = flips[image] != 0;
        const int row = std::clamp(corners[2 * image], 0, down) + h;
        const int column =
            std::clamp(corners[2 * image + 1], 0, across) + (mirrored ? g.width - 1 : 0);
        const int mean_row = mean_at_pixel ? row : down / 2 + h;
        const int mean_column = mean_at_pixel ? column : across / 2;
        const std::int64_t step = mirrored ? -g.channels : g.channels;
        const Source from{x + (std::int64_t{image} * g.stored_height + row) * stored +
                              std::int64_t{column} * g.channels,
                          step,
                          mean + mean_row * stored + std::int64_t{mean_column} * g.channels,
                          mean_at_pixel ? step : g.channels,
                          shifts + std::int64_t{image} * g.channels,
                          scale};
        by_squares(0, g.pad_left, a, g, to, zero);
        int w = g.pad_left;
        if (g.channels == 3) {
            float three[3 * kLanes];
            for (int i = 0; i < 3 * kLanes; ++i) three[i] = from.shifts[i % 3];
            for (const int end = w + g.width / kLanes * kLanes; w < end;) {
                T made[3 * kPixels];
                const int pixels = std::min(kPixels, end - w);
                crop_vectors(from, three, w - g.pad_left, pixels, made);
                by_squares(w, w + pixels, a, g, to, [&](int first, int count, T* put) {
                    std::copy_n(made + 3 * (first - w), 3 * count, put);
                });
                w += pixels;
            }
        }
        by_squares(w, g.pad_left + g.width, a, g, to, [&](int first, int count, T* pixels) {
            crop_pixels(from, first - g.pad_left, count, g.channels, pixels);
        });
        by_squares(g.pad_left + g.width, width, a, g, to, zero);
    });
}

PYALEXNET_FOR_ELEMENTS(augment);

} // namespace pyalexnet

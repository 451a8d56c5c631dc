// Response normalisation within a map: a channel's square window of pixels. A piece is some rows of
// pixels, or an image. A window's sum is taken afresh for each pixel, as in lrn_rows.hpp.
#include "cpu/response.hpp"
#include "pool_windows.cuh"

namespace pyalexnet {
using namespace cpu;
namespace {

struct Maps {
    int height, width, channels;

    std::int64_t row_length() const { return std::int64_t{width} * channels; }
    std::int64_t image_length() const { return height * row_length(); }
    Reach reach(int size) const { return reach_of(size, std::max(height, width)); }
};

// The pixels from `before` to `after` around pixel i of `length`.
Span around(int i, int before, int after, int length) {
    return {std::max(i - before, 0), std::min(i + after, length - 1) + 1};
}

constexpr auto square = [](V value) PYALEXNET_LAMBDA { return value * value; };
constexpr auto same = [](V value) PYALEXNET_LAMBDA { return value; };

// Calls body(i, n, sum) for the vectors of row h of an image: n channels from element i on, and the
// sum of map(numbers) over the windows around them, row by row. Bound by L1: size^2 reads an
// element.
template <class T, class Map, class Body> PYALEXNET_INLINE void
by_windows(const T* image, int h, Maps maps, int before, int after, Map map, Body body) {
    const Span down = around(h, before, after, maps.height);
    for (int w = 0; w < maps.width; ++w) {
        const Span across = around(w, before, after, maps.width);
        const std::int64_t pixel = h * maps.row_length() + std::int64_t{w} * maps.channels;
        by_vectors(maps.channels, [&](int c, auto n) {
            V sum{};
            const T* line = image + c + down.first * maps.row_length();
            for (int y = down.first; y < down.end; ++y, line += maps.row_length()) {
                for (int x = across.first; x < across.end; ++x)
                    sum += map(load(line + std::int64_t{x} * maps.channels, n));
            }
            body(pixel + c, n, sum);
        });
    }
}

// dx of an image. `first` holds the first term of dx, dy s^-beta, of its elements, `passed` what
// they pass on.
template <class T, class Power> void descend(const T* x, const T* dy, T* dx, float* first,
                                             float* passed, Maps maps, Reach reach,
                                             Response<Power> response) {
    for (int h = 0; h < maps.height; ++h)
        by_windows(
            x, h, maps, reach.before, reach.after, square, [=](std::int64_t i, auto n, V sum) {
                const Powers powers = response.powers(response.scale(sum));
                const V first_term = load(dy + i, n) * powers.power;
                store(first + i, first_term, n);
                store(passed + i, response.passed(first_term, load(x + i, n), powers.root), n);
            });
    for (int h = 0; h < maps.height; ++h)
        by_windows(passed, h, maps, reach.after, reach.before, same,
                   [=](std::int64_t i, auto n, V sum) {
                       store(dx + i, response.descend(load(first + i, n), load(x + i, n), sum), n);
                   });
}

} // namespace

template <class T> void rnorm_fprop(const T* x, T* y, std::int64_t images, int height, int width,
                                    int channels, ResponseNorm norm, Stream) {
    const Maps maps{height, width, channels};
    const Reach reach = maps.reach(norm.size);
    with_response(norm, [&](auto response) {
        parallel_rows(images * height, maps.row_length(), [&](std::int64_t row) {
            const Cell at = cell_of(row, height);
            const T* const from = x + at.row * maps.image_length();
            T* const to = y + at.row * maps.image_length();
            by_windows(from, at.column, maps, reach.before, reach.after, square,
                       [=](std::int64_t i, auto n, V sum) {
                           const V power = response.powers(response.scale(sum)).power;
                           store(to + i, load(from + i, n) * power, n);
                       });
        });
    });
}

// For one image per worker: it stays in the worker's cache.
std::size_t rnorm_dgrad_workspace(std::int64_t images, int height, int width, int channels) {
    const std::int64_t at_once = images == 1 ? 1 : simt::workers();
    return 2 * sizeof(float) *
           static_cast<std::size_t>(at_once * Maps{height, width, channels}.image_length());
}

template <class T> void rnorm_dgrad(const T* x, const T* dy, T* dx, std::int64_t images, int height,
                                    int width, int channels, ResponseNorm norm, void* workspace,
                                    Stream) {
    const Maps maps{height, width, channels};
    const std::int64_t length = maps.image_length();
    with_response(norm, [&](auto response) {
        simt::parallel(images, [&](std::int64_t image, int worker) {
            float* const first = static_cast<float*>(workspace) + 2 * length * worker;
            const std::int64_t at = image * length;
            descend(x + at, dy + at, dx + at, first, first + length, maps, maps.reach(norm.size),
                    response);
        });
    });
}

PYALEXNET_FOR_ELEMENTS(rnorm_fprop);
PYALEXNET_FOR_ELEMENTS(rnorm_dgrad);

} // namespace pyalexnet

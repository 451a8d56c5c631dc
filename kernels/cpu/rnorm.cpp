// Response normalisation within a map: a channel's square window of pixels. A piece is some rows of
// pixels, or an image. A window's sum is taken afresh for each pixel, as in lrn_rows.hpp.
#include "cpu/response.hpp"
#include "pool_windows.cuh"

namespace pyalexnet {
namespace cpu {
namespace {

struct Maps {
    std::int64_t images;
    int height, width, channels;

    std::int64_t row_length() const { return std::int64_t{width} * channels; }
    std::int64_t image_length() const { return height * row_length(); }
};

Reach reach_in(const Maps& maps, int size) {
    return reach_of(size, std::max(maps.height, maps.width));
}

// The pixels from `before` to `after` around pixel i of `length`.
Span around(int i, int before, int after, int length) {
    return {std::max(i - before, 0), std::min(i + after, length - 1) + 1};
}

// Sum of map(numbers) over a window, row by row; numbers are those of the vector's channels in the
// image's first pixel.
template <class T, class Lanes, class Map>
PYALEXNET_INLINE V window_sum(const T* numbers, Span down, Span across, const Maps& maps,
                              Lanes lanes, Map map) {
    V sum{};
    const T* line = numbers + down.first * maps.row_length();
    for (int h = down.first; h < down.end; ++h, line += maps.row_length()) {
        for (int w = across.first; w < across.end; ++w)
            sum += map(lanes.load(line + std::int64_t{w} * maps.channels));
    }
    return sum;
}

// Calls body(i, c, lanes, s) for the vectors of row h of an image: pixel i's place in it, channel
// c. Bound by L1: size^2 reads an element.
template <class T, class Power, class Body> PYALEXNET_INLINE void
by_scales(const T* image, int h, Maps maps, Reach reach, Response<Power> response, Body body) {
    const Span down = around(h, reach.before, reach.after, maps.height);
    for (int w = 0; w < maps.width; ++w) {
        const Span across = around(w, reach.before, reach.after, maps.width);
        const std::int64_t i = h * maps.row_length() + std::int64_t{w} * maps.channels;
        by_vectors(maps.channels, [&](int c, auto lanes) {
            const V squares = window_sum(image + c, down, across, maps, lanes,
                                         [](V value) { return value * value; });
            body(i + c, lanes, response.scale(squares));
        });
    }
}

// dx of an image. `first` holds the first term of dx, dy s^-beta, of its elements, `passed` what
// they pass on.
template <class T, class Power> void descend(const T* x, const T* dy, T* dx, float* first,
                                             float* passed, Maps maps, Reach reach,
                                             Response<Power> response) {
    for (int h = 0; h < maps.height; ++h) {
        by_scales(x, h, maps, reach, response, [&](std::int64_t i, auto lanes, V s) {
            const Powers powers = response.powers(s);
            const V first_term = lanes.load(dy + i) * powers.power;
            lanes.store(first + i, first_term);
            lanes.store(passed + i, response.passed(first_term, lanes.load(x + i), powers.root));
        });
    }
    for (int h = 0; h < maps.height; ++h) {
        const Span down = around(h, reach.after, reach.before, maps.height);
        for (int w = 0; w < maps.width; ++w) {
            const Span across = around(w, reach.after, reach.before, maps.width);
            const std::int64_t at = h * maps.row_length() + std::int64_t{w} * maps.channels;
            by_vectors(maps.channels, [&](int c, auto lanes) {
                const V sum = window_sum(passed + c, down, across, maps, lanes,
                                         [](V value) { return value; });
                const std::int64_t i = at + c;
                lanes.store(dx + i,
                            response.descend(lanes.load(first + i), lanes.load(x + i), sum));
            });
        }
    }
}

} // namespace
} // namespace cpu

template <class T> void rnorm_fprop(const T* x, T* y, std::int64_t images, int height, int width,
                                    int channels, ResponseNorm norm, Stream) {
    const cpu::Maps maps{images, height, width, channels};
    const Reach reach = cpu::reach_in(maps, norm.size);
    cpu::with_response(norm, [&](auto response) {
        cpu::parallel_rows(
            images * height, maps.row_length(), [&](std::int64_t first, std::int64_t end) {
                for (std::int64_t row = first; row < end; ++row) {
                    const std::int64_t image = row / height * maps.image_length();
                    cpu::by_scales(x + image, static_cast<int>(row % height), maps, reach, response,
                                   [&](std::int64_t i, auto lanes, cpu::V s) {
                                       const cpu::V own = lanes.load(x + image + i);
                                       lanes.store(y + image + i, own * response.powers(s).power);
                                   });
                }
            });
    });
}

// For one image per worker: it stays in the worker's cache.
std::size_t rnorm_dgrad_workspace(std::int64_t images, int height, int width, int channels) {
    const cpu::Maps maps{images, height, width, channels};
    const std::int64_t at_once = images == 1 ? 1 : simt::workers();
    return 2 * sizeof(float) * static_cast<std::size_t>(at_once * maps.image_length());
}

template <class T> void rnorm_dgrad(const T* x, const T* dy, T* dx, std::int64_t images, int height,
                                    int width, int channels, ResponseNorm norm, void* workspace,
                                    Stream) {
    const cpu::Maps maps{images, height, width, channels};
    const Reach reach = cpu::reach_in(maps, norm.size);
    const std::int64_t length = maps.image_length();
    cpu::with_response(norm, [&](auto response) {
        simt::parallel(images, [&](std::int64_t image, int worker) {
            float* const first = static_cast<float*>(workspace) + 2 * length * worker;
            const std::int64_t at = image * length;
            cpu::descend(x + at, dy + at, dx + at, first, first + length, maps, reach, response);
        });
    });
}

PYALEXNET_FOR_ELEMENTS(rnorm_fprop);
PYALEXNET_FOR_ELEMENTS(rnorm_dgrad);

} // namespace pyalexnet

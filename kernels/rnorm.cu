// Response normalisation within a map: a channel's square window of pixels. The released 2012 net
// has it after its second LRN.
//
// A window's sum is taken afresh for each pixel, as in lrn.cu.
#include "response.cuh"
#include "rows.cuh"

#include <algorithm>

namespace pyalexnet {
namespace {

struct Maps {
    std::int64_t images;
    int height, width, channels;
};

// Calls use(place, row, element) for the rows of a thread's band: the pixels that two windows share
// are then still in L1.
template <class Use> __device__ __forceinline__ void walk_down(const Maps& maps, const Use& use) {
    const RowPlace at = row_place(bands_of(maps.height), maps.width, maps.channels);
    if (at.column == maps.width) return;
    const int first = at.row * kBand, end = first + min(kBand, maps.height - first);
    for (int row = first; row < end; ++row)
        use(at, row,
            ((at.image * maps.height + row) * maps.width + at.column) * maps.channels + at.channel);
}

// Sum of map(values) over the pixels that lie up to `up` before and `down` after a pixel along
// both axes, row by row.
template <class T, class Map>
__device__ __forceinline__ float window_sum(const T* __restrict__ values, const RowPlace& at,
                                            int row, const Maps& maps, int up, int down,
                                            const Map& map) {
    const int from_row = max(row - up, 0), to_row = min(row + down, maps.height - 1);
    const int from_column = max(at.column - up, 0);
    const int to_column = min(at.column + down, maps.width - 1);
    float sum = 0.0f;
    for (int h = from_row; h <= to_row; ++h) {
        const T* line =
            values + (at.image * maps.height + h) * maps.width * maps.channels + at.channel;
        for (int w = from_column; w <= to_column; ++w)
            sum += map(widen(line[std::int64_t{w} * maps.channels]));
    }
    return sum;
}

// The sum s of a pixel's window.
template <class T> __device__ __forceinline__ float window_scale(const T* __restrict__ x,
                                                                 const RowPlace& at, int row,
                                                                 const Maps& maps, Reach reach,
                                                                 const ResponseNorm& norm) {
    const auto square = [](float value) { return value * value; };
    return norm.k + norm.alpha * window_sum(x, at, row, maps, reach.before, reach.after, square);
}

// A thread normalises one channel of one column down a band of rows, a block up to 256 neighbouring
// floats of them; channels move fastest. Bound by L1: size^2 reads an element.
template <class T> __global__ void rnorm_fprop_kernel(const T* __restrict__ x, T* __restrict__ y,
                                                      Maps maps, Reach reach, Steps steps) {
    walk_down(maps, [&](const RowPlace& at, int row, std::int64_t i) {
        const float s = window_scale(x, at, row, maps, reach, steps.norm);
        y[i] = narrow<T>(widen(x[i]) * steps.power(s));
    });
}

// As rnorm_fprop_kernel. Writes dx's first term, dy s^-beta, and what is passed on.
template <class T>
__global__ void rnorm_weigh_kernel(const T* __restrict__ x, const T* __restrict__ dy,
                                   float* __restrict__ first, float* __restrict__ passed, Maps maps,
                                   Reach reach, Steps steps) {
    walk_down(maps, [&](const RowPlace& at, int row, std::int64_t i) {
        const float s = window_scale(x, at, row, maps, reach, steps.norm);
        const float first_term = widen(dy[i]) * steps.power(s);
        first[i] = first_term;
        passed[i] = steps.passed(first_term, widen(x[i]), s);
    });
}

// As rnorm_fprop_kernel. Subtracts the second term, from what is passed on in the mirrored window.
template <class T> __global__ void rnorm_spread_kernel(const T* __restrict__ x,
                                                       const float* __restrict__ first,
                                                       const float* __restrict__ passed,
                                                       T* __restrict__ dx, Maps maps, Reach reach) {
    const auto itself = [](float value) { return value; };
    walk_down(maps, [&](const RowPlace& at, int row, std::int64_t i) {
        const float sum = window_sum(passed, at, row, maps, reach.after, reach.before, itself);
        dx[i] = narrow<T>(descend(first[i], widen(x[i]), sum));
    });
}

simt::Grid grid_of(const Maps& maps, Stream stream) {
    return row_grid(maps.images * bands_of(maps.height), maps.width, maps.channels, stream);
}

} // namespace

template <class T> void rnorm_fprop(const T* x, T* y, std::int64_t images, int height, int width,
                                    int channels, ResponseNorm norm, Stream stream) {
    const Maps maps{images, height, width, channels};
    const Reach reach = reach_of(norm.size, std::max(height, width));
    simt::launch<rnorm_fprop_kernel<T>>(grid_of(maps, stream), x, y, maps, reach, Steps{norm});
}

std::size_t rnorm_dgrad_workspace(std::int64_t images, int height, int width, int channels) {
    return 2 * sizeof(float) * static_cast<std::size_t>(images) * static_cast<std::size_t>(height) *
           static_cast<std::size_t>(width) * static_cast<std::size_t>(channels);
}

template <class T> void rnorm_dgrad(const T* x, const T* dy, T* dx, std::int64_t images, int height,
                                    int width, int channels, ResponseNorm norm, void* workspace,
                                    Stream stream) {
    const Maps maps{images, height, width, channels};
    const Reach reach = reach_of(norm.size, std::max(height, width));
    float* const first = static_cast<float*>(workspace);
    float* const passed = first + images * height * width * channels;
    simt::launch<rnorm_weigh_kernel<T>>(grid_of(maps, stream), x, dy, first, passed, maps, reach,
                                        Steps{norm});
    simt::launch<rnorm_spread_kernel<T>>(grid_of(maps, stream), x, first, passed, dx, maps, reach);
}

PYALEXNET_FOR_ELEMENTS(rnorm_fprop);
PYALEXNET_FOR_ELEMENTS(rnorm_dgrad);

} // namespace pyalexnet

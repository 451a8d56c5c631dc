// Convolution by Winograd's algorithm: maps are cut into tiles of n x n pixels that overlap, and
// tiles and filters are transformed. What is left is a matrix product for each of the n x n points,
// over channels alone: 4 times fewer products for 3 x 3 filters, 6.25 times for 5 x 5. Here are
// fprop and dgrad; wgrad is in winograd_wgrad.hpp.
//
// A tile of outputs depends on its own tile of inputs alone and its sums run over channels in their
// order, so that the bits depend on neither the workers nor how many filters or images there are.
#pragma once

#include <algorithm>

#include "cpu/correlation.hpp"
#include "cpu/scratch.hpp"
#include "cpu/transforms.hpp"
#include "simt/threads.hpp"

namespace pyalexnet::cpu {

// The points of a transform lie a plane apart. Were that a power of two, or near a multiple of one,
// all would share a few sets of a cache: so planes of floats have a gap between them, and planes of
// tiles hold an odd number.
constexpr int kPlaneGap = 16;
constexpr std::int64_t plane_of_tiles(std::int64_t tiles) { return tiles | 1; }

// Tiles of a map of outputs, counted through all images.
struct Tiles {
    int rows, columns; // of tiles in an image
    std::int64_t count;

    Tiles(int images, int outputs_down, int outputs_across, int m)
        : rows(static_cast<int>(quotient_up(outputs_down, m))),
          columns(static_cast<int>(quotient_up(outputs_across, m))),
          count(std::int64_t{images} * rows * columns) {}

    struct Place {
        int image, row, column; // in tiles
    };
    Place operator[](std::int64_t tile) const {
        const std::int64_t line = tile / columns;
        return {static_cast<int>(line / rows), static_cast<int>(line % rows),
                static_cast<int>(tile % columns)};
    }
};

// Where the pixels of a tile of a map are, the channels of each side by side; those outside are
// zeros.
template <class T, int n> struct Pixels {
    const T* at[n][n];

    // From (row, column) on; `zeros`: as many as there are channels.
    Pixels(const T* map, int image, int height, int width, std::int64_t channels, int row,
           int column, const T* zeros) {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                const int y = row + i, x = column + j;
                const bool inside = y >= 0 && y < height && x >= 0 && x < width;
                const std::int64_t pixel = (std::int64_t{image} * height + y) * width + x;
                at[i][j] = inside ? map + pixel * channels : zeros;
            }
    }

    // Transforms a vector of channels; its points go to `to`, one plane apart.
    template <class M>
    [[gnu::noinline]] void transform_vector(int channel, float* to, std::int64_t plane) const {
        constexpr int points = M::matrix.kRowCount;
        transform<M>([&](int i, int j) PYALEXNET_LAMBDA { return load(at[i][j] + channel); },
                     [&](int i, int k, V point)
                         PYALEXNET_LAMBDA { store(to + (i * points + k) * plane, point); });
    }

    // The same for fewer channels than a vector has: zeros after the last.
    template <class M>
    void transform_some(int channel, int count, float* to, std::int64_t plane) const {
        T copies[n][n][kLanes] = {};
        Pixels copied = *this;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                std::copy(at[i][j] + channel, at[i][j] + channel + count, copies[i][j]);
                copied.at[i][j] = copies[i][j];
            }
        copied.template transform_vector<M>(0, to, plane);
    }

    // Transforms `count` channels, a vector from `channel` on to place(channel).
    template <class M, class Place>
    PYALEXNET_INLINE void transform_channels(int count, Place place, std::int64_t plane) const {
        int channel = 0;
        for (; channel + kLanes <= count; channel += kLanes)
            transform_vector<M>(channel, place(channel), plane);
        if (channel < count) transform_some<M>(channel, count - channel, place(channel), plane);
    }
};

// ---------------------------------------------------------------------- fprop and dgrad

// A piece of work is a chunk of tiles and a block of panels, and takes the channels a block at a
// time: transformed inputs and products then stay in a core's L2 cache, whatever the layer's size;
// in return inputs are transformed again for every block of panels. Bits do not depend on it.
template <class F> struct WinogradPlan {
    static constexpr int kPoints = F::n * F::n;
    static constexpr int kMostDepth = 128, kMostChannels = 128; // of blocks
    static constexpr std::int64_t kBytes = 3 << 19;             // of inputs and products
    static constexpr int kMostTiles = 8 * kRows;
    Correlation c;
    Tiles tiles;
    int depth_at_once, panels_at_once, tiles_at_once;
    int row_in;             // floats from one tile to the next
    std::int64_t plane_in;  // floats from one point to the next
    std::int64_t plane_out; // Tiles
    std::int64_t plane_filters;

    explicit WinogradPlan(const Correlation& correlation)
        : c(correlation), tiles(c.images, c.rows, c.columns, F::m),
          depth_at_once(std::min(c.depth, kMostDepth)),
          panels_at_once(std::min(c.panels(), std::max(kMostChannels / kPanel, 1))) {
        const std::int64_t tile_bytes =
            kPoints * (depth_at_once + std::int64_t{panels_at_once} * kPanel) * 4;
        const std::int64_t fit = rounded_up(kBytes / tile_bytes, kRows);
        tiles_at_once = static_cast<int>(std::clamp<std::int64_t>(
            std::min(fit, rounded_up(tiles.count, kRows)), kRows, kMostTiles));
        row_in = static_cast<int>(rounded_up(depth_at_once, kLanes));
        plane_in = std::int64_t{tiles_at_once} * row_in + kPlaneGap;
        plane_out = plane_of_tiles(std::int64_t{panels_at_once} * (tiles_at_once / kRows));
        plane_filters = std::int64_t{c.panels()} * c.depth * kPanel;
    }
    std::int64_t chunks() const { return quotient_up(tiles.count, tiles_at_once); }
    std::int64_t panel_blocks() const { return quotient_up(c.panels(), panels_at_once); }
};

template <class F> struct WinogradScratch {
    float* filters; // (groups, points, panels, depth, kPanel)
    float* zeros;   // for what lies outside
    // For each: transformed inputs (points, tiles, depth), products (points, panels, Tiles).
    float* workers;
    std::int64_t in_floats, worker_floats;

    WinogradScratch(Scratch& scratch, const WinogradPlan<F>& p)
        : filters(scratch.take<float>(p.c.groups * p.kPoints * p.plane_filters)),
          zeros(scratch.take<float>(p.c.depth)),
          in_floats(rounded_up(p.kPoints * p.plane_in, kCacheLine)),
          worker_floats(in_floats + p.kPoints * p.plane_out * kRows * kPanel) {
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }
};

// The filters of a panel, kLanes channels deep, transformed.
template <class F, class T> void transform_filters(const WinogradPlan<F>& p,
                                                   const Filters<T>& filters, int group, int panel,
                                                   int channel, float* to) {
    const int deep = std::min(kLanes, p.c.depth - channel);
    for (int half = 0; half < kPanel; half += kLanes) {
        const int j = panel * kPanel + half;
        const int wide = std::clamp(p.c.width - j, 0, kLanes);
        V taps[F::r][F::r][kLanes];
        for (int r = 0; r < F::r; ++r)
            for (int s = 0; s < F::r; ++s)
                filters.load_block(filters.at(group, r, s, channel, j), deep, wide, taps[r][s]);
        for (int d = 0; d < deep; ++d) {
            float* at = to + (std::int64_t{panel} * p.c.depth + channel + d) * kPanel + half;
            transform<G<F>>([&](int r, int s) PYALEXNET_LAMBDA { return taps[r][s][d]; },
                            [&](int i, int k, V point) PYALEXNET_LAMBDA {
                                store(at + (i * F::n + k) * p.plane_filters, point);
                            });
        }
    }
}

// A block of channels of one tile of inputs, transformed: row `row` of every point's plane.
template <class F, class T> void transform_inputs(const WinogradPlan<F>& p, const T* map,
                                                  std::int64_t tile, const T* zeros, int channel,
                                                  int deep, int row, float* to) {
    const auto at = p.tiles[tile];
    const Pixels<T, F::n> pixels(map + channel, at.image, p.c.height_in, p.c.width_in,
                                 p.c.channels_in(), at.row * F::m - p.c.top,
                                 at.column * F::m - p.c.left, zeros);
    to += std::int64_t{row} * p.row_in;
    pixels.template transform_channels<Bt<F>>(deep, [&](int d) { return to + d; }, p.plane_in);
}

// Products of one point over a block of channels, for a block of panels and the tiles of a chunk.
// Bound by the multipliers.
template <class F> void multiply_point(const WinogradPlan<F>& p, const float* inputs,
                                       const float* filters, int deep, int panel, int count,
                                       bool from_zero, Tile* products) {
    for (int i = panel; i < std::min(panel + p.panels_at_once, p.c.panels()); ++i)
        for (int first = 0; first < count; first += kRows) {
            const int rows = std::min(kRows, count - first);
            const float* a[kRows];
            for (int row = 0; row < kRows; ++row)
                a[row] = inputs + std::int64_t{first + std::min(row, rows - 1)} * p.row_in;
            multiply(rows, std::min(kPanel, p.c.width - i * kPanel), a, Runs{1, 0, deep},
                     Adjacent{}, filters + std::int64_t{i} * p.c.depth * kPanel,
                     products[(i - panel) * (p.tiles_at_once / kRows) + first / kRows], from_zero);
        }
}

// One tile of outputs from its products.
template <class F, class Epilogue>
void finish_outputs(const WinogradPlan<F>& p, const Tile* products, int group, int panel,
                    std::int64_t tile, int row, const Epilogue& epilogue) {
    const auto at = p.tiles[tile];
    const int top = at.row * F::m, left = at.column * F::m;
    const int down = std::min(F::m, p.c.rows - top), across = std::min(F::m, p.c.columns - left);
    const int first = panel * kPanel;
    for (int j = first; j < std::min(first + p.panels_at_once * kPanel, p.c.width); j += kLanes) {
        const Tile* from =
            products + (j - first) / kPanel * (p.tiles_at_once / kRows) + row / kRows;
        const int channel = group * p.c.width + j, count = std::min(kLanes, p.c.width - j);
        V outputs[F::m][F::m];
        transform<At<F>>(
            [&](int i, int k) PYALEXNET_LAMBDA {
                return load(from[(i * F::n + k) * p.plane_out].of[row % kRows] + j % kPanel);
            },
            [&](int i, int k, V output) PYALEXNET_LAMBDA { outputs[i][k] = output; });
        for (int i = 0; i < down; ++i)
            for (int k = 0; k < across; ++k)
                epilogue.put(p.c.pixel_out(at.image, top + i, left + k), channel, count,
                             outputs[i][k]);
    }
}

template <class F, class T, class Epilogue>
void correlate_by_winograd(const T* map, const Correlation& c, const Filters<T>& filters,
                           const Epilogue& epilogue, Scratch scratch) {
    const WinogradPlan<F> p(c);
    const WinogradScratch<F> room(scratch, p);
    std::fill(room.zeros, room.zeros + c.depth, 0.0f);
    const T* zeros = reinterpret_cast<const T*>(room.zeros);
    const std::int64_t group_filters = p.kPoints * p.plane_filters;
    const std::int64_t blocks = quotient_up(c.depth, kLanes);
    simt::parallel(c.groups * c.panels() * blocks, [&](std::int64_t piece, int) {
        const int panel = static_cast<int>(piece / blocks);
        const int group = panel / c.panels();
        transform_filters(p, filters, group, panel % c.panels(),
                          static_cast<int>(piece % blocks) * kLanes,
                          room.filters + group * group_filters);
    });
    simt::parallel(c.groups * p.panel_blocks() * p.chunks(), [&](std::int64_t piece, int worker) {
        const int block = static_cast<int>(piece / p.chunks());
        const int group = static_cast<int>(block / p.panel_blocks());
        const int panel = static_cast<int>(block % p.panel_blocks()) * p.panels_at_once;
        const std::int64_t first = piece % p.chunks() * p.tiles_at_once;
        const int count =
            static_cast<int>(std::min<std::int64_t>(p.tiles_at_once, p.tiles.count - first));
        float* inputs = room.workers + worker * room.worker_floats;
        Tile* products = reinterpret_cast<Tile*>(inputs + room.in_floats);
        for (int channel = 0; channel < c.depth; channel += p.depth_at_once) {
            const int deep = std::min(p.depth_at_once, c.depth - channel);
            for (int i = 0; i < count; ++i)
                transform_inputs(p, map + group * c.depth, first + i, zeros, channel, deep, i,
                                 inputs);
            const float* from =
                room.filters + group * group_filters + std::int64_t{channel} * kPanel;
            for (int point = 0; point < p.kPoints; ++point)
                multiply_point(p, inputs + point * p.plane_in, from + point * p.plane_filters, deep,
                               panel, count, channel == 0, products + point * p.plane_out);
        }
        for (int i = 0; i < count; ++i)
            finish_outputs(p, products, group, panel, first + i, i, epilogue);
    });
}

} // namespace pyalexnet::cpu

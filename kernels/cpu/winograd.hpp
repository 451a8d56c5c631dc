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
#include "cpu/lanes.hpp"
#include "cpu/scratch.hpp"
#include "cpu/transforms.hpp"

namespace pyalexnet::cpu {

// The points of a transform lie a plane apart. Were that a power of two, or near a multiple of one,
// all would share a few sets of a cache: so planes of floats have a gap between them, and planes of
// tiles hold an odd number.
constexpr int kPlaneGap = 16;
constexpr std::int64_t plane_of_tiles(std::int64_t tiles) { return tiles | 1; }

// Tiles of m x m outputs of a map, counted through all images.
struct Tiles {
    int rows, columns; // of tiles in an image
    std::int64_t count;

    Tiles(const Correlation& c, int m)
        : rows(quotient_up(c.down.outputs, m)), columns(quotient_up(c.across.outputs, m)),
          count(std::int64_t{c.images} * rows * columns) {}

    struct InImage {
        int image, row, column; // in tiles
    };
    InImage operator[](std::int64_t tile) const {
        const auto [line, column] = cell_of(tile, columns);
        return {line / rows, line % rows, column};
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
    template <const auto& matrix>
    [[gnu::noinline]] void transform_vector(int channel, float* to, std::int64_t plane) const {
        transform<matrix>([&](int i, int j) PYALEXNET_LAMBDA { return load(at[i][j] + channel); },
                          [&](int i, int k, V point) PYALEXNET_LAMBDA {
                              store(to + (i * matrix.row_count + k) * plane, point);
                          });
    }

    // The same for fewer channels than a vector has: zeros after the last.
    template <const auto& matrix>
    void transform_some(int channel, int count, float* to, std::int64_t plane) const {
        T copies[n][n][kLanes] = {};
        Pixels copied = *this;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                std::copy_n(at[i][j] + channel, count, copies[i][j]);
                copied.at[i][j] = copies[i][j];
            }
        copied.template transform_vector<matrix>(0, to, plane);
    }

    // Transforms `count` channels, a vector from `channel` on to to(channel).
    template <const auto& matrix, class To>
    PYALEXNET_INLINE void transform_channels(int count, To to, std::int64_t plane) const {
        int channel = 0;
        for (; channel + kLanes <= count; channel += kLanes)
            transform_vector<matrix>(channel, to(channel), plane);
        if (channel < count) transform_some<matrix>(channel, count - channel, to(channel), plane);
    }
};

// fprop and dgrad. A piece of work is a chunk of tiles and a block of panels, and takes the
// channels a block at a time: transformed inputs and products then stay in a core's L2 cache,
// whatever the layer's size; in return inputs are transformed again for every block of panels. Bits
// do not depend on it.
template <class F> struct WinogradCorrelation {
    static constexpr Choice kChoice{"winograd", F::m, F::m, 1};
    static constexpr int kPoints = F::n * F::n;
    static constexpr int kMostDepth = 128, kMostChannels = 128; // of blocks
    static constexpr std::int64_t kBytes = 3 << 19;             // of inputs and products
    static constexpr int kMostTiles = 8 * kRows;
    Correlation c;
    Tiles tiles;
    int depth_at_once, panels_at_once, tiles_at_once;
    std::int64_t row_in;                             // floats from one tile to the next
    std::int64_t plane_in, plane_out, plane_filters; // from one point to the next: floats, Tiles
    std::int64_t in_floats, worker_floats;
    float* points; // of the filters: (groups, points, panels, depth, kPanel)
    float* zeros;  // for what lies outside
    // For each: transformed inputs (points, tiles, depth), products (points, panels, Tiles).
    float* workers;

    WinogradCorrelation(Scratch& scratch, const Correlation& correlation)
        : c(correlation), tiles(c, F::m), depth_at_once(std::min(c.depth, kMostDepth)),
          panels_at_once(std::min(c.panels(), std::max(kMostChannels / kPanel, 1))) {
        const std::int64_t tile_bytes =
            kPoints * (depth_at_once + std::int64_t{panels_at_once} * kPanel) * 4;
        const std::int64_t fit = rounded_up<std::int64_t>(kBytes / tile_bytes, kRows);
        const std::int64_t needed = rounded_up<std::int64_t>(tiles.count, kRows);
        tiles_at_once = clamped(std::min(fit, needed), kRows, kMostTiles);
        row_in = rounded_up(depth_at_once, kLanes);
        plane_in = tiles_at_once * row_in + kPlaneGap;
        plane_out = plane_of_tiles(std::int64_t{panels_at_once} * (tiles_at_once / kRows));
        plane_filters = std::int64_t{c.panels()} * c.depth * kPanel;
        in_floats = rounded_up<std::int64_t>(kPoints * plane_in, kCacheLine);
        worker_floats = in_floats + kPoints * plane_out * kRows * kPanel;
        points = scratch.take<float>(c.groups * kPoints * plane_filters);
        zeros = scratch.take<float>(c.depth);
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }

    template <class T, class Epilogue>
    void run(const T* map, const Filters<T>& filters, const Epilogue& epilogue) const {
        std::fill_n(zeros, c.depth, 0.0f);
        const int blocks = quotient_up(c.depth, kLanes);
        parallel_table(c.groups * c.panels(), blocks, [&](int panel, int block, int) {
            transform_filters(filters, panel / c.panels(), panel % c.panels(), block * kLanes);
        });
        const std::int64_t chunks = quotient_up(tiles.count, tiles_at_once);
        const int panel_blocks = quotient_up(c.panels(), panels_at_once);
        parallel_table(c.groups * panel_blocks, chunks, [&](int block, int chunk, int worker) {
            const auto [group, first_panel] = cell_of(block, panel_blocks);
            compute_chunk(map, group, first_panel * panels_at_once,
                          std::int64_t{chunk} * tiles_at_once, workers + worker * worker_floats,
                          epilogue);
        });
    }

  private:
    // The filters of a panel, kLanes channels deep, transformed.
    template <class T>
    void transform_filters(const Filters<T>& filters, int group, int panel, int channel) const {
        float* const to = points + group * kPoints * plane_filters;
        const int deep = std::min(kLanes, c.depth - channel);
        for (int half = 0; half < kPanel; half += kLanes) {
            const int j = panel * kPanel + half;
            const int wide = std::clamp(c.width - j, 0, kLanes);
            V taps[F::r][F::r][kLanes];
            for (int r = 0; r < F::r; ++r)
                for (int s = 0; s < F::r; ++s)
                    filters.load_block(filters.at(group, r, s, channel, j), deep, wide, taps[r][s]);
            for (int d = 0; d < deep; ++d) {
                float* at = to + (std::int64_t{panel} * c.depth + channel + d) * kPanel + half;
                transform<kG<F>>([&](int r, int s) PYALEXNET_LAMBDA { return taps[r][s][d]; },
                                 [&](int i, int k, V point) PYALEXNET_LAMBDA {
                                     store(at + (i * F::n + k) * plane_filters, point);
                                 });
            }
        }
    }

    // A chunk of tiles from `first` on, for a block of panels.
    template <class T, class Epilogue> void compute_chunk(const T* map, int group, int panel,
                                                          std::int64_t first, float* inputs,
                                                          const Epilogue& epilogue) const {
        const int count =
            static_cast<int>(std::min<std::int64_t>(tiles_at_once, tiles.count - first));
        Tile* products = reinterpret_cast<Tile*>(inputs + in_floats);
        for (int channel = 0; channel < c.depth; channel += depth_at_once) {
            const int deep = std::min(depth_at_once, c.depth - channel);
            for (int i = 0; i < count; ++i)
                transform_inputs(map + group * c.depth + channel, first + i, deep,
                                 inputs + i * row_in);
            const float* from =
                points + group * kPoints * plane_filters + std::int64_t{channel} * kPanel;
            for (int point = 0; point < kPoints; ++point)
                multiply_point(inputs + point * plane_in, from + point * plane_filters, deep, panel,
                               count, channel == 0, products + point * plane_out);
        }
        for (int i = 0; i < count; ++i)
            finish_outputs(products, group, panel, first + i, i, epilogue);
    }

    // A block of channels of one tile of inputs, transformed, at `to` in every point's plane.
    template <class T>
    void transform_inputs(const T* map, std::int64_t tile, int deep, float* to) const {
        const auto at = tiles[tile];
        const Pixels<T, F::n> pixels(map, at.image, c.down.inputs, c.across.inputs, c.channels_in(),
                                     at.row * F::m - c.down.before,
                                     at.column * F::m - c.across.before,
                                     reinterpret_cast<const T*>(zeros));
        pixels.template transform_channels<kBt<F>>(deep, [&](int d) { return to + d; }, plane_in);
    }

    // Products of one point over a block of channels, for a block of panels and the tiles of a
    // chunk. Bound by the multipliers.
    void multiply_point(const float* inputs, const float* filters, int deep, int panel, int count,
                        bool from_zero, Tile* products) const {
        for (int i = panel; i < std::min(panel + panels_at_once, c.panels()); ++i)
            for (int first = 0; first < count; first += kRows) {
                const int rows = std::min(kRows, count - first);
                const float* a[kRows];
                for (int row = 0; row < kRows; ++row)
                    a[row] = inputs + (first + std::min(row, rows - 1)) * row_in;
                multiply(rows, std::min(kPanel, c.width - i * kPanel), a, Runs{1, 0, deep},
                         Adjacent{}, filters + std::int64_t{i} * c.depth * kPanel,
                         products[(i - panel) * (tiles_at_once / kRows) + first / kRows],
                         from_zero);
            }
    }

    // One tile of outputs from its products.
    template <class Epilogue> void finish_outputs(const Tile* products, int group, int first_panel,
                                                  std::int64_t tile, int row,
                                                  const Epilogue& epilogue) const {
        const auto at = tiles[tile];
        const int top = at.row * F::m, left = at.column * F::m;
        const int down = std::min(F::m, c.down.outputs - top);
        const int across = std::min(F::m, c.across.outputs - left);
        const int first = first_panel * kPanel;
        for (int j = first; j < std::min(first + panels_at_once * kPanel, c.width); j += kLanes) {
            const Tile* from =
                products + (j - first) / kPanel * (tiles_at_once / kRows) + row / kRows;
            const int channel = group * c.width + j, count = std::min(kLanes, c.width - j);
            V outputs[F::m][F::m];
            transform<kAt<F>>(
                [&](int i, int k) PYALEXNET_LAMBDA {
                    return load(from[(i * F::n + k) * plane_out].of[row % kRows] + j % kPanel);
                },
                [&](int i, int k, V output) PYALEXNET_LAMBDA { outputs[i][k] = output; });
            for (int i = 0; i < down; ++i)
                for (int k = 0; k < across; ++k)
                    epilogue.put(c.pixel_out(at.image, top + i, left + k), channel, count,
                                 outputs[i][k]);
        }
    }
};

} // namespace pyalexnet::cpu

// Convolution by Winograd's algorithm: maps are cut into tiles of n x n pixels that overlap, and
// tiles and filters are transformed. What is left is a matrix product for each of the n x n points,
// over channels alone: 4 times fewer products for 3 x 3 filters, 6.25 times for 5 x 5.
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

// ---------------------------------------------------------------------- wgrad

// The adjoint in the filters: for each point the product, over all tiles, of transformed dy and
// transformed x; rows are filters, columns channels, the depth tiles.
//
// A piece of work is a block of filters, a block of channels and a part of the tiles, which it
// takes a chunk at a time: its sums and a chunk stay in a core's L2 cache, whatever the layer's
// size. Parts have sums of their own, which are added in order. There are as many as give the cores
// of a large machine work, whatever the present one has: the bits depend on nothing else.
template <class F> struct WinogradWgradPlan {
    static constexpr int kPoints = F::n * F::n;
    static constexpr int kMostPieces = 32;
    static constexpr int kLeastTiles = 64;   // of a part: with fewer, moving its sums dominates
    static constexpr int kMostChannels = 64; // of a block
    static constexpr std::int64_t kSumBytes = 7 << 17, kBytes = 7 << 18; // and with a chunk
    ConvShape shape;
    Tiles tiles;
    int depth, filters;             // of a group
    int channels_at_once, panels;   // of a block
    int filters_at_once, row_tiles; // of a block
    int tiles_at_once, parts;
    std::int64_t plane;             // of sums: Tiles
    int row_dy;                     // floats from one tile of dy to the next
    std::int64_t plane_x, plane_dy; // floats from one point to the next

    explicit WinogradWgradPlan(const ConvShape& s)
        : shape(s), tiles(s.images, s.out_height, s.out_width, F::m), depth(s.channels / s.groups),
          filters(s.filters / s.groups), channels_at_once(shared_out(depth, kMostChannels, kPanel)),
          panels(static_cast<int>(quotient_up(channels_at_once, kPanel))),
          filters_at_once(shared_out(filters, kSumBytes / (kPoints * panels * kPanel * 4), kRows)),
          row_tiles(static_cast<int>(quotient_up(filters_at_once, kRows))),
          plane(plane_of_tiles(std::int64_t{panels} * row_tiles)) {
        parts = static_cast<int>(std::clamp<std::int64_t>(
            std::min(kMostPieces / blocks(), tiles.count / kLeastTiles), 1, tiles.count));
        const std::int64_t tile_bytes = kPoints * (panels * kPanel + filters_at_once) * 4;
        tiles_at_once = static_cast<int>(
            std::clamp<std::int64_t>((kBytes - sums() * std::int64_t{sizeof(Tile)}) / tile_bytes,
                                     kRows, std::max<std::int64_t>(tiles.count, kRows)));
        plane_x = std::int64_t{tiles_at_once} * panels * kPanel + kPlaneGap;
        row_dy = static_cast<int>(rounded_up(filters_at_once, kLanes));
        plane_dy = std::int64_t{tiles_at_once} * row_dy + kPlaneGap;
    }
    std::int64_t filter_blocks() const { return quotient_up(filters, filters_at_once); }
    std::int64_t channel_blocks() const { return quotient_up(depth, channels_at_once); }
    std::int64_t blocks() const { return shape.groups * filter_blocks() * channel_blocks(); }
    std::int64_t sums() const { return kPoints * plane; } // of a block
    std::int64_t part_begins(std::int64_t part) const { return tiles.count * part / parts; }

  private:
    // How many of `count` make a block, with blocks of at most `most` as equal as multiples of
    // `unit` allow.
    static int shared_out(int count, std::int64_t most, int unit) {
        const std::int64_t equal = quotient_up(count, quotient_up(count, most));
        return static_cast<int>(std::min<std::int64_t>(count, rounded_up(equal, unit)));
    }
};

// Filters and channels of a block.
struct WinogradBlock {
    int group, filter, filters, channel, channels;

    template <class F> WinogradBlock(const WinogradWgradPlan<F>& p, std::int64_t block) {
        channel = static_cast<int>(block % p.channel_blocks()) * p.channels_at_once;
        block /= p.channel_blocks();
        filter = static_cast<int>(block % p.filter_blocks()) * p.filters_at_once;
        group = static_cast<int>(block / p.filter_blocks());
        filters = std::min(p.filters_at_once, p.filters - filter);
        channels = std::min(p.channels_at_once, p.depth - channel);
    }
};

template <class F> struct WinogradWgradScratch {
    Tile* sums;     // (blocks, parts, points, panels, row tiles)
    float* biases;  // (blocks, parts, filters): of those with the group's first channels
    float* zeros;   // for what lies outside
    float* workers; // a chunk: x (points, panels, tiles, kPanel), dy (points, tiles, filters)
    std::int64_t x_floats, worker_floats, bias_floats;

    WinogradWgradScratch(Scratch& scratch, const WinogradWgradPlan<F>& p)
        : sums(scratch.take<Tile>(p.blocks() * p.parts * p.sums())),
          x_floats(rounded_up(p.kPoints * p.plane_x, kCacheLine)),
          worker_floats(x_floats + rounded_up(p.kPoints * p.plane_dy, kCacheLine)),
          bias_floats(rounded_up(p.filters_at_once, kLanes)) {
        biases = scratch.take<float>(p.blocks() * p.parts * bias_floats);
        zeros = scratch.take<float>(std::max(p.depth, p.filters));
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }
};

// A tile of x and one of dy, transformed: row `row` of every point's plane.
template <class F, class T> void transform_pair(const WinogradWgradPlan<F>& p,
                                                const WinogradBlock& block, const T* x, const T* dy,
                                                const T* zeros, std::int64_t tile, int row,
                                                float* to_x, float* to_dy) {
    const ConvShape& s = p.shape;
    const auto at = p.tiles[tile];
    const Pixels<T, F::n> pixels(x, at.image, s.height, s.width, s.channels,
                                 at.row * F::m - s.pad_top, at.column * F::m - s.pad_left, zeros);
    pixels.template transform_channels<Bt<F>>(
        block.channels,
        [&](int channel) {
            const std::int64_t panel = channel / kPanel * std::int64_t{p.tiles_at_once};
            return to_x + (panel + row) * kPanel + channel % kPanel;
        },
        p.plane_x);
    const Pixels<T, F::m> gradients(dy, at.image, s.out_height, s.out_width, s.filters,
                                    at.row * F::m, at.column * F::m, zeros);
    float* const to = to_dy + std::int64_t{row} * p.row_dy;
    gradients.template transform_channels<A<F>>(
        block.filters, [&](int filter) { return to + filter; }, p.plane_dy);
}

// One point's products over the tiles of a chunk, added to those of the chunks before. Bound by the
// multipliers and, where a chunk is not deep, by moving the sums to the cache and back.
template <class F> void add_point(const WinogradWgradPlan<F>& p, const WinogradBlock& block,
                                  const float* x, const float* dy, int count, bool from_zero,
                                  Tile* sums) {
    for (int panel = 0; panel * kPanel < block.channels; ++panel)
        for (int tile = 0; tile * kRows < block.filters; ++tile) {
            const int rows = std::min(kRows, block.filters - tile * kRows);
            const float* a[kRows];
            for (int i = 0; i < kRows; ++i) a[i] = dy + tile * kRows + std::min(i, rows - 1);
            multiply(rows, std::min(kPanel, block.channels - panel * kPanel), a, Runs{1, 0, count},
                     std::int64_t{p.row_dy}, x + std::int64_t{panel} * p.tiles_at_once * kPanel,
                     sums[panel * p.row_tiles + tile], from_zero);
        }
}

// At the point 1, 1 a tile's transformed dy is the sum of its dy.
template <class F> void add_biases(const WinogradWgradPlan<F>& p, const WinogradBlock& block,
                                   const float* dy, int count, bool from_zero, float* biases) {
    dy += (kPointOne * F::n + kPointOne) * p.plane_dy;
    for (int j = 0; j < block.filters; j += kLanes) {
        V sum{};
        for (int i = 0; i < count; ++i) sum += load(dy + std::int64_t{i} * p.row_dy + j);
        store(biases + j, from_zero ? sum : load(biases + j) + sum);
    }
}

// A row of kRows filters and a panel of channels: the parts added, and back from the points to the
// taps.
template <class F, class Epilogue>
void finish_panel(const WinogradWgradPlan<F>& p, const WinogradBlock& block, const Tile* sums,
                  int panel, int row_tile, const Epilogue& epilogue) {
    sums += std::int64_t{panel} * p.row_tiles + row_tile;
    for (int row = 0; row < std::min(kRows, block.filters - row_tile * kRows); ++row)
        for (int half = 0; half < kPanel; half += kLanes) {
            const int channel = panel * kPanel + half;
            const int count = std::min(kLanes, block.channels - channel);
            if (count <= 0) break;
            const std::int64_t filter =
                std::int64_t{block.group} * p.filters + block.filter + row_tile * kRows + row;
            V points[F::n][F::n], taps[F::r][F::r];
            for (int point = 0; point < p.kPoints; ++point) {
                const Tile* at = sums + point * p.plane;
                V sum = load(at->of[row] + half);
                for (int part = 1; part < p.parts; ++part)
                    sum += load(at[part * p.sums()].of[row] + half);
                points[point / F::n][point % F::n] = sum;
            }
            transform<Gt<F>>([&](int i, int k) PYALEXNET_LAMBDA { return points[i][k]; },
                             [&](int r, int s, V tap) PYALEXNET_LAMBDA { taps[r][s] = tap; });
            for (int r = 0; r < F::r; ++r)
                for (int s = 0; s < F::r; ++s)
                    epilogue.put((filter * F::r * F::r + r * F::r + s) * p.depth + block.channel +
                                     channel,
                                 count, taps[r][s]);
        }
}

template <class F, class Epilogue>
void finish_biases(const WinogradWgradPlan<F>& p, const WinogradBlock& block, const float* biases,
                   std::int64_t pitch, const Epilogue& epilogue) {
    for (int j = 0; j < block.filters; j += kLanes) {
        V sum = load(biases + j);
        for (int part = 1; part < p.parts; ++part) sum += load(biases + part * pitch + j);
        epilogue.put_bias(block.group * p.filters + block.filter + j,
                          std::min(kLanes, block.filters - j), sum);
    }
}

template <class F, class T, class Epilogue>
void wgrad_by_winograd(const T* x, const T* dy, const ConvShape& shape, const Epilogue& epilogue,
                       Scratch scratch) {
    const WinogradWgradPlan<F> p(shape);
    const WinogradWgradScratch<F> room(scratch, p);
    std::fill(room.zeros, room.zeros + std::max(p.depth, p.filters), 0.0f);
    const T* zeros = reinterpret_cast<const T*>(room.zeros);
    simt::parallel(p.blocks() * p.parts, [&](std::int64_t piece, int worker) {
        const WinogradBlock block(p, piece / p.parts);
        const std::int64_t part = piece % p.parts;
        float* const chunk_x = room.workers + worker * room.worker_floats;
        float* const chunk_dy = chunk_x + room.x_floats;
        Tile* const sums = room.sums + piece * p.sums();
        const std::int64_t begin = p.part_begins(part), end = p.part_begins(part + 1);
        for (std::int64_t first = begin; first < end; first += p.tiles_at_once) {
            const int count =
                static_cast<int>(std::min<std::int64_t>(p.tiles_at_once, end - first));
            for (int i = 0; i < count; ++i)
                transform_pair(p, block, x + block.group * p.depth + block.channel,
                               dy + block.group * p.filters + block.filter, zeros, first + i, i,
                               chunk_x, chunk_dy);
            for (int point = 0; point < p.kPoints; ++point)
                add_point(p, block, chunk_x + point * p.plane_x, chunk_dy + point * p.plane_dy,
                          count, first == begin, sums + point * p.plane);
            if (block.channel == 0)
                add_biases(p, block, chunk_dy, count, first == begin,
                           room.biases + piece * room.bias_floats);
        }
    });
    const std::int64_t tiles = std::int64_t{p.panels} * p.row_tiles;
    simt::parallel(p.blocks() * tiles, [&](std::int64_t piece, int) {
        const WinogradBlock block(p, piece / tiles);
        const std::int64_t first = piece / tiles * p.parts;
        const int tile = static_cast<int>(piece % tiles);
        finish_panel(p, block, room.sums + first * p.sums(), tile / p.row_tiles, tile % p.row_tiles,
                     epilogue);
        if (block.channel == 0 && tile == 0)
            finish_biases(p, block, room.biases + first * room.bias_floats, room.bias_floats,
                          epilogue);
    });
}

} // namespace pyalexnet::cpu

// wgrad by Winograd's algorithm, the adjoint in the filters: for each point the product, over all
// tiles, of transformed dy and transformed x; rows are filters, columns channels, the depth tiles.
//
// A piece of work is a block of filters, a block of channels and a part of the tiles, which it
// takes a chunk at a time: its sums and a chunk stay in a core's L2 cache, whatever the layer's
// size. Parts have sums of their own, which are added in order. There are as many as give the cores
// of a large machine work, whatever the present one has: the bits depend on nothing else.
#pragma once

#include "cpu/winograd.hpp"

namespace pyalexnet::cpu {

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
          filters(s.filters / s.groups), channels_at_once(block_of(depth, kMostChannels, kPanel)),
          panels(static_cast<int>(quotient_up(channels_at_once, kPanel))),
          filters_at_once(block_of(filters, kSumBytes / (kPoints * panels * kPanel * 4), kRows)),
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
    static int block_of(int count, std::int64_t most, int unit) {
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

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

template <class F> struct WinogradWgrad {
    static constexpr Choice kChoice{"winograd", F::m, F::m, 1};
    static constexpr int kPoints = F::n * F::n;
    static constexpr int kMostPieces = 32;
    static constexpr int kLeastTiles = 64;   // of a part: with fewer, moving its sums dominates
    static constexpr int kMostChannels = 64; // of a block
    static constexpr std::int64_t kSumBytes = 7 << 17, kBytes = 7 << 18; // and with a chunk
    Correlation c;                                                       // fprop's
    Tiles tiles;
    int channels_at_once, panels;   // of a block
    int filters_at_once, row_tiles; // of a block
    std::int64_t filter_blocks, channel_blocks, blocks;
    int tiles_at_once, parts;
    std::int64_t plane, block_sums; // Tiles of sums: of a point, of a block
    std::int64_t row_dy;            // floats from one tile of dy to the next
    std::int64_t plane_x, plane_dy; // floats from one point to the next
    std::int64_t x_floats, worker_floats;
    Tile* sums;     // (blocks, parts, points, panels, row tiles)
    float* biases;  // (blocks, parts, row_dy): of those with the group's first channels
    float* zeros;   // for what lies outside
    float* workers; // a chunk: x (points, panels, tiles, kPanel), dy (points, tiles, filters)

    WinogradWgrad(Scratch& scratch, const Correlation& correlation)
        : c(correlation), tiles(c, F::m),
          channels_at_once(block_of(c.depth, kMostChannels, kPanel)),
          panels(quotient_up(channels_at_once, kPanel)),
          filters_at_once(block_of(c.width, kSumBytes / (kPoints * panels * kPanel * 4), kRows)),
          row_tiles(quotient_up(filters_at_once, kRows)),
          filter_blocks(quotient_up(c.width, filters_at_once)),
          channel_blocks(quotient_up(c.depth, channels_at_once)),
          blocks(c.groups * filter_blocks * channel_blocks),
          plane(plane_of_tiles(std::int64_t{panels} * row_tiles)), block_sums(kPoints * plane),
          row_dy(rounded_up(filters_at_once, kLanes)) {
        parts = clamped(std::min(kMostPieces / blocks, tiles.count / kLeastTiles), 1, tiles.count);
        const std::int64_t tile_bytes = kPoints * (panels * kPanel + filters_at_once) * 4;
        const std::int64_t fit = (kBytes - block_sums * std::int64_t{sizeof(Tile)}) / tile_bytes;
        tiles_at_once = clamped(fit, kRows, std::max<std::int64_t>(tiles.count, kRows));
        plane_x = std::int64_t{tiles_at_once} * panels * kPanel + kPlaneGap;
        plane_dy = tiles_at_once * row_dy + kPlaneGap;
        x_floats = rounded_up<std::int64_t>(kPoints * plane_x, kCacheLine);
        worker_floats = x_floats + rounded_up<std::int64_t>(kPoints * plane_dy, kCacheLine);
        sums = scratch.take<Tile>(blocks * parts * block_sums);
        biases = scratch.take<float>(blocks * parts * row_dy);
        zeros = scratch.take<float>(std::max(c.depth, c.width));
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }

    template <class T, class Epilogue>
    void run(const T* x, const T* dy, const Epilogue& epilogue) const {
        std::fill_n(zeros, std::max(c.depth, c.width), 0.0f);
        parallel_table(blocks, parts, [&](int block, int part, int worker) {
            sum_part(x, dy, block, part, workers + worker * worker_floats);
        });
        parallel_table(blocks, panels * row_tiles, [&](int index, int tile, int) {
            const Block block = block_at(index);
            const std::int64_t first = std::int64_t{index} * parts;
            finish_panel(block, sums + first * block_sums, tile / row_tiles, tile % row_tiles,
                         epilogue);
            if (block.channel == 0 && tile == 0)
                finish_biases(block, biases + first * row_dy, epilogue);
        });
    }

  private:
    struct Block {
        int group, filter, filters, channel, channels;
    };
    Block block_at(int index) const {
        const auto [outer, channel_block] = cell_of(index, channel_blocks);
        const auto [group, filter_block] = cell_of(outer, filter_blocks);
        const int channel = channel_block * channels_at_once;
        const int filter = filter_block * filters_at_once;
        return {group, filter, std::min(filters_at_once, c.width - filter), channel,
                std::min(channels_at_once, c.depth - channel)};
    }
    // How many of `count` make a block, with blocks of at most `most` as equal as multiples of
    // `unit` allow.
    static int block_of(int count, std::int64_t most, int unit) {
        return std::min(count, rounded_up(quotient_up(count, quotient_up(count, most)), unit));
    }

    // A block's sums over a part of the tiles.
    template <class T>
    void sum_part(const T* x, const T* dy, int index, int part, float* chunk_x) const {
        const Block block = block_at(index);
        const std::int64_t piece = std::int64_t{index} * parts + part;
        float* const chunk_dy = chunk_x + x_floats;
        const std::int64_t begin = tiles.count * part / parts;
        const std::int64_t end = tiles.count * (part + 1) / parts;
        for (std::int64_t first = begin; first < end; first += tiles_at_once) {
            const int count = static_cast<int>(std::min<std::int64_t>(tiles_at_once, end - first));
            for (int i = 0; i < count; ++i)
                transform_pair(block, x + block.group * c.depth + block.channel,
                               dy + block.group * c.width + block.filter, first + i, i, chunk_x,
                               chunk_dy);
            for (int point = 0; point < kPoints; ++point)
                add_point(block, chunk_x + point * plane_x, chunk_dy + point * plane_dy, count,
                          first == begin, sums + piece * block_sums + point * plane);
            if (block.channel == 0)
                add_biases(block, chunk_dy, count, first == begin, biases + piece * row_dy);
        }
    }

    // A tile of x and one of dy, transformed: row `row` of every point's plane.
    template <class T> void transform_pair(const Block& block, const T* x, const T* dy,
                                           std::int64_t tile, int row, float* to_x,
                                           float* to_dy) const {
        const T* const outside = reinterpret_cast<const T*>(zeros);
        const auto at = tiles[tile];
        const int top = at.row * F::m, left = at.column * F::m;
        const Pixels<T, F::n> pixels(x, at.image, c.down.inputs, c.across.inputs, c.channels_in(),
                                     top - c.down.before, left - c.across.before, outside);
        pixels.template transform_channels<kBt<F>>(
            block.channels,
            [&](int channel) {
                const std::int64_t panel = channel / kPanel * std::int64_t{tiles_at_once};
                return to_x + (panel + row) * kPanel + channel % kPanel;
            },
            plane_x);
        const Pixels<T, F::m> gradients(dy, at.image, c.down.outputs, c.across.outputs,
                                        c.groups * c.width, top, left, outside);
        float* const to = to_dy + row * row_dy;
        gradients.template transform_channels<kA<F>>(
            block.filters, [&](int filter) { return to + filter; }, plane_dy);
    }

    // One point's products over the tiles of a chunk, added to those of the chunks before. Bound by
    // the multipliers and, where a chunk is not deep, by moving the sums to the cache and back.
    void add_point(const Block& block, const float* x, const float* dy, int count, bool from_zero,
                   Tile* to) const {
        for (int panel = 0; panel * kPanel < block.channels; ++panel)
            for (int tile = 0; tile * kRows < block.filters; ++tile) {
                const int rows = std::min(kRows, block.filters - tile * kRows);
                const float* a[kRows];
                for (int i = 0; i < kRows; ++i) a[i] = dy + tile * kRows + std::min(i, rows - 1);
                multiply(rows, std::min(kPanel, block.channels - panel * kPanel), a,
                         Runs{1, 0, count}, row_dy,
                         x + std::int64_t{panel} * tiles_at_once * kPanel,
                         to[panel * row_tiles + tile], from_zero);
            }
    }

    // At the point 1, 1 a tile's transformed dy is the sum of its dy.
    void add_biases(const Block& block, const float* dy, int count, bool from_zero,
                    float* to) const {
        dy += (kPointOne * F::n + kPointOne) * plane_dy;
        for (int j = 0; j < block.filters; j += kLanes) {
            V sum{};
            for (int i = 0; i < count; ++i) sum += load(dy + i * row_dy + j);
            store(to + j, from_zero ? sum : load(to + j) + sum);
        }
    }

    // A row of kRows filters and a panel of channels: the parts added, and back from the points to
    // the taps.
    template <class Epilogue> void finish_panel(const Block& block, const Tile* from, int panel,
                                                int row_tile, const Epilogue& epilogue) const {
        from += std::int64_t{panel} * row_tiles + row_tile;
        for (int row = 0; row < std::min(kRows, block.filters - row_tile * kRows); ++row)
            for (int half = 0; half < kPanel; half += kLanes) {
                const int channel = panel * kPanel + half;
                const int count = std::min(kLanes, block.channels - channel);
                if (count <= 0) break;
                const std::int64_t filter =
                    std::int64_t{block.group} * c.width + block.filter + row_tile * kRows + row;
                V points[F::n][F::n], taps[F::r][F::r];
                for (int point = 0; point < kPoints; ++point) {
                    const Tile* at = from + point * plane;
                    V sum = load(at->of[row] + half);
                    for (int part = 1; part < parts; ++part)
                        sum += load(at[part * block_sums].of[row] + half);
                    points[point / F::n][point % F::n] = sum;
                }
                transform<kGt<F>>([&](int i, int k) PYALEXNET_LAMBDA { return points[i][k]; },
                                  [&](int r, int s, V tap) PYALEXNET_LAMBDA { taps[r][s] = tap; });
                for (int tap = 0; tap < F::r * F::r; ++tap)
                    epilogue.weights.put((filter * F::r * F::r + tap) * c.depth + block.channel +
                                             channel,
                                         count, taps[tap / F::r][tap % F::r]);
            }
    }

    template <class Epilogue>
    void finish_biases(const Block& block, const float* from, const Epilogue& epilogue) const {
        for (int j = 0; j < block.filters; j += kLanes) {
            V sum = load(from + j);
            for (int part = 1; part < parts; ++part) sum += load(from + part * row_dy + j);
            epilogue.biases.put(block.group * c.width + block.filter + j,
                                std::min(kLanes, block.filters - j), sum);
        }
    }
};

} // namespace pyalexnet::cpu

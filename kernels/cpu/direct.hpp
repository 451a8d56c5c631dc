// Convolution as its formula says: a matrix product with the patches of a map as one operand, which
// are never unrolled. The order of a sum is that of the taps (filter row, column, channel) or, in
// wgrad, of the pixels.
#pragma once

#include "cpu/correlation.hpp"
#include "cpu/lanes.hpp"
#include "cpu/scratch.hpp"

namespace pyalexnet::cpu {

// Of a frame: leaves room in a core's L2 cache for the panel that it is multiplied by.
constexpr std::int64_t kFrameBytes = 1 << 18;

// The sums of an output without taps, in a dgrad whose stride is larger than its filters.
inline constexpr float kNoSums[kPanel] = {};

// Images are cut into bands of rows of outputs. A band's frame is the part of a map that it sees
// and the zeros around that, as float32: a patch is then a few contiguous runs, and no loop checks
// whether a pixel is inside. The copy is small beside the products that use it, and stays in a
// core's cache.
struct Bands {
    std::int64_t line; // floats of a frame's row
    int rows;          // of outputs in a band
    int count;         // of an image
    std::int64_t frame_floats;

    // Frames take at most kFrameBytes, where one row of outputs allows it. share: the least number
    // of bands in an image.
    Bands(const Correlation& c, std::int64_t share)
        : line(std::int64_t{c.across.seen_by(c.across.outputs)} * c.depth) {
        const std::int64_t lines =
            kFrameBytes / std::max<std::int64_t>(line * std::int64_t{sizeof(float)}, 1);
        const std::int64_t fit = (lines - c.down.taps) / c.down.step + 1;
        const std::int64_t wanted = quotient_up(c.down.outputs, share);
        rows = clamped(std::min(fit, wanted), 1, c.down.outputs);
        count = quotient_up(c.down.outputs, rows);
        frame_floats = rounded_up<std::int64_t>(c.down.seen_by(rows) * line, kCacheLine);
    }
};

// The frame of the outputs of rows [first, first + rows) of an image. A group's channels begin at
// `map`.
template <class T>
void copy_frame(const T* map, const Correlation& c, int image, int first, int rows, float* to) {
    const int columns = c.across.seen_by(c.across.outputs), left = -c.across.before;
    const std::int64_t line = std::int64_t{columns} * c.depth;
    const int begin = std::clamp(-left, 0, columns);
    const int end = std::clamp(c.across.inputs - left, begin, columns);
    for (int i = 0; i < c.down.seen_by(rows); ++i, to += line) {
        const int y = first * c.down.step - c.down.before + i;
        if (y < 0 || y >= c.down.inputs || begin == end) {
            std::fill(to, to + line, 0.0f);
            continue;
        }
        const std::int64_t pixel =
            (std::int64_t{image} * c.down.inputs + y) * c.across.inputs + left + begin;
        const T* const from = map + pixel * c.channels_in();
        float* const inside = to + std::int64_t{begin} * c.depth;
        std::fill(to, inside, 0.0f);
        if (c.groups == 1)
            copy(from, inside, std::int64_t{end - begin} * c.depth);
        else
            for (std::int64_t j = 0; j < end - begin; ++j)
                copy(from + j * c.channels_in(), inside + j * c.depth, c.depth);
        std::fill(to + std::int64_t{end} * c.depth, to + line, 0.0f);
    }
}

// ---------------------------------------------------------------------- fprop and dgrad

struct DirectCorrelation {
    static constexpr Choice kChoice{"direct", 0, 0, 1};
    Correlation c;
    Bands bands;
    std::int64_t worker_floats;
    float* panels;  // of filters: (groups, panels, terms, kPanel)
    float* workers; // a frame and a band's tiles for each

    DirectCorrelation(Scratch& scratch, const Correlation& correlation)
        : c(correlation),
          bands(c, quotient_up(std::int64_t{4} * simt::workers(), c.images)), // work for every core
          worker_floats(bands.frame_floats +
                        quotient_up(std::int64_t{bands.rows} * c.across.outputs, kRows) * kRows *
                            kPanel),
          panels(scratch.take<float>(c.groups * c.panels() * c.terms() * kPanel)),
          workers(scratch.take<float>(simt::workers() * worker_floats)) {}

    template <class T, class Epilogue>
    void run(const T* map, const Filters<T>& filters, const Epilogue& epilogue) const {
        parallel_table(c.groups, c.panels(),
                       [&](int group, int panel, int) { pack_panel(filters, group, panel); });
        parallel_table(c.images, bands.count, [&](int image, int band, int worker) {
            const int first = band * bands.rows;
            const int rows = std::min(bands.rows, c.down.outputs - first);
            float* frame = workers + worker * worker_floats;
            for (int group = 0; group < c.groups; ++group) {
                copy_frame(map + group * c.depth, c, image, first, rows, frame);
                multiply_band(frame, image, group, first, rows, epilogue);
            }
        });
    }

  private:
    float* panel_at(int group, int panel) const {
        return panels + (std::int64_t{group} * c.panels() + panel) * c.terms() * kPanel;
    }

    // kPanel channels out for every term.
    template <class T> void pack_panel(const Filters<T>& filters, int group, int panel) const {
        float* to = panel_at(group, panel);
        const int first = panel * kPanel;
        for (int r = 0; r < c.down.taps; ++r)
            for (int s = 0; s < c.across.taps; ++s)
                for (int d = 0; d < c.depth; d += kLanes) {
                    const int deep = std::min(kLanes, c.depth - d);
                    pack_rows(filters, filters.at(group, r, s, d, first), deep, c.width - first,
                              to);
                    to += deep * kPanel;
                }
    }

    // A band of an image in one group, over all panels: its tiles stay in memory between two parts
    // of the terms.
    template <class Epilogue> void multiply_band(float* frame, int image, int group, int first_row,
                                                 int rows, const Epilogue& epilogue) const {
        Tile* const tiles = reinterpret_cast<Tile*>(frame + bands.frame_floats);
        const int columns = c.across.outputs, outputs = rows * columns;
        for (int panel = 0; panel < c.panels(); ++panel) {
            const float* b = panel_at(group, panel);
            const int wide = std::min(kPanel, c.width - panel * kPanel);
            for_each_terms(c.down.taps, bands.line, std::int64_t{c.across.taps} * c.depth,
                           [&](const Terms& terms) {
                               multiply_tiles(frame + terms.place, terms, b, outputs, wide, tiles);
                           });
            for (int i = 0, p = 0, q = 0; i < outputs; ++i) {
                const float* sums = c.terms() == 0 ? kNoSums : tiles[i / kRows].of[i % kRows];
                const std::int64_t pixel = c.pixel_out(image, first_row + p, q);
                const int channel = group * c.width + panel * kPanel;
                epilogue.put(pixel, channel, std::min(kLanes, wide), load(sums));
                if (wide > kLanes)
                    epilogue.put(pixel, channel + kLanes, wide - kLanes, load(sums + kLanes));
                if (++q == columns) q = 0, ++p;
            }
        }
    }

    // A part of the terms of all outputs of a band.
    void multiply_tiles(const float* from, const Terms& terms, const float* b, int outputs,
                        int wide, Tile* tiles) const {
        const std::int64_t step_down = c.down.step * bands.line;
        const std::int64_t step_across = std::int64_t{c.across.step} * c.depth;
        for (int first = 0, p = 0, q = 0; first < outputs; first += kRows) {
            const int count = std::min(kRows, outputs - first);
            const float* a[kRows];
            for (int i = 0; i < kRows; ++i) {
                a[i] = from + p * step_down + q * step_across;
                if (i + 1 < count && ++q == c.across.outputs) q = 0, ++p;
            }
            if (++q == c.across.outputs) q = 0, ++p;
            multiply(count, wide, a, terms.runs, Adjacent{}, b + terms.first * kPanel,
                     tiles[first / kRows], terms.first == 0);
        }
    }
};

// ---------------------------------------------------------------------- wgrad

// Rows are the taps of a filter, columns the group's filters, the depth pixels. Images are split
// into parts, each with sums of its own, which are added in order: as many parts as give the cores
// of a large machine work, whatever the present one has, so that the bits do not depend on it.
struct DirectWgrad {
    static constexpr Choice kChoice{"direct", 0, 0, 1};
    static constexpr int kPieces = 32;
    static constexpr int kTilesAtOnce = 16; // transposed together
    Correlation c;                          // fprop's
    Bands bands;
    int taps, tiles; // of a filter
    int parts;
    std::int64_t panels; // of all groups
    std::int64_t worker_floats;
    Tile* sums;     // (parts, groups, panels, tiles)
    float* biases;  // (parts, groups, panels, kPanel)
    float* workers; // a frame and a panel of dy for each

    DirectWgrad(Scratch& scratch, const Correlation& correlation)
        : c(correlation), bands(c, 1), taps(static_cast<int>(c.terms())),
          tiles(quotient_up(taps, kRows)),
          parts(clamped(kPieces / (c.groups * c.panels()), 1, c.images)),
          panels(std::int64_t{c.groups} * c.panels()),
          worker_floats(bands.frame_floats + std::int64_t{bands.rows} * c.across.outputs * kPanel),
          sums(scratch.take<Tile>(parts * panels * tiles)),
          biases(scratch.take<float>(parts * panels * kPanel)),
          workers(scratch.take<float>(simt::workers() * worker_floats)) {}

    template <class T, class Epilogue>
    void run(const T* x, const T* dy, const Epilogue& epilogue) const {
        parallel_table(parts, panels, [&](int part, int panel, int worker) {
            sum_part(x, dy, part, panel, workers + worker * worker_floats);
        });
        parallel_table(panels, quotient_up(tiles, kTilesAtOnce), [&](int panel, int block, int) {
            finish_filters(panel, block * kTilesAtOnce, epilogue);
            if (block == 0) finish_biases(panel, epilogue);
        });
    }

  private:
    // The first filter of a panel, counted over all groups, and how many it has.
    int first_filter(int panel) const {
        return panel / c.panels() * c.width + panel % c.panels() * kPanel;
    }
    int filters_of(int panel) const {
        return std::min(kPanel, c.width - panel % c.panels() * kPanel);
    }

    // One panel's sums over the images of a part.
    template <class T>
    void sum_part(const T* x, const T* dy, int part, int panel, float* frame) const {
        const int filters = filters_of(panel), rows_out = c.down.outputs;
        float* const dys = frame + bands.frame_floats;
        Tile* const own = sums + (part * panels + panel) * tiles;
        float* const bias = biases + (part * panels + panel) * kPanel;
        V low{}, high{};
        bool from_zero = true;
        const int end = static_cast<int>(std::int64_t{c.images} * (part + 1) / parts);
        for (int image = static_cast<int>(std::int64_t{c.images} * part / parts); image < end;
             ++image) {
            V image_low{}, image_high{};
            for (int top = 0; top < rows_out; top += bands.rows) {
                const int rows = std::min(bands.rows, rows_out - top);
                copy_frame(x + panel / c.panels() * c.depth, c, image, top, rows, frame);
                const std::int64_t first = c.pixel_out(image, top, 0);
                const int pitch = c.groups * c.width;
                const T* from = dy + first * pitch + first_filter(panel);
                for (int i = 0; i < rows * c.across.outputs; ++i, from += pitch) {
                    const V a = load(from, std::min(kLanes, filters));
                    const V b = filters > kLanes ? load(from + kLanes, filters - kLanes) : V{};
                    store(dys + i * kPanel, a);
                    store(dys + i * kPanel + kLanes, b);
                    image_low += a;
                    image_high += b;
                }
                multiply_tiles(frame, dys, rows, filters, from_zero, own);
                from_zero = false;
            }
            low += image_low;
            high += image_high;
        }
        store(bias, low);
        store(bias + kLanes, high);
    }

    // The products of a frame with a panel of dy: the taps of all tiles.
    void multiply_tiles(const float* frame, const float* dys, int rows, int filters, bool from_zero,
                        Tile* own) const {
        const Runs runs{rows, c.down.step * bands.line, c.across.outputs};
        const int run = c.across.taps * c.depth;
        for (int tile = 0; tile < tiles; ++tile) {
            const int count = std::min(kRows, taps - tile * kRows);
            const float* a[kRows];
            for (int i = 0; i < kRows; ++i) {
                const int tap = std::min(tile * kRows + i, taps - 1);
                a[i] = frame + tap / run * bands.line + tap % run;
            }
            multiply(count, filters, a, runs, std::int64_t{c.across.step} * c.depth, dys, own[tile],
                     from_zero);
        }
    }

    // Parts are added, transposed so that a filter's taps are neighbours, and given to the
    // epilogue.
    template <class Epilogue>
    void finish_filters(int panel, int first_tile, const Epilogue& epilogue) const {
        alignas(kCacheLine) float turned[kPanel][kTilesAtOnce * kRows];
        const int count = std::min(kTilesAtOnce, tiles - first_tile);
        for (int tile = 0; tile < count; ++tile)
            for (int row = 0; row < kRows; ++row)
                for (int half = 0; half < kPanel; half += kLanes) {
                    V sum{};
                    for (int part = 0; part < parts; ++part)
                        sum +=
                            load(sums[(part * panels + panel) * tiles + first_tile + tile].of[row] +
                                 half);
                    for (int lane = 0; lane < kLanes; ++lane)
                        turned[half + lane][tile * kRows + row] = sum[lane];
                }
        const int first_tap = first_tile * kRows, end = std::min(count * kRows, taps - first_tap);
        for (int j = 0; j < filters_of(panel); ++j)
            for (int tap = 0; tap < end; tap += kLanes) {
                const int n = std::min(kLanes, end - tap);
                epilogue.weights.put(std::int64_t{first_filter(panel) + j} * taps + first_tap + tap,
                                     n, load(turned[j] + tap, n));
            }
    }

    template <class Epilogue> void finish_biases(int panel, const Epilogue& epilogue) const {
        for (int j = 0; j < filters_of(panel); j += kLanes) {
            V sum{};
            for (int part = 0; part < parts; ++part)
                sum += load(biases + (part * panels + panel) * kPanel + j);
            epilogue.biases.put(first_filter(panel) + j, std::min(kLanes, filters_of(panel) - j),
                                sum);
        }
    }
};

} // namespace pyalexnet::cpu

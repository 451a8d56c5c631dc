// Convolution as its formula says: a matrix product with the patches of a map as one operand, which
// are never unrolled. The order of a sum is that of the taps (filter row, column, channel) or, in
// wgrad, of the pixels.
#pragma once

#include "cpu/correlation.hpp"
#include "cpu/frame.hpp"
#include "cpu/scratch.hpp"
#include "simt/threads.hpp"

namespace pyalexnet::cpu {

// Of a frame: leaves room in a core's L2 cache for the panel that it is multiplied by.
constexpr std::int64_t kFrameBytes = 1 << 18;

// The sums of an output without taps, in a dgrad whose stride is larger than its filters.
inline constexpr float kNoSums[kPanel] = {};

// Images are cut into bands of rows so that frames take at most kFrameBytes, where one row allows
// it, and so that every core has work.
struct Bands {
    int rows;  // of outputs in a band
    int count; // of an image
    int frame_columns;

    // share: the least number of bands in an image.
    Bands(int outputs_down, int outputs_across, int taps_h, int taps_w, int step_h, int step_w,
          int depth, std::int64_t share)
        : frame_columns((outputs_across - 1) * step_w + taps_w) {
        const std::int64_t line = std::int64_t{frame_columns} * depth * sizeof(float);
        const std::int64_t lines = kFrameBytes / std::max<std::int64_t>(line, 1);
        const std::int64_t fit = (lines - taps_h) / step_h + 1;
        const std::int64_t wanted = quotient_up(outputs_down, share);
        rows = static_cast<int>(std::clamp<std::int64_t>(std::min(fit, wanted), 1, outputs_down));
        count = static_cast<int>(quotient_up(outputs_down, rows));
    }
    // Lines of a frame for that many rows of outputs.
    static int lines(int rows, int taps_h, int step_h) { return (rows - 1) * step_h + taps_h; }
};

// ---------------------------------------------------------------------- fprop and dgrad

struct DirectScratch {
    float* filters; // (groups, panels, terms, kPanel)
    float* workers; // a frame and a band's tiles for each
    std::int64_t frame_floats, worker_floats;

    DirectScratch(Scratch& scratch, const Correlation& c, const Bands& bands)
        : filters(scratch.take<float>(c.groups * c.panels() * c.terms() * kPanel)),
          frame_floats(rounded_up(std::int64_t{Bands::lines(bands.rows, c.taps_h, c.step_h)} *
                                      bands.frame_columns * c.depth,
                                  kCacheLine)),
          worker_floats(frame_floats +
                        quotient_up(std::int64_t{bands.rows} * c.columns, kRows) * kRows * kPanel) {
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }
};

inline Bands bands_of(const Correlation& c) {
    const std::int64_t share = quotient_up(std::int64_t{4} * simt::workers(), c.images);
    return {c.rows, c.columns, c.taps_h, c.taps_w, c.step_h, c.step_w, c.depth, share};
}

// A panel of filters: kPanel channels out for every term.
template <class T>
void pack_panel(const Correlation& c, const Filters<T>& filters, int group, int panel, float* to) {
    const int first = panel * kPanel;
    for (int r = 0; r < c.taps_h; ++r)
        for (int s = 0; s < c.taps_w; ++s)
            for (int d = 0; d < c.depth; d += kLanes) {
                const int deep = std::min(kLanes, c.depth - d);
                pack_rows(filters, filters.at(group, r, s, d, first), deep, c.width - first, to);
                to += deep * kPanel;
            }
}

// A band of an image in one group, over all panels: its tiles stay in memory between two parts of
// the terms.
template <class Epilogue> void correlate_band(const Correlation& c, const Bands& bands,
                                              const float* frame, const float* filters, Tile* tiles,
                                              int image, int group, int first_row, int rows,
                                              const Epilogue& epilogue) {
    const std::int64_t line = std::int64_t{bands.frame_columns} * c.depth;
    const int outputs = rows * c.columns;
    for (int panel = 0; panel < c.panels(); ++panel) {
        const float* b = filters + panel * c.terms() * kPanel;
        const int wide = std::min(kPanel, c.width - panel * kPanel);
        for_each_terms(c.taps_h, line, std::int64_t{c.taps_w} * c.depth, [&](const Terms& terms) {
            const float* const from = frame + terms.place;
            for (int first = 0, p = 0, q = 0; first < outputs; first += kRows) {
                const int count = std::min(kRows, outputs - first);
                const float* a[kRows];
                for (int i = 0; i < kRows; ++i) {
                    a[i] = from + p * c.step_h * line + std::int64_t{q} * c.step_w * c.depth;
                    if (i + 1 < count && ++q == c.columns) q = 0, ++p;
                }
                if (++q == c.columns) q = 0, ++p;
                multiply(count, wide, a, terms.runs, Adjacent{}, b + terms.first * kPanel,
                         tiles[first / kRows], terms.first == 0);
            }
        });
        for (int i = 0, p = 0, q = 0; i < outputs; ++i) {
            const float* sums = c.terms() == 0 ? kNoSums : tiles[i / kRows].of[i % kRows];
            const std::int64_t pixel = c.pixel_out(image, first_row + p, q);
            const int channel = group * c.width + panel * kPanel;
            epilogue.put(pixel, channel, std::min(kLanes, wide), load(sums));
            if (wide > kLanes)
                epilogue.put(pixel, channel + kLanes, wide - kLanes, load(sums + kLanes));
            if (++q == c.columns) q = 0, ++p;
        }
    }
}

template <class T, class Epilogue>
void correlate_directly(const T* map, const Correlation& c, const Filters<T>& filters,
                        const Epilogue& epilogue, Scratch scratch) {
    const Bands bands = bands_of(c);
    const DirectScratch room(scratch, c, bands);
    simt::parallel(std::int64_t{c.groups} * c.panels(), [&](std::int64_t piece, int) {
        pack_panel(c, filters, static_cast<int>(piece / c.panels()),
                   static_cast<int>(piece % c.panels()), room.filters + piece * c.terms() * kPanel);
    });
    simt::parallel(std::int64_t{c.images} * bands.count, [&](std::int64_t piece, int worker) {
        const int image = static_cast<int>(piece / bands.count);
        const int first = static_cast<int>(piece % bands.count) * bands.rows;
        const int rows = std::min(bands.rows, c.rows - first);
        float* frame = room.workers + worker * room.worker_floats;
        Tile* tiles = reinterpret_cast<Tile*>(frame + room.frame_floats);
        for (int group = 0; group < c.groups; ++group) {
            const Maps<T> maps{map + group * c.depth, c.height_in, c.width_in, c.channels_in(),
                               c.depth};
            maps.frame(image, first * c.step_h - c.top, -c.left,
                       Bands::lines(rows, c.taps_h, c.step_h), bands.frame_columns, frame);
            correlate_band(c, bands, frame, room.filters + group * c.panels() * c.terms() * kPanel,
                           tiles, image, group, first, rows, epilogue);
        }
    });
}

// ---------------------------------------------------------------------- wgrad

// Rows are the taps of a filter, columns the group's filters, the depth pixels. Images are split
// into parts, each with sums of its own, which are added in order: as many parts as give the cores
// of a large machine work, whatever the present one has, so that the bits do not depend on it.
struct WgradPlan {
    static constexpr int kPieces = 32;
    static constexpr int kTilesAtOnce = 16; // transposed together
    ConvShape shape;
    int taps, depth, filters; // of a group
    int panels, tiles, parts;
    Bands bands;

    explicit WgradPlan(const ConvShape& s)
        : shape(s), taps(static_cast<int>(s.taps())), depth(s.channels / s.groups),
          filters(s.filters / s.groups), panels(static_cast<int>(quotient_up(filters, kPanel))),
          tiles(static_cast<int>(quotient_up(taps, kRows))),
          parts(static_cast<int>(
              std::clamp<std::int64_t>(kPieces / (s.groups * panels), 1, s.images))),
          bands(s.out_height, s.out_width, s.filter_h, s.filter_w, s.stride_h, s.stride_w, depth,
                1) {}
};

struct WgradScratch {
    Tile* sums;     // (parts, groups, panels, tiles)
    float* biases;  // (parts, groups, panels, kPanel)
    float* workers; // a frame and a panel of dy for each
    std::int64_t frame_floats, panel_floats;

    WgradScratch(Scratch& scratch, const WgradPlan& plan) {
        const ConvShape& s = plan.shape;
        const std::int64_t panels = std::int64_t{plan.parts} * s.groups * plan.panels;
        frame_floats =
            rounded_up(std::int64_t{Bands::lines(plan.bands.rows, s.filter_h, s.stride_h)} *
                           plan.bands.frame_columns * plan.depth,
                       kLanes);
        panel_floats = std::int64_t{plan.bands.rows} * s.out_width * kPanel;
        sums = scratch.take<Tile>(panels * plan.tiles);
        biases = scratch.take<float>(panels * kPanel);
        workers = scratch.take<float>(simt::workers() * (frame_floats + panel_floats));
    }
};

// One panel's sums over the images of a part.
template <class T> void sum_part(const T* x, const T* dy, const WgradPlan& plan, int group,
                                 int panel, int part, Tile* sums, float* bias, float* frame) {
    const ConvShape& s = plan.shape;
    const WgradPlan& p = plan;
    const std::int64_t line = std::int64_t{p.bands.frame_columns} * p.depth;
    const int run = s.filter_w * p.depth;
    float* const dys =
        frame +
        rounded_up(std::int64_t{Bands::lines(p.bands.rows, s.filter_h, s.stride_h)} * line, kLanes);
    const int first_filter = panel * kPanel;
    const int filters = std::min(kPanel, p.filters - first_filter);
    V low{}, high{};
    bool from_zero = true;
    const int begin = static_cast<int>(std::int64_t{s.images} * part / p.parts);
    const int end = static_cast<int>(std::int64_t{s.images} * (part + 1) / p.parts);
    const Maps<T> maps{x + group * p.depth, s.height, s.width, s.channels, p.depth};
    for (int image = begin; image < end; ++image) {
        V image_low{}, image_high{};
        for (int top = 0; top < s.out_height; top += p.bands.rows) {
            const int rows = std::min(p.bands.rows, s.out_height - top);
            maps.frame(image, top * s.stride_h - s.pad_top, -s.pad_left,
                       Bands::lines(rows, s.filter_h, s.stride_h), p.bands.frame_columns, frame);
            const std::int64_t first = (std::int64_t{image} * s.out_height + top) * s.out_width;
            const T* from = dy + first * s.filters + group * p.filters + first_filter;
            for (int i = 0; i < rows * s.out_width; ++i, from += s.filters) {
                const V a = load_up_to(from, std::min(kLanes, filters));
                const V b = filters > kLanes ? load_up_to(from + kLanes, filters - kLanes) : V{};
                store(dys + i * kPanel, a);
                store(dys + i * kPanel + kLanes, b);
                image_low += a;
                image_high += b;
            }
            const Runs runs{rows, s.stride_h * line, s.out_width};
            for (int tile = 0; tile < p.tiles; ++tile) {
                const int count = std::min(kRows, p.taps - tile * kRows);
                const float* a[kRows];
                for (int i = 0; i < kRows; ++i) {
                    const int tap = std::min(tile * kRows + i, p.taps - 1);
                    a[i] = frame + tap / run * line + tap % run;
                }
                multiply(count, filters, a, runs, std::int64_t{s.stride_w} * p.depth, dys,
                         sums[tile], from_zero);
            }
            from_zero = false;
        }
        low += image_low;
        high += image_high;
    }
    store(bias, low);
    store(bias + kLanes, high);
}

// Parts are added, transposed so that a filter's taps are neighbours, and given to the epilogue.
template <class Epilogue> void finish_filters(const WgradPlan& p, const WgradScratch& room,
                                              int group, int panel, int first_tile, int tiles,
                                              const Epilogue& epilogue) {
    constexpr int kMostTiles = WgradPlan::kTilesAtOnce;
    alignas(kCacheLine) float turned[kPanel][kMostTiles * kRows];
    const std::int64_t panels = std::int64_t{p.shape.groups} * p.panels;
    const std::int64_t own = group * p.panels + panel;
    for (int tile = 0; tile < tiles; ++tile)
        for (int row = 0; row < kRows; ++row)
            for (int half = 0; half < kPanel; half += kLanes) {
                V sums{};
                for (int part = 0; part < p.parts; ++part)
                    sums += load(
                        room.sums[(part * panels + own) * p.tiles + first_tile + tile].of[row] +
                        half);
                for (int lane = 0; lane < kLanes; ++lane)
                    turned[half + lane][tile * kRows + row] = sums[lane];
            }
    const int first_tap = first_tile * kRows;
    const int taps = std::min(tiles * kRows, p.taps - first_tap);
    const int first_filter = panel * kPanel;
    for (int j = 0; j < std::min(kPanel, p.filters - first_filter); ++j) {
        const std::int64_t filter = std::int64_t{group} * p.filters + first_filter + j;
        for (int tap = 0; tap < taps; tap += kLanes)
            epilogue.put(filter * p.taps + first_tap + tap, std::min(kLanes, taps - tap),
                         load_up_to(turned[j] + tap, std::min(kLanes, taps - tap)));
    }
}

template <class Epilogue> void finish_biases(const WgradPlan& p, const WgradScratch& room,
                                             int group, int panel, const Epilogue& epilogue) {
    const std::int64_t panels = std::int64_t{p.shape.groups} * p.panels;
    const std::int64_t own = group * p.panels + panel;
    for (int j = 0; j < kPanel && panel * kPanel + j < p.filters; j += kLanes) {
        V sums{};
        for (int part = 0; part < p.parts; ++part)
            sums += load(room.biases + (part * panels + own) * kPanel + j);
        const int first = panel * kPanel + j;
        epilogue.put_bias(group * p.filters + first, std::min(kLanes, p.filters - first), sums);
    }
}

template <class T, class Epilogue> void wgrad_directly(const T* x, const T* dy,
                                                       const ConvShape& shape,
                                                       const Epilogue& epilogue, Scratch scratch) {
    const WgradPlan p(shape);
    const WgradScratch room(scratch, p);
    const std::int64_t panels = std::int64_t{shape.groups} * p.panels;
    simt::parallel(p.parts * panels, [&](std::int64_t piece, int worker) {
        const int panel = static_cast<int>(piece % panels);
        sum_part(x, dy, p, panel / p.panels, panel % p.panels, static_cast<int>(piece / panels),
                 room.sums + piece * p.tiles, room.biases + piece * kPanel,
                 room.workers + worker * (room.frame_floats + room.panel_floats));
    });
    const std::int64_t blocks = quotient_up(p.tiles, WgradPlan::kTilesAtOnce);
    simt::parallel(panels * blocks, [&](std::int64_t piece, int) {
        const int panel = static_cast<int>(piece / blocks);
        const int first = static_cast<int>(piece % blocks) * WgradPlan::kTilesAtOnce;
        finish_filters(p, room, panel / p.panels, panel % p.panels, first,
                       std::min(WgradPlan::kTilesAtOnce, p.tiles - first), epilogue);
        if (first == 0) finish_biases(p, room, panel / p.panels, panel % p.panels, epilogue);
    });
}

} // namespace pyalexnet::cpu

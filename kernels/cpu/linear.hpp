// Linear layers: convolutions of images of one pixel, whose weights are too many to be reordered
// first. Only the smaller operand is packed, or a block of weights at a time that stays in the
// cache until it has been used. x (rows, inputs), y (rows, outputs), w (outputs, inputs).
#pragma once

#include <algorithm>

#include "cpu/correlation.hpp"
#include "cpu/lanes.hpp"
#include "cpu/scratch.hpp"

namespace pyalexnet::cpu {

inline bool is_linear(const ConvShape& s) {
    return s.height == 1 && s.width == 1 && s.filter_h == 1 && s.filter_w == 1 && s.groups == 1 &&
           s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 &&
           s.out_height == 1 && s.out_width == 1;
}

// If x is larger than w it is w that is reordered, as for a convolution of one image whose pixels
// are the rows of x: the same sums in the same order. Other shapes as they are.
inline ConvShape as_one_image(ConvShape s) {
    if (is_linear(s) && s.filters >= kPanel && s.filters < s.images) {
        s.height = s.out_height = s.images;
        s.images = 1;
    }
    return s;
}

// A matrix (rows, columns), transposed, in panels of kPanel of its rows: (panels, columns, kPanel).
template <class T> void turn_into_panels(const T* from, int rows, int columns, float* to) {
    constexpr int kColumns = 16 * kLanes;
    const int panels = quotient_up(rows, kPanel), blocks = quotient_up(columns, kColumns);
    parallel_table(panels, blocks, [&](int panel, int block, int) {
        const int first = panel * kPanel, begin = block * kColumns;
        const Filters<T> turned{from, 0, 0, 0, 1, columns};
        for (int column = begin; column < std::min(begin + kColumns, columns); column += kLanes)
            pack_rows(turned, turned.at(0, 0, 0, column, first), std::min(kLanes, columns - column),
                      rows - first,
                      to + (std::int64_t{first} * columns + std::int64_t{column} * kPanel));
    });
}

// How many of `units` make a piece: at most `most`, and fewer where there would be too few pieces
// for the cores of a large machine.
inline int piece_of(std::int64_t units, std::int64_t most) {
    constexpr int kPieces = 16;
    return clamped(units / kPieces, 1, most);
}

// Numbers of a matrix as float32: in place, or widened into `room`.
inline const float* as_floats(const float* from, std::int64_t, float*) { return from; }
inline const float* as_floats(const bf16* from, std::int64_t count, float* room) {
    copy(from, room, count);
    return room;
}

// ---------------------------------------------------------------------- fprop

// y^T = w x^T: rows are outputs, columns the rows of x.
struct LinearFprop {
    static constexpr Choice kChoice{"linear", 0, 0, 1};
    static constexpr int kMostTiles = 4;
    int rows, inputs, outputs;
    int tiles_at_once, panels; // of outputs in a piece, of x
    std::int64_t tile_floats, worker_floats;
    float* x; // panels
    float* workers;

    LinearFprop(Scratch& scratch, const Correlation& c)
        : rows(c.images), inputs(c.depth), outputs(c.width),
          tiles_at_once(piece_of(quotient_up(outputs, kRows), kMostTiles)),
          panels(quotient_up(rows, kPanel)),
          tile_floats(std::int64_t{kRows} * kPanel * tiles_at_once * panels),
          worker_floats(tile_floats + kRows * kTermsAtOnce),
          x(scratch.take<float>(std::int64_t{panels} * kPanel * inputs)),
          workers(scratch.take<float>(simt::workers() * worker_floats)) {}

    template <class T, class Epilogue>
    void run(const T* given, const Filters<T>& w, const Epilogue& epilogue) const {
        turn_into_panels(given, rows, inputs, x);
        const int at_once = tiles_at_once * kRows;
        simt::parallel(quotient_up(outputs, at_once), [&](std::int64_t piece, int worker) {
            float* room = workers + worker * worker_floats;
            const int first = static_cast<int>(piece) * at_once;
            sum(w.first, first, reinterpret_cast<Tile*>(room), room + tile_floats);
            finish(reinterpret_cast<const Tile*>(room), first, epilogue);
        });
    }

  private:
    // Bound by reading w once, below some 30 rows of x; by the multipliers above.
    template <class T> void sum(const T* w, int first, Tile* tiles, float* widened) const {
        for_each_terms(1, 0, inputs, [&](const Terms& terms) {
            for (int i = 0; i < tiles_at_once && first + i * kRows < outputs; ++i) {
                const int begin = first + i * kRows, count = std::min(kRows, outputs - begin);
                const float* a[kRows];
                for (int row = 0; row < kRows; ++row) {
                    const T* from = w + std::int64_t{begin + row} * inputs + terms.place;
                    a[row] = row < count
                                 ? as_floats(from, terms.runs.length, widened + row * kTermsAtOnce)
                                 : a[count - 1];
                }
                for (int panel = 0; panel < panels; ++panel)
                    multiply(count, std::min(kPanel, rows - panel * kPanel), a, terms.runs,
                             Adjacent{}, x + (std::int64_t{panel} * inputs + terms.first) * kPanel,
                             tiles[panel * tiles_at_once + i], terms.first == 0);
            }
        });
    }

    template <class Epilogue>
    void finish(const Tile* tiles, int first, const Epilogue& epilogue) const {
        const int count = std::min(tiles_at_once * kRows, outputs - first);
        for (int n = 0; n < rows; ++n) {
            const Tile* const own = tiles + n / kPanel * tiles_at_once;
            float row[kMostTiles * kRows + kLanes];
            for (int i = 0; i < count; ++i) row[i] = own[i / kRows].of[i % kRows][n % kPanel];
            by_vectors(count, [&](int i, auto some) {
                epilogue.put(n, first + i, some, load(row + i, some));
            });
        }
    }
};

// ---------------------------------------------------------------------- dgrad

// Prefetches what will be read soon: the processor by itself prefetches nothing from rows that lie
// far apart.
template <class T> PYALEXNET_INLINE void ask_for(const T* from, std::int64_t count) {
    constexpr int kStep = kCacheLine / sizeof(T);
    for (std::int64_t i = 0; i < count; i += kStep) __builtin_prefetch(from + i, 0, 2);
}

// dx = dy w: rows are those of dy, columns inputs. A panel of w at a time is packed, kDepth outputs
// deep, and multiplied while it is in the L1 cache.
template <class T> struct LinearDgrad {
    static constexpr Choice kChoice{"linear", 0, 0, 1};
    static constexpr int kMostPanels = 768 / kPanel;
    static constexpr int kDepth = 32;
    int rows, inputs, outputs;
    int panels_at_once, tiles; // of inputs in a piece, of rows
    std::int64_t tile_floats, worker_floats;
    float* dy; // (quotient_up(outputs, kDepth), rows, kDepth)
    float* workers;

    LinearDgrad(Scratch& scratch, const Correlation& c)
        : rows(c.images), inputs(c.width), outputs(c.depth),
          panels_at_once(piece_of(quotient_up(inputs, kPanel), kMostPanels)),
          tiles(quotient_up(rows, kRows)),
          tile_floats(std::int64_t{kRows} * kPanel * panels_at_once * tiles),
          worker_floats(tile_floats + kDepth * kPanel),
          dy(scratch.take<float>(std::int64_t{rows} * rounded_up(outputs, kDepth))),
          workers(scratch.take<float>(simt::workers() * worker_floats)) {}

    template <class Epilogue>
    void run(const T* given, const Filters<T>& filters, const Epilogue& epilogue) const {
        const T* const w = filters.first;
        // Where they lie far apart, too few rows of dy would fit into a set of the L1 cache.
        const bool packs = !std::is_same_v<T, float> || outputs > 1024;
        const float* const dys = packs ? dy : as_floats(given, 0, dy);
        const int pitch = packs ? kDepth : outputs, rows_before = packs ? rows : 1;
        const int blocks = packs ? quotient_up(outputs, kDepth) : 0;
        parallel_rows(blocks, std::int64_t{rows} * kDepth, [&](std::int64_t block) {
            const int depth = static_cast<int>(block) * kDepth;
            pack(given + depth, outputs, rows, std::min(kDepth, outputs - depth),
                 dy + block * rows * kDepth, kDepth);
        });
        const int at_once = panels_at_once * kPanel;
        simt::parallel(quotient_up(inputs, at_once), [&](std::int64_t piece, int worker) {
            float* room = workers + worker * worker_floats;
            Tile* sums = reinterpret_cast<Tile*>(room);
            const int first = static_cast<int>(piece) * at_once;
            const int columns = std::min(at_once, inputs - first);
            for (int depth = 0; depth < outputs; depth += kDepth) {
                const int deep = std::min(kDepth, outputs - depth);
                const int coming = std::min(kDepth, outputs - depth - deep);
                add(dys + std::int64_t{depth} * rows_before, pitch,
                    w + std::int64_t{depth} * inputs + first, deep, coming, first, columns,
                    room + tile_floats, sums, depth == 0, epilogue);
            }
        });
    }

  private:
    // Bound by reading w once, below some 30 rows of dy; by the multipliers above. Meanwhile
    // prefetches the panel that is packed next: of these rows of w, or the first of the `coming`
    // ones. If none are, a tile's sums are complete, and stored while they are in the cache.
    template <class Epilogue> void add(const float* dys, int pitch, const T* from, int deep,
                                       int coming, int first, int columns, float* panel, Tile* sums,
                                       bool from_zero, const Epilogue& epilogue) const {
        for (int j = 0; j < columns; j += kPanel) {
            const int wide = std::min(kPanel, columns - j);
            pack(from + j, inputs, deep, wide, panel, kPanel);
            const bool ends = j + wide == columns;
            const int at = ends ? 0 : j + kPanel, high = ends ? coming : deep;
            const T* const next = from + (ends ? std::int64_t{deep} * inputs : 0) + at;
            for (int tile = 0; tile < tiles; ++tile) {
                for (int d = tile; d < high; d += tiles)
                    ask_for(next + d * std::int64_t{inputs}, std::min(kPanel, columns - at));
                const int count = std::min(kRows, rows - tile * kRows);
                const float* a[kRows] = {dys + std::int64_t{tile} * kRows * pitch};
                for (int row = 1; row < kRows; ++row) // a chain: gcc makes no vectors of it
                    a[row] = a[row - 1] + (row < count ? pitch : 0);
                Tile& sum = sums[tile * panels_at_once + j / kPanel];
                multiply(count, wide, a, Runs{1, 0, deep}, Adjacent{}, panel, sum, from_zero);
                for (int row = 0; coming == 0 && row < count; ++row)
                    for (int i = 0; i < wide; i += kLanes)
                        epilogue.put(tile * kRows + row, first + j + i, std::min(kLanes, wide - i),
                                     load(sum.of[row] + i));
            }
        }
    }

    // `wide` neighbours in each of some rows of a matrix, widened, and zeros up to whole vectors.
    static void pack(const T* from, int pitch, int count, int wide, float* to, int to_pitch) {
#pragma GCC unroll 4
        for (int row = 0; row < count; ++row, from += pitch, to += to_pitch)
            for (int i = 0; i < wide; i += kLanes)
                store(to + i, load(from + i, std::min(kLanes, wide - i)));
    }
};

// ---------------------------------------------------------------------- wgrad

// dw = dy^T x: rows are outputs, columns inputs, the depth the rows of both.
struct LinearWgrad {
    static constexpr Choice kChoice{"linear", 0, 0, 1};
    int rows, inputs, outputs;
    int panels; // of inputs
    float* dy;  // transposed: (outputs, rows)
    float* x;   // (panels, rows, kPanel)

    LinearWgrad(Scratch& scratch, const Correlation& c)
        : rows(c.images), inputs(c.depth), outputs(c.width), panels(quotient_up(inputs, kPanel)),
          dy(scratch.take<float>(std::int64_t{outputs} * rows)),
          x(scratch.take<float>(std::int64_t{panels} * rows * kPanel)) {}

    template <class T, class Epilogue>
    void run(const T* given_x, const T* given_dy, const Epilogue& epilogue) const {
        simt::parallel(panels + quotient_up(outputs, kLanes), [&](std::int64_t piece, int) {
            if (piece < panels)
                pack(given_x, static_cast<int>(piece));
            else
                turn(given_dy, static_cast<int>(piece - panels) * kLanes, epilogue);
        });
        const std::int64_t tiles = quotient_up(outputs, kRows);
        constexpr int kBlockBytes = 1 << 19; // of x, which stays in a core's L2 cache
        const std::int64_t panel_bytes = std::int64_t{rows} * kPanel * 4;
        const int at_once = piece_of(tiles * panels, clamped(kBlockBytes / panel_bytes, 1, panels));
        parallel_table(quotient_up(panels, at_once), tiles, [&](int block, int tile, int) {
            multiply_rows(tile * kRows, block * at_once, std::min((block + 1) * at_once, panels),
                          epilogue);
        });
    }

  private:
    template <class T> void pack(const T* from, int panel) const {
        for (int n = 0; n < rows; ++n)
            for (int half = 0; half < kPanel; half += kLanes) {
                const int column = panel * kPanel + half;
                const int count = std::clamp(inputs - column, 0, kLanes);
                store(x + (std::int64_t{panel} * rows + n) * kPanel + half,
                      load(from + std::int64_t{n} * inputs + column, count));
            }
    }
    // A vector of outputs: transposed, and summed over the rows for the bias.
    template <class T, class Epilogue>
    void turn(const T* from, int first, const Epilogue& epilogue) const {
        const Filters<T> matrix{from + first, 0, 0, 0, outputs, 1};
        const int count = std::min(kLanes, outputs - first);
        V sum{};
        for (int n = 0; n < rows; n += kLanes) {
            const int deep = std::min(kLanes, rows - n);
            V block[kLanes];
            matrix.load_block(matrix.at(0, 0, 0, n, 0), deep, count, block);
            for (int i = 0; i < deep; ++i) sum += block[i];
            transpose(block);
            for (int i = 0; i < count; ++i)
                store(dy + std::int64_t{first + i} * rows + n, block[i], deep);
        }
        epilogue.biases.put(first, count, sum);
    }
    // A row of tiles, over panels [begin, end). Bound by what the epilogue reads and writes: 16
    // bytes a weight that learns.
    template <class Epilogue>
    void multiply_rows(int first, int begin, int end, const Epilogue& epilogue) const {
        const int count = std::min(kRows, outputs - first);
        const float* a[kRows];
        for (int i = 0; i < kRows; ++i)
            a[i] = dy + std::int64_t{first + std::min(i, count - 1)} * rows;
        for (int panel = begin; panel < end; ++panel) {
            const int column = panel * kPanel, columns = std::min(kPanel, inputs - column);
            Tile tile;
            multiply(count, columns, a, Runs{1, 0, rows}, Adjacent{},
                     x + std::int64_t{panel} * rows * kPanel, tile, true);
            for (int i = 0; i < count; ++i)
                for (int j = 0; j < columns; j += kLanes)
                    epilogue.weights.put(std::int64_t{first + i} * inputs + column + j,
                                         std::min(kLanes, columns - j), load(tile.of[i] + j));
        }
    }
};

} // namespace pyalexnet::cpu

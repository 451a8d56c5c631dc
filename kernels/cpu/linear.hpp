// Linear layers: convolutions of images of one pixel, whose weights are too many to be reordered
// first. Only the smaller operand is packed, or a block of weights at a time that stays in the
// cache until it has been used.
#pragma once

#include <algorithm>

#include "cpu/correlation.hpp"
#include "cpu/frame.hpp"
#include "cpu/scratch.hpp"
#include "simt/threads.hpp"

namespace pyalexnet::cpu {

// x (rows, inputs), y (rows, outputs), w (outputs, inputs).
struct LinearSize {
    int rows, inputs, outputs;
    explicit LinearSize(const ConvShape& s)
        : rows(s.images), inputs(s.channels), outputs(s.filters) {}
    static bool is_linear(const ConvShape& s) {
        return s.height == 1 && s.width == 1 && s.filter_h == 1 && s.filter_w == 1 &&
               s.groups == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 &&
               s.pad_left == 0 && s.out_height == 1 && s.out_width == 1;
    }
    // If x is larger than w it is w that is reordered, as for a convolution of one image whose
    // pixels are the rows of x: the same sums in the same order. Other shapes as they are.
    static ConvShape as_one_image(ConvShape s) {
        if (is_linear(s) && s.filters >= kPanel && s.filters < s.images) {
            s.height = s.out_height = s.images;
            s.images = 1;
        }
        return s;
    }
    int row_panels() const { return static_cast<int>(quotient_up(rows, kPanel)); }
};

// A matrix (rows, columns), transposed, in panels of kPanel of its rows: (panels, columns, kPanel).
template <class T> void turn_into_panels(const T* from, int rows, int columns, float* to) {
    constexpr int kColumns = 16 * kLanes;
    const std::int64_t blocks = quotient_up(columns, kColumns);
    simt::parallel(quotient_up(rows, kPanel) * blocks, [&](std::int64_t piece, int) {
        const int panel = static_cast<int>(piece / blocks) * kPanel;
        const int begin = static_cast<int>(piece % blocks) * kColumns;
        const Filters<T> turned{from, 0, 0, 0, 1, columns};
        for (int column = begin; column < std::min(begin + kColumns, columns); column += kLanes)
            pack_rows(turned, turned.at(0, 0, 0, column, panel), std::min(kLanes, columns - column),
                      rows - panel,
                      to + (std::int64_t{panel} * columns + std::int64_t{column} * kPanel));
    });
}

// How many of `units` make a piece: at most `most`, and fewer where there would be too few pieces
// for the cores of a large machine.
inline int piece_of(std::int64_t units, int most) {
    constexpr int kPieces = 16;
    return static_cast<int>(std::clamp<std::int64_t>(units / kPieces, 1, most));
}

// Rows of a matrix as float32: in place, or widened into `room`.
inline const float* as_floats(const float* from, std::int64_t, float*) { return from; }
inline const float* as_floats(const bf16* from, std::int64_t count, float* room) {
    widen(from, room, count);
    return room;
}

// ---------------------------------------------------------------------- fprop

// y^T = w x^T: rows are outputs, columns the rows of x.
struct LinearFprop {
    static constexpr int kMostTiles = 4;
    LinearSize size;
    int tiles_at_once; // of outputs in a piece
    float* x;          // panels
    float* workers;
    std::int64_t tile_floats, worker_floats;

    LinearFprop(Scratch& scratch, const ConvShape& shape)
        : size(shape), tiles_at_once(piece_of(quotient_up(size.outputs, kRows), kMostTiles)),
          x(scratch.take<float>(std::int64_t{size.row_panels()} * kPanel * size.inputs)),
          tile_floats(std::int64_t{kRows} * kPanel * tiles_at_once * size.row_panels()),
          worker_floats(tile_floats + kRows * kTermsAtOnce) {
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }

    template <class T, class Epilogue>
    void run(const T* x_, const T* w, const Epilogue& epilogue) const {
        turn_into_panels(x_, size.rows, size.inputs, x);
        const int outputs = tiles_at_once * kRows;
        simt::parallel(quotient_up(size.outputs, outputs), [&](std::int64_t piece, int worker) {
            float* room = workers + worker * worker_floats;
            const int first = static_cast<int>(piece) * outputs;
            sum(w, first, reinterpret_cast<Tile*>(room), room + tile_floats);
            finish(reinterpret_cast<const Tile*>(room), first, epilogue);
        });
    }

  private:
    // Bound by reading w once, below some 30 rows of x; by the multipliers above.
    template <class T> void sum(const T* w, int first, Tile* tiles, float* widened) const {
        for_each_terms(1, 0, size.inputs, [&](const Terms& terms) {
            for (int i = 0; i < tiles_at_once && first + i * kRows < size.outputs; ++i) {
                const int begin = first + i * kRows;
                const int count = std::min(kRows, size.outputs - begin);
                const float* a[kRows];
                for (int row = 0; row < kRows; ++row) {
                    const T* from = w + std::int64_t{begin + row} * size.inputs + terms.place;
                    a[row] = row < count
                                 ? as_floats(from, terms.runs.length, widened + row * kTermsAtOnce)
                                 : a[count - 1];
                }
                for (int panel = 0; panel < size.row_panels(); ++panel)
                    multiply(count, std::min(kPanel, size.rows - panel * kPanel), a, terms.runs,
                             Adjacent{},
                             x + (std::int64_t{panel} * size.inputs + terms.first) * kPanel,
                             tiles[panel * tiles_at_once + i], terms.first == 0);
            }
        });
    }

    template <class Epilogue>
    void finish(const Tile* tiles, int first, const Epilogue& epilogue) const {
        const int outputs = std::min(tiles_at_once * kRows, size.outputs - first);
        for (int n = 0; n < size.rows; ++n) {
            const Tile* const own = tiles + n / kPanel * tiles_at_once;
            float row[kMostTiles * kRows + kLanes];
            for (int i = 0; i < outputs; ++i) row[i] = own[i / kRows].of[i % kRows][n % kPanel];
            for (int i = 0; i < outputs; i += kLanes) {
                const int count = std::min(kLanes, outputs - i);
                epilogue.put(n, first + i, count, load_up_to(row + i, count));
            }
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

// dx = dy w: rows are those of dy, columns inputs. Some panels of w are packed, kDepth outputs at a
// time.
struct LinearDgrad {
    static constexpr int kMostPanels = 768 / kPanel;
    static constexpr int kDepth = 64;
    LinearSize size;
    int panels_at_once; // of inputs in a piece
    float* dy;
    float* workers;
    int tiles; // of rows
    std::int64_t tile_floats, worker_floats;

    LinearDgrad(Scratch& scratch, const ConvShape& shape, bool widens)
        : size(shape), panels_at_once(piece_of(quotient_up(size.inputs, kPanel), kMostPanels)),
          dy(scratch.take<float>(widens ? std::int64_t{size.rows} * size.outputs
                                        : std::int64_t{0})),
          tiles(static_cast<int>(quotient_up(size.rows, kRows))),
          tile_floats(std::int64_t{kRows} * kPanel * panels_at_once * tiles),
          worker_floats(tile_floats + panels_at_once * kDepth * kPanel) {
        workers = scratch.take<float>(simt::workers() * worker_floats);
    }

    template <class T, class Epilogue>
    void run(const T* dy_, const T* w, const Epilogue& epilogue) const {
        const float* given = as_floats(dy_, std::int64_t{size.rows} * size.outputs, dy);
        const int inputs = panels_at_once * kPanel;
        simt::parallel(quotient_up(size.inputs, inputs), [&](std::int64_t piece, int worker) {
            float* room = workers + worker * worker_floats;
            Tile* sums = reinterpret_cast<Tile*>(room);
            const int first = static_cast<int>(piece) * inputs;
            const int columns = std::min(inputs, size.inputs - first);
            for (int depth = 0; depth < size.outputs; depth += kDepth) {
                const int deep = std::min(kDepth, size.outputs - depth);
                pack(w, depth, deep, first, columns, room + tile_floats);
                const T* next = w + (std::int64_t{depth} + deep) * size.inputs + first;
                add(given + depth, deep, columns, room + tile_floats, sums, depth == 0, next,
                    std::min(kDepth, size.outputs - depth - deep), [&](int tile, int j) {
                        if (size.outputs <= kDepth) finish(sums, tile, j, first, columns, epilogue);
                    });
            }
            if (size.outputs > kDepth)
                for (int tile = 0; tile < tiles; ++tile)
                    for (int j = 0; j < columns; j += kPanel)
                        finish(sums, tile, j, first, columns, epilogue);
        });
    }

  private:
    template <class T>
    void pack(const T* w, int depth, int deep, int first, int columns, float* to) const {
        for (int d = 0; d < deep; ++d) {
            const T* from = w + std::int64_t{depth + d} * size.inputs + first;
            for (int j = 0; j < columns; j += kLanes)
                store(to + (std::int64_t{j / kPanel} * kDepth + d) * kPanel + j % kPanel,
                      load_up_to(from + j, std::min(kLanes, columns - j)));
        }
    }

    // Bound by reading w once, below some 30 rows of dy; by the multipliers above. Meanwhile
    // prefetches the `coming` rows of w, which are packed next.
    template <class T, class Added> void add(const float* dys, int deep, int columns,
                                             const float* panels, Tile* sums, bool from_zero,
                                             const T* next, int coming, const Added& added) const {
        for (int j = 0; j < columns; j += kPanel)
            for (int tile = 0; tile < tiles; ++tile) {
                for (int d = tile; d < coming; d += tiles)
                    ask_for(next + d * std::int64_t{size.inputs} + j,
                            std::min(kPanel, columns - j));
                const int count = std::min(kRows, size.rows - tile * kRows);
                const float* a[kRows];
                for (int row = 0; row < kRows; ++row)
                    a[row] =
                        dys + std::int64_t{tile * kRows + std::min(row, count - 1)} * size.outputs;
                multiply(count, std::min(kPanel, columns - j), a, Runs{1, 0, deep}, Adjacent{},
                         panels + std::int64_t{j / kPanel} * kDepth * kPanel,
                         sums[tile * panels_at_once + j / kPanel], from_zero);
                added(tile, j);
            }
    }

    template <class Epilogue> void finish(const Tile* sums, int tile, int j, int first, int columns,
                                          const Epilogue& epilogue) const {
        const Tile& sum = sums[tile * panels_at_once + j / kPanel];
        for (int row = 0; row < std::min(kRows, size.rows - tile * kRows); ++row)
            for (int i = 0; i < std::min(kPanel, columns - j); i += kLanes)
                epilogue.put(tile * kRows + row, first + j + i, std::min(kLanes, columns - j - i),
                             load(sum.of[row] + i));
    }
};

// ---------------------------------------------------------------------- wgrad

// dw = dy^T x: rows are outputs, columns inputs, the depth the rows of both.
struct LinearWgrad {
    LinearSize size;
    float* dy; // transposed: (outputs, rows)
    float* x;  // (panels, rows, kPanel)
    int panels;

    LinearWgrad(Scratch& scratch, const ConvShape& shape)
        : size(shape), dy(scratch.take<float>(std::int64_t{size.outputs} * size.rows)),
          panels(static_cast<int>(quotient_up(size.inputs, kPanel))) {
        x = scratch.take<float>(std::int64_t{panels} * size.rows * kPanel);
    }

    template <class T, class Epilogue>
    void run(const T* x_, const T* dy_, const Epilogue& epilogue) const {
        const std::int64_t blocks_of_dy = quotient_up(size.outputs, kLanes);
        simt::parallel(panels + blocks_of_dy, [&](std::int64_t piece, int) {
            if (piece < panels)
                pack(x_, static_cast<int>(piece));
            else
                turn(dy_, static_cast<int>(piece - panels) * kLanes, epilogue);
        });
        const std::int64_t tiles = quotient_up(size.outputs, kRows);
        constexpr int kBlockBytes = 1 << 19; // of x, which stays in a core's L2 cache
        const std::int64_t panel_bytes = std::int64_t{size.rows} * kPanel * 4;
        const int panels_at_once = piece_of(
            tiles * panels,
            static_cast<int>(std::clamp<std::int64_t>(kBlockBytes / panel_bytes, 1, panels)));
        simt::parallel(tiles * quotient_up(panels, panels_at_once), [&](std::int64_t piece, int) {
            const int first = static_cast<int>(piece % tiles) * kRows;
            const int count = std::min(kRows, size.outputs - first);
            const int panel = static_cast<int>(piece / tiles) * panels_at_once;
            multiply_rows(first, count, panel, std::min(panel + panels_at_once, panels), epilogue);
        });
    }

  private:
    template <class T> void pack(const T* from, int panel) const {
        for (int n = 0; n < size.rows; ++n)
            for (int half = 0; half < kPanel; half += kLanes) {
                const int column = panel * kPanel + half;
                const int count = std::clamp(size.inputs - column, 0, kLanes);
                store(x + (std::int64_t{panel} * size.rows + n) * kPanel + half,
                      load_up_to(from + std::int64_t{n} * size.inputs + column, count));
            }
    }
    // A vector of outputs: transposed, and summed over the rows for the bias.
    template <class T, class Epilogue>
    void turn(const T* from, int first, const Epilogue& epilogue) const {
        const Filters<T> rows{from + first, 0, 0, 0, size.outputs, 1};
        const int outputs = std::min(kLanes, size.outputs - first);
        V sum{};
        for (int n = 0; n < size.rows; n += kLanes) {
            const int count = std::min(kLanes, size.rows - n);
            V block[kLanes];
            rows.load_block(rows.at(0, 0, 0, n, 0), count, outputs, block);
            for (int i = 0; i < count; ++i) sum += block[i];
            transpose(block);
            for (int i = 0; i < outputs; ++i)
                store_up_to(dy + std::int64_t{first + i} * size.rows + n, block[i], count);
        }
        epilogue.put_bias(first, outputs, sum);
    }
    // Bound by what the epilogue reads and writes: 16 bytes a weight that learns.
    template <class Epilogue>
    void multiply_rows(int first, int count, int begin, int end, const Epilogue& epilogue) const {
        const float* a[kRows];
        for (int i = 0; i < kRows; ++i)
            a[i] = dy + std::int64_t{first + std::min(i, count - 1)} * size.rows;
        for (int panel = begin; panel < end; ++panel) {
            Tile tile;
            multiply(count, std::min(kPanel, size.inputs - panel * kPanel), a,
                     Runs{1, 0, size.rows}, Adjacent{},
                     x + std::int64_t{panel} * size.rows * kPanel, tile, true);
            for (int i = 0; i < count; ++i)
                for (int half = 0; half < kPanel; half += kLanes) {
                    const int column = panel * kPanel + half;
                    const int columns = std::min(kLanes, size.inputs - column);
                    if (columns > 0)
                        epilogue.put(std::int64_t{first + i} * size.inputs + column, columns,
                                     load(tile.of[i] + half));
                }
        }
    }
};

} // namespace pyalexnet::cpu

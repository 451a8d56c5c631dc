// The tile of C that a block computes: its place, and its sums on their way to the epilogue through
// shared memory, where neighbouring threads have neighbouring fours of a row: whole sectors are
// read and written, and the epilogue's code is not repeated.
//
// The three loops on the tensor cores have their sums where mma and wgmma leave them.
#pragma once

#include "epilogue.cuh"

namespace pyalexnet {

// Where a block's tile lies in C.
struct TilePlace {
    int row, column, group, part;
};

// Along the grid tiles move first along the rows of C, or along its columns; then groups, parts.
enum class Fastest { rows, columns };

// Blocks that follow one another in the grid and whose tiles are neighbours: in a column of C, or
// in a row. The last of a column or row may lie beyond C.
struct Together {
    unsigned rows = 1, columns = 1;
};

template <class T> __device__ __forceinline__ TilePlace tile_place(const GemmSize& size,
                                                                   Fastest fastest,
                                                                   Together together = {}) {
    const unsigned of_rows = T::TileM * together.rows, of_columns = T::TileN * together.columns;
    const unsigned row_tiles = (size.rows + of_rows - 1) / of_rows;
    const unsigned column_tiles = (size.columns + of_columns - 1) / of_columns;
    const unsigned first = blockIdx.x / (together.rows * together.columns);
    const unsigned tile = first % (column_tiles * row_tiles);
    const unsigned block = first / (column_tiles * row_tiles);
    const bool down = fastest == Fastest::rows;
    const unsigned row = (down ? tile % row_tiles : tile / column_tiles) * together.rows +
                         blockIdx.x % together.rows;
    const unsigned column = (down ? tile / row_tiles : tile % column_tiles) * together.columns +
                            blockIdx.x % together.columns;
    return {static_cast<int>(row) * T::TileM, static_cast<int>(column) * T::TileN,
            static_cast<int>(block % size.groups), static_cast<int>(block / size.groups)};
}

// The part of the depth that a tile is summed over.
struct Depth {
    int begin, end;
};

__device__ __forceinline__ Depth depth_of(const TilePlace& tile, const GemmSize& size) {
    const int begin = tile.part * size.part_depth;
    return {begin, min(size.depth, begin + size.part_depth)};
}

// ---------------------------------------------------------------------- in shared memory

// A tile of sums for the epilogue. A row's groups of eight are swizzled so that neither the pairs
// that a warp writes nor the fours that it reads conflict in a bank.
template <class T> struct SumTile {
    static constexpr int kFloats = T::TileM * T::TileN;

    __device__ __forceinline__ static int at(int row, int column) {
        return row * T::TileN + (column ^ (row & 3) * 8);
    }
};

// Stores a warp's sums of 16 rows there, from (row, column) on: `sum(n, i)` is the lane's i-th sum
// in the n-th group of eight columns.
template <class T, int eights, class Sum>
__device__ __forceinline__ void put_sixteen(float* tile, int row, int column, const Sum& sum) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < eights; ++n)
            store_pair(tile +
                           SumTile<T>::at(row + half * 8 + lane / 4, column + n * 8 + lane % 4 * 2),
                       sum(n, 2 * half), sum(n, 2 * half + 1));
}

// Hands the tile to the epilogue. A thread stays in four columns; where these do not divide the
// threads, some are left over.
template <class T, class Epilogue>
__device__ __forceinline__ void finish_tile(const Epilogue& epilogue, const GemmSize& size,
                                            const TilePlace& tile, const float* sums) {
    constexpr int fours = T::TileN / 4;        // of a row
    constexpr int step = T::Finishers / fours; // rows that the threads take together
    const int first = static_cast<int>(threadIdx.x) / fours;
    const int column = static_cast<int>(threadIdx.x) % fours * 4;
    const int count = min(4, size.columns - tile.column - column);
    if (first >= step || count <= 0) return;
    const int end = min(T::TileM, size.rows - tile.row);
    const Columns columns{tile.group, tile.column + column, count};
    epilogue.with_fours(columns, [&](const auto& to) {
        constexpr int together = std::decay_t<decltype(to)>::kTogether;
        const auto take = [&](int row, auto number) {
            constexpr int rows = decltype(number)::value;
            decltype(to.read(0)) read[rows];
            Four<float> four[rows];
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                read[i] = to.read(tile.row + row + i * step);
                four[i] = *reinterpret_cast<const Four<float>*>(
                    sums + SumTile<T>::at(row + i * step, column));
            }
#pragma unroll
            for (int i = 0; i < rows; ++i) to.put(tile.row + row + i * step, read[i], four[i].of);
        };
        int row = first;
        if constexpr (together > 1)
#pragma unroll 1
            for (; row + (together - 1) * step < end; row += together * step)
                take(row, std::integral_constant<int, together>{});
#pragma unroll 1
        for (; row < end; row += step) take(row, std::integral_constant<int, 1>{});
    });
}

// Calls finish(epilogue) with the problem's epilogue, or where the depth is split with one that
// stores the sums of a part.
template <class Epilogue, class Finish>
__device__ __forceinline__ void hand_over(const Epilogue& epilogue, const GemmSize& size, int part,
                                          float* partial, const Finish& finish) {
    if (size.parts == 1)
        finish(epilogue);
    else
        finish(Parts{partial, size, part});
}

template <class T, class Epilogue>
__device__ __forceinline__ void hand_over_tile(const Epilogue& epilogue, const GemmSize& size,
                                               const TilePlace& tile, float* partial,
                                               const float* sums) {
    hand_over(epilogue, size, tile.part, partial,
              [&](const auto& to) { finish_tile<T>(to, size, tile, sums); });
}

} // namespace pyalexnet

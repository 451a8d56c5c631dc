// Which tile a product gets and how its depth is split; the kernels are in gemm.cuh.
#include "gemm.cuh"

namespace pyalexnet {
namespace {

constexpr int kBlocksToFill = 264;
constexpr int kLeastPartDepth = 16 * kSlice;

std::int64_t rounded_up(std::int64_t value, std::int64_t unit) {
    return (value + unit - 1) / unit * unit;
}

// Tiles of a product of these extents.
std::int64_t blocks_of(int rows, int columns) {
    std::int64_t blocks = 0;
    with_tile(tile_for(rows, columns),
              [&](auto tile) { blocks = tiles<decltype(tile)>(rows, columns); });
    return blocks;
}

// Splits the depth as suits a product of so many tiles.
GemmSize split_for(std::int64_t blocks, GemmSize size) {
    const std::int64_t wanted = (kBlocksToFill + blocks - 1) / blocks;
    const std::int64_t part_depth =
        rounded_up(max((size.depth + wanted - 1) / wanted, std::int64_t{kLeastPartDepth}), kSlice);
    if (part_depth >= size.depth) return size;
    size.part_depth = static_cast<int>(part_depth);
    size.parts = static_cast<int>((size.depth + part_depth - 1) / part_depth);
    return size;
}

GemmSize undivided(int groups, int rows, int columns, int depth) {
    const int pitch = static_cast<int>(rounded_up(columns, 4));
    return {groups, rows, columns, depth, pitch, 1, depth};
}

template <class T> double cost(int rows, int columns, double per_operation) {
    return per_operation * static_cast<double>(rounded_up(rows, T::TileM)) *
           static_cast<double>(rounded_up(columns, T::TileN));
}

} // namespace

TileKind tile_for(int rows, int columns) {
    // Floats read from shared memory per multiply-add: 16 for 64, 12 for 32. Taken with the loads
    // and barriers that a smaller tile shares out among fewer operations.
    const double wide = cost<WideTile>(rows, columns, 1.0);
    const double square = cost<SquareTile>(rows, columns, 1.25);
    const double narrow = cost<NarrowTile>(rows, columns, 1.25);
    if (wide <= square && wide <= narrow) return TileKind::wide;
    return square <= narrow ? TileKind::square : TileKind::narrow;
}

GemmSize gemm_size(int groups, int rows, int columns, int depth) {
    return split_for(groups * blocks_of(rows, columns), undivided(groups, rows, columns, depth));
}

GemmSize gemm_size_as_whole(int groups, int rows, int columns, int depth, int all_columns) {
    return split_for(blocks_of(rows, all_columns), undivided(groups, rows, columns, depth));
}

} // namespace pyalexnet

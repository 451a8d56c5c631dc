// Which tile a product gets and how its depth is split; the kernels are in gemm.cuh and tensor.cuh.
#include "gemm.cuh"

#include <cmath>

namespace pyalexnet {
namespace {

constexpr int kBlocksToFill = 264; // two for each of an H100's 132 multiprocessors
constexpr int kLeastPartDepth = 256;
// What storing and adding a part's sums costs in terms of its depth: 128 KiB for a tile of 128 x
// 128, the time of some 256 to 384 of the depth of bf16 at 5 TB/s and 500 TFLOP/s, and of a sixth
// of that of float32 in planes. Computed, not measured.
template <Units units> constexpr double kPartCost = units == Units::bf16 ? 256.0 : 256.0 / 6;

std::int64_t rounded_up(std::int64_t value, std::int64_t unit) {
    return (value + unit - 1) / unit * unit;
}

// Tiles of a product of these extents.
template <Units units> std::int64_t blocks_of(int rows, int columns) {
    std::int64_t blocks = 0;
    with_tile<units>(tile_for<units>(rows, columns),
                     [&](auto tile) { blocks = tiles<decltype(tile)>(rows, columns); });
    return blocks;
}

// Of the float32 units, as many parts as it takes to have a block for each that a card runs at
// once. Of the tensor cores, whose blocks all take the same time, the parts that are done soonest:
// so many rounds of blocks, each as long as a part is deep, and what it costs to store and add the
// parts' sums. A few blocks too many for a round would be a whole round more.
template <Units units> int parts_for(std::int64_t blocks, int depth) {
    if (units == Units::fp32) return static_cast<int>((kBlocksToFill + blocks - 1) / blocks);
    if (blocks >= kBlocksToFill) return 1;
    int best = 1;
    double least = depth;
    for (int parts = 2; parts <= min(depth / kLeastPartDepth, kBlocksToFill); ++parts) {
        const double rounds = static_cast<double>(blocks * parts) / kBlocksToFill;
        const double cost = std::ceil(rounds) * depth / parts + rounds * kPartCost<units>;
        if (cost >= least) continue;
        least = cost;
        best = parts;
    }
    return best;
}

// Splits the depth as suits a product of so many tiles.
template <Units units> GemmSize split_for(std::int64_t blocks, GemmSize size) {
    const std::int64_t wanted = parts_for<units>(blocks, size.depth);
    const std::int64_t part_depth =
        rounded_up(max((size.depth + wanted - 1) / wanted, std::int64_t{kLeastPartDepth}),
                   Tiles<units>::kSliceDepth);
    if (part_depth >= size.depth) return size;
    size.part_depth = static_cast<int>(part_depth);
    size.parts = static_cast<int>((size.depth + part_depth - 1) / part_depth);
    return size;
}

GemmSize undivided(int groups, int rows, int columns, int depth, bool row_sums = false) {
    const int pitch = static_cast<int>(rounded_up(columns, 4));
    return {groups, rows, columns, depth, pitch, 1, depth, row_sums};
}

template <class T> double cost(int rows, int columns, double per_operation) {
    return per_operation * static_cast<double>(rounded_up(rows, T::TileM)) *
           static_cast<double>(rounded_up(columns, T::TileN));
}

} // namespace

template <Units units> TileKind tile_for(int rows, int columns) {
    using Of = Tiles<units>;
    const double wide = cost<typename Of::Wide>(rows, columns, 1.0);
    const double square = cost<typename Of::Square>(rows, columns, Of::kSquareCost);
    const double narrow = cost<typename Of::Narrow>(rows, columns, Of::kNarrowCost);
    if (wide <= square && wide <= narrow) return TileKind::wide;
    return square <= narrow ? TileKind::square : TileKind::narrow;
}

template <Units units> GemmSize gemm_size(int groups, int rows, int columns, int depth) {
    return split_for<units>(groups * blocks_of<units>(rows, columns),
                            undivided(groups, rows, columns, depth));
}

template <Units units>
GemmSize gemm_size_with_row_sums(int groups, int rows, int columns, int depth) {
    return split_for<units>(groups * blocks_of<units>(rows, columns - 1),
                            undivided(groups, rows, columns, depth, true));
}

template <Units units>
GemmSize gemm_size_as_whole(int groups, int rows, int columns, int depth, int all_columns) {
    return split_for<units>(blocks_of<units>(rows, all_columns),
                            undivided(groups, rows, columns, depth));
}

template TileKind tile_for<Units::fp32>(int, int);
template TileKind tile_for<Units::bf16>(int, int);
template TileKind tile_for<Units::split>(int, int);
template GemmSize gemm_size<Units::fp32>(int, int, int, int);
template GemmSize gemm_size<Units::bf16>(int, int, int, int);
template GemmSize gemm_size<Units::split>(int, int, int, int);
template GemmSize gemm_size_with_row_sums<Units::bf16>(int, int, int, int);
template GemmSize gemm_size_with_row_sums<Units::split>(int, int, int, int);
template GemmSize gemm_size_as_whole<Units::fp32>(int, int, int, int, int);
template GemmSize gemm_size_as_whole<Units::bf16>(int, int, int, int, int);
template GemmSize gemm_size_as_whole<Units::split>(int, int, int, int, int);

} // namespace pyalexnet

// Which tile a product gets and how its depth is split; the kernels are in gemm.cuh, tensor.cuh and
// hopper.cuh.
#include "gemm.cuh"

#include <cmath>

namespace pyalexnet {
namespace {

constexpr int kMultiprocessors = 132; // an H100's
constexpr int kLeastPartDepth = 256;
// The cost of storing and adding a part's sums, as depth: for a 128 x 128 tile, 128 KiB take as
// long as a depth of some 256 to 384 in bf16 at 5 TB/s and 500 TFLOP/s, of a sixth of that in
// float32 planes, and of 512 with wgmma, which is faster on the same memory. Computed, not
// measured.
template <class Tiles> constexpr double kPartCost = 256.0;
template <> constexpr double kPartCost<SplitTiles> = 256.0 / 6;
template <> constexpr double kPartCost<HopperTiles> = 512.0;

std::int64_t rounded_up(std::int64_t value, std::int64_t unit) {
    return (value + unit - 1) / unit * unit;
}

// Blocks of a product, and how many of them a card runs at once.
struct Blocks {
    std::int64_t count;
    int at_once;
};

template <class Tiles> Blocks blocks_of(int groups, int rows, int columns) {
    Blocks blocks{};
    with_tile<Tiles>(tile_for<Tiles>(groups, rows, columns), [&](auto tile) {
        using T = decltype(tile);
        blocks = {std::int64_t{groups} * tiles<T>(rows, columns), T::Blocks * kMultiprocessors};
    });
    return blocks;
}

// For the float32 units, enough parts to have as many blocks as a card runs at once. For the tensor
// cores, whose blocks all take the same time, the number of parts that finishes soonest: the rounds
// of blocks, each as long as a part is deep, plus the cost of storing and adding the parts' sums. A
// few blocks too many for a round would cost a whole round more.
template <class Tiles> int parts_for(const Blocks& blocks, int depth) {
    if (std::is_same_v<Tiles, FloatTiles>)
        return static_cast<int>((blocks.at_once + blocks.count - 1) / blocks.count);
    if (blocks.count >= blocks.at_once) return 1;
    int best = 1;
    double least = depth;
    for (int parts = 2; parts <= min(depth / kLeastPartDepth, blocks.at_once); ++parts) {
        const double rounds = static_cast<double>(blocks.count * parts) / blocks.at_once;
        const double cost = std::ceil(rounds) * depth / parts + rounds * kPartCost<Tiles>;
        if (cost >= least) continue;
        least = cost;
        best = parts;
    }
    return best;
}

// Splits the depth to suit a product of so many blocks.
template <class Tiles> GemmSize split_for(const Blocks& blocks, GemmSize size) {
    const std::int64_t wanted = parts_for<Tiles>(blocks, size.depth);
    const std::int64_t part_depth = rounded_up(
        max((size.depth + wanted - 1) / wanted, std::int64_t{kLeastPartDepth}), Tiles::kSliceDepth);
    if (part_depth >= size.depth) return size;
    size.part_depth = static_cast<int>(part_depth);
    size.parts = static_cast<int>((size.depth + part_depth - 1) / part_depth);
    return size;
}

GemmSize undivided(int groups, int rows, int columns, int depth, bool row_sums = false) {
    const int pitch = static_cast<int>(rounded_up(columns, 4));
    return {groups, rows, columns, depth, pitch, 1, depth, row_sums};
}

// The cost of a product with tiles T, relative to other tiles of the same loop.
template <class Tiles, class T> double cost(int groups, int rows, int columns) {
    const auto blocks = static_cast<double>(groups) * tiles<T>(rows, columns);
    const double at_once = T::Blocks * kMultiprocessors;
    const bool whole_rounds = Tiles::kWholeRounds && blocks > at_once; // fewer are split in depth
    const double rounds = blocks / at_once;
    return (whole_rounds ? std::ceil(rounds) : rounds) * at_once * T::TileM * T::TileN;
}

} // namespace

template <class Tiles> int tile_for(int groups, int rows, int columns) {
    int best = 0;
    double least = 0.0;
    for_each_choice(typename Tiles::All{}, [&](auto choice, int number) {
        using Each = decltype(choice);
        const double of_this = Each::kCost * cost<Tiles, typename Each::T>(groups, rows, columns);
        if (number > 0 && of_this >= least) return;
        least = of_this;
        best = number;
    });
    return best;
}

template <class Tiles> GemmSize gemm_size(int groups, int rows, int columns, int depth) {
    return split_for<Tiles>(blocks_of<Tiles>(groups, rows, columns),
                            undivided(groups, rows, columns, depth));
}

template <class Tiles>
GemmSize gemm_size_with_row_sums(int groups, int rows, int columns, int depth) {
    return split_for<Tiles>(blocks_of<Tiles>(groups, rows, columns - 1),
                            undivided(groups, rows, columns, depth, true));
}

template <class Tiles>
GemmSize gemm_size_as_whole(int groups, int rows, int columns, int depth, int all_columns) {
    return split_for<Tiles>(blocks_of<Tiles>(1, rows, all_columns),
                            undivided(groups, rows, columns, depth));
}

template int tile_for<FloatTiles>(int, int, int);
template int tile_for<Bf16Tiles>(int, int, int);
template int tile_for<SplitTiles>(int, int, int);
template int tile_for<HopperTiles>(int, int, int);
template GemmSize gemm_size<FloatTiles>(int, int, int, int);
template GemmSize gemm_size<Bf16Tiles>(int, int, int, int);
template GemmSize gemm_size<SplitTiles>(int, int, int, int);
template GemmSize gemm_size<HopperTiles>(int, int, int, int);
template GemmSize gemm_size_with_row_sums<Bf16Tiles>(int, int, int, int);
template GemmSize gemm_size_with_row_sums<SplitTiles>(int, int, int, int);
template GemmSize gemm_size_with_row_sums<HopperTiles>(int, int, int, int);
template GemmSize gemm_size_as_whole<FloatTiles>(int, int, int, int, int);
template GemmSize gemm_size_as_whole<Bf16Tiles>(int, int, int, int, int);
template GemmSize gemm_size_as_whole<SplitTiles>(int, int, int, int, int);
template GemmSize gemm_size_as_whole<HopperTiles>(int, int, int, int, int);

} // namespace pyalexnet

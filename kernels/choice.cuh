// How a product is computed: by which loop, with which tile, in how many parts of its depth. All
// that decides is in this file. Python names the unit that multiplies (Unit, ops.h), which follows
// from the precision and the card; choice_of says what came of it.
//
// Sizes alone decide, never the card that runs, so that the bits are the same on any. Only
// clusters, which change no bit, are left to cards that launch them. The figures are computed for
// an H100 and an A100, not measured.
#pragma once

#include <algorithm>
#include <cmath>

#include "gemm.cuh"
#include "hopper.cuh"
#include "hopper_patch_dgrad.cuh"
#include "patch_dgrad.cuh"
#include "tensor.cuh"

namespace pyalexnet {

constexpr int kMultiprocessors = 132; // an H100's
constexpr int kLeastPartDepth = 256;

// ---------------------------------------------------------------------- the tiles of each loop

// A tile, and the relative cost of a multiply-add with it among those of its loop, in percent: a
// larger tile reads less memory, shared and other, for each.
template <class T_, int percent> struct Priced {
    using T = T_;
    static constexpr double kCost = percent / 100.0;
};
template <class... Each> struct Offer {};

// Four ways to multiply: the float32 units; the tensor cores in bf16, by warps or by warpgroups; or
// in float32, in three planes. Each has its tiles.
//
// kPartCost: that of storing and adding a part's sums, as depth. For a 128 x 128 tile, 128 KiB take
// as long as a depth of some 256 to 384 in bf16 at 5 TB/s and 500 TFLOP/s, of a sixth of that in
// float32 planes, and of 512 with wgmma, which is faster on the same memory.

// Floats read from shared memory: 16 for 64 multiply-adds, or 12 for 32. The costs include the
// loads and barriers that a smaller tile spreads over fewer operations.
struct FloatTiles {
    static constexpr const char* kLoop = "fma";
    using Element = float;
    using All = Offer<Priced<Tile<128, 128, 16, 16, 1>, 100>, // 8 x 8 sums a thread
                      Priced<Tile<64, 64, 16, 8, 3>, 125>,    // 4 x 8
                      Priced<Tile<128, 32, 16, 8, 2>, 125>>;  // 8 x 4: few filters
    static constexpr int kSliceDepth = kSlice;
};

// How long a multiprocessor's banks are busy, copies included, relative to its tensor cores: 0.75
// of the time with a wide tile, 0.8 with a narrow one, 1.5 times as long with a square one.
struct Bf16Tiles {
    static constexpr const char* kLoop = "mma";
    using Element = bf16;
    using Square = TensorTile<64, 64, 32, 32, 4, 1, 2>;
    using All = Offer<Priced<TensorTile<128, 128, 64, 64, 4, 1, 2>, 100>, Priced<Square, 150>,
                      // For few filters; with three stages two blocks fit.
                      Priced<TensorTile<256, 64, 64, 64, 3, 1, 2>, 110>>;
    static constexpr int kSliceDepth = kTensorSlice;
    static constexpr double kPartCost = 256.0;
};

// Three planes of 32 x 32 for each warp: more do not fit in registers beside the floats in flight.
// The banks are busy for 0.7 of the time that an A100's tensor cores are with a wide tile, 0.75
// with a square one; a wide one reads less from the other caches.
struct SplitTiles {
    static constexpr const char* kLoop = "mma in three planes";
    using Element = float;
    using Square = TensorTile<64, 64, 32, 32, 2, 3, 2>;
    using All = Offer<Priced<TensorTile<128, 64, 32, 32, 2, 3, 1>, 100>, Priced<Square, 110>>;
    static constexpr int kSliceDepth = kTensorSlice;
    static constexpr double kPartCost = 256.0 / 6;
};

// From `python -m bench --model h100`: clocks of a slice, as fast and as slow as memory may be, and
// what bounds it; then of a multiply-add at a depth of 27 slices, edges included, relative to the
// first tile. A price is near the mean over the passes.
//
//                 fprop, dgrad           wgrad                 relative
//   256 x 192     1,554 tensor cores     1,554 tensor cores    1.00
//   192 x 192     1,200 banks            1,165 tensor cores    1.04 (wgrad 1.00)
//   128 x 256     1,056 banks            1,034-1,280 L2        1.03-1.05 (1.03-1.21)
//   256 x 128     1,216-1,280 L2         1,152 banks           1.17-1.23 (1.11)
//   192 x 96      816-960 L2             -                     1.35-1.55
//   256 x 64      922-1,152 L2           832 banks             1.74-2.10 (1.56)
//
// The narrow one has few slices in AlexNet's conv1, where edges take a third of the time: two of
// its blocks share a multiprocessor. A warpgroup of 192 x 192 has but 64 rows: with 192 filters a
// group, or 384, nothing is multiplied in vain.
struct HopperTiles {
    static constexpr const char* kLoop = "wgmma";
    using Element = bf16;
    using All =
        Offer<Priced<HopperTile<256, 192, 3>, 100>, Priced<HopperTile<192, 192, 4, 3>, 103>,
              Priced<HopperTile<128, 256, 4>, 112>, Priced<HopperTile<256, 128, 4>, 119>,
              Priced<HopperTile<192, 96, 3, 1, 2>, 140>, Priced<HopperTile<256, 64, 4>, 186>>;
    static constexpr int kSliceDepth = kHopperSlice;
    static constexpr double kPartCost = 512.0;
};

template <class T> std::int64_t tiles(int rows, int columns) {
    return std::int64_t{simt::blocks_for(rows, T::TileM)} * simt::blocks_for(columns, T::TileN);
}

// How many blocks are a cluster with wgmma: two neighbours on the side of C whose operand is
// gathered, which share the other operand's tiles. A block by itself where this side has a single
// tile, where a last pair with but one tile in C makes a round more, or on a card without clusters.
struct Clusters {
    unsigned blocks; // of one
    std::int64_t all_blocks;
};
template <class T, bool tiled_b> Clusters clusters_of(const GemmSize& size) {
    const std::int64_t rows = simt::blocks_for(size.rows, T::TileM);
    const std::int64_t columns = simt::blocks_for(size.columns, T::TileN);
    const std::int64_t gathered = tiled_b ? rows : columns;
    const std::int64_t others = (tiled_b ? columns : rows) * size.groups * size.parts;
    const std::int64_t single = gathered * others, paired = (gathered + gathered % 2) * others;
    const auto rounds = [](std::int64_t blocks) { return (blocks - 1) / kMultiprocessors; };
    if (gathered == 1 || rounds(paired) > rounds(single) || !simt::launches_clusters())
        return {1, single};
    return {2, paired};
}

// Calls `use` with each tile that suits. A B along its lines lies in swizzled tiles of 64 lines;
// wgmma takes these whole.
template <class Tiles, Contiguous of_b, class Use, class... Each>
void for_each_tile(Offer<Each...>, Use use) {
    constexpr bool whole = std::is_same_v<Tiles, HopperTiles> && of_b == Contiguous::line;
    const auto offer = [&](auto each) {
        if constexpr (!whole || decltype(each)::T::TileN % simt::kTileColumns == 0) use(each);
    };
    (offer(Each{}), ...);
}

// Calls `use` with a value of the type of the cheapest tile for a product, the first of equals.
// What is computed outside C counts too. With wgmma, whose blocks are large, a partial last round
// of them (one on each multiprocessor) counts as a whole one.
template <class Tiles, Contiguous of_b, class Use>
void with_tile(int groups, int rows, int columns, Use use) {
    const auto price = [&](auto each) {
        using T = typename decltype(each)::T;
        const auto blocks = static_cast<double>(groups * tiles<T>(rows, columns));
        const double rounds = blocks / kMultiprocessors;
        const bool whole = std::is_same_v<Tiles, HopperTiles> && rounds > 1; // fewer: see split
        return each.kCost * ((whole ? std::ceil(rounds) : rounds) * T::TileM * T::TileN);
    };
    typename Tiles::All all;
    double least = std::numeric_limits<double>::infinity();
    for_each_tile<Tiles, of_b>(all, [&](auto each) { least = std::min(least, price(each)); });
    bool taken = false;
    for_each_tile<Tiles, of_b>(all, [&](auto each) {
        if (taken || price(each) > least) return;
        taken = true;
        use(typename decltype(each)::T{});
    });
}

// ---------------------------------------------------------------------- parts of the depth

// How many parts suit so many blocks if a card runs `at_once` of them at a time. For the float32
// units, enough to have as many blocks as that. For the tensor cores, whose blocks all take the
// same time, the number of parts that finishes soonest: the rounds of blocks, each as long as a
// part is deep, plus the cost of storing and adding the parts' sums. A few blocks too many for a
// round would cost a whole round more.
template <class Tiles> std::int64_t parts_for(std::int64_t blocks, int at_once, int depth) {
    if constexpr (std::is_same_v<Tiles, FloatTiles>) {
        return (at_once + blocks - 1) / blocks;
    } else {
        if (blocks >= at_once) return 1;
        int best = 1;
        double least = depth;
        for (int parts = 2; parts <= std::min(depth / kLeastPartDepth, at_once); ++parts) {
            const double rounds = static_cast<double>(blocks * parts) / at_once;
            const double cost = std::ceil(rounds) * depth / parts + rounds * Tiles::kPartCost;
            if (cost >= least) continue;
            least = cost;
            best = parts;
        }
        return best;
    }
}

// Splits the depth of a product into parts where one with so many groups and columns has too few
// tiles to fill a card; no part is shallower than kLeastPartDepth.
template <class Tiles, Contiguous of_b> GemmSize split(GemmSize size, int groups, int columns) {
    std::int64_t wanted = 1;
    with_tile<Tiles, of_b>(groups, size.rows, columns, [&](auto tile) {
        using T = decltype(tile);
        wanted = parts_for<Tiles>(groups * tiles<T>(size.rows, columns),
                                  T::Blocks * kMultiprocessors, size.depth);
    });
    const std::int64_t deep =
        std::max<std::int64_t>((size.depth + wanted - 1) / wanted, kLeastPartDepth);
    const std::int64_t part_depth =
        (deep + Tiles::kSliceDepth - 1) / Tiles::kSliceDepth * Tiles::kSliceDepth;
    if (part_depth >= size.depth) return size;
    size.part_depth = static_cast<int>(part_depth);
    size.parts = static_cast<int>((size.depth + part_depth - 1) / part_depth);
    return size;
}

// The product of a pass (conv.cu has what its sides are), its depth split. That of fprop is split
// as the whole layer's would be: so an element is summed in the same order however the filters are
// divided into groups and among devices.
template <class Tiles> GemmSize size_of(Pass pass, const ConvShape& s) {
    const auto undivided = [&](int rows, int columns, int depth) {
        const int pitch = (columns + 3) / 4 * 4;
        return GemmSize{s.groups, rows, columns, depth, pitch, 1, depth};
    };
    const Geometry g{s};
    if (pass == Pass::fprop)
        return split<Tiles, Contiguous::depth>(undivided(g.out_pixels, g.group_filters, g.taps), 1,
                                               s.filters * s.towers);
    GemmSize size =
        undivided(g.in_pixels, g.group_channels, s.filter_h * s.filter_w * g.group_filters);
    if (pass == Pass::wgrad) size = undivided(g.group_filters, g.taps + 1, g.out_pixels);
    return split<Tiles, Contiguous::line>(size, s.groups, size.columns);
}

// ---------------------------------------------------------------------- patches

// What blocks cost on a full card, in products: those they multiply, useful or not, or what they
// fetch from the L2 cache, whichever is more. At 5 TB/s and 500 TFLOP/s a byte takes as long as 50
// products.
inline double block_cost(std::int64_t blocks, double products, double bytes) {
    constexpr double products_of_a_byte = 50;
    return static_cast<double>(blocks) * std::max(products, bytes * products_of_a_byte);
}

// Whether dgrad of bf16 in whole vectors is computed in patches: the shape alone decides. First,
// patches can hold it: stride 1, at most 64 channels a group and 256 pixels a row, enough taps to
// load the next patch meanwhile, and room for two blocks in an A100's 164 KiB. Second, it costs
// less: fewer bytes, though a tile's pixels beyond whole rows and its surplus channels are
// multiplied in vain. Third, there are blocks for nearly all multiprocessors of a card, or fewer
// where the main loop would not split the depth either. With few channels this beats wgmma too, by
// the same arithmetic: for conv2 the cache allows 568 us with either main loop, 242 us in patches.
//
// AlexNet's conv2 at batch 256, in 1e9 products:
//
//               multiplied   of them useful   bytes from L2   in products
//   main loop         76.4            75.0%          2.84e9         141.8
//   patches           60.4            94.9%          0.63e9          31.5
inline bool suits_patches(const ConvShape& s) {
    constexpr std::size_t room = 81 * 1024;
    constexpr int enough_blocks = 128;
    const int channels = s.channels / s.groups;
    if (s.stride_h != 1 || s.stride_w != 1 || channels > 64 || s.width > kPatchPixels ||
        s.filter_h * s.filter_w < kPatchStages - 1)
        return false;
    const PatchShape patch(s);
    const int taps = s.filter_h * s.filter_w;
    const double filters = simt::blocks_for(s.filters / s.groups, kTensorSlice) * kTensorSlice;
    std::size_t shared = 0;
    double patch_cost = 0, gemm_cost = 0;
    // For each filter the patch's pixels are fetched once, and all of w.
    with_patch_tile(channels, [&](auto tile) {
        using T = decltype(tile);
        shared = patch_shared<T>(patch);
        patch_cost = block_cost(patch.blocks(s), filters * taps * kPatchPixels * T::Channels,
                                sizeof(bf16) * filters * (patch.pixels + taps * channels));
    });
    // In the main loop pixels and channels are fetched along the whole depth.
    const GemmSize gemm = size_of<Bf16Tiles>(Pass::dgrad, s);
    with_tile<Bf16Tiles, Contiguous::line>(gemm.groups, gemm.rows, gemm.columns, [&](auto tile) {
        using T = decltype(tile);
        const double depth = gemm.depth;
        gemm_cost =
            block_cost(tiles<T>(gemm.rows, gemm.columns) * gemm.groups, depth * T::TileM * T::TileN,
                       sizeof(bf16) * depth * (T::TileM + std::min(T::TileN, gemm.columns)));
    });
    return shared <= room && patch.rows * s.width >= kFragment &&
           (gemm.parts == 1 || patch.blocks(s) >= enough_blocks) && patch_cost < gemm_cost;
}

// Whether wgmma computes it in patches sooner than mma.sync. For 64 places and 16 filters it takes
// the banks of an H100 16 + C / 4 clocks, the other takes its tensor cores 0.76 C, at the rate that
// they have for mma.sync; with 32 channels that is the same. Two blocks have to fit, and a patch
// needs enough taps to come with.
inline bool suits_hopper_patches(const ConvShape& s) {
    constexpr std::size_t room = 112 * 1024;
    constexpr double clocks_of_channel = 0.76;
    const int channels = s.channels / s.groups;
    if (channels <= 32 || s.filter_h * s.filter_w < kStageTaps * kRingStages) return false;
    const PlaceShape shape(s);
    if (shape.places(s) > INT_MAX - shape.pixels - kPatchPixels) return false;
    bool suits = false;
    with_hopper_patch_tile(channels, [&](auto tile) {
        using T = decltype(tile);
        const auto wgmma = static_cast<double>(shape.places(s) * s.groups) * (16 + T::Channels / 4);
        const auto mma = static_cast<double>(PatchShape(s).blocks(s) * kPatchPixels) * T::Channels;
        suits = patch_shared<T>(shape) <= room && wgmma < mma * clocks_of_channel;
    });
    return suits;
}

// Calls `use` with the tile for dgrad in patches.
template <class Use> void with_patches(const ConvShape& s, Use use) {
    const int channels = s.channels / s.groups;
    if (s.unit == Unit::wgmma && suits_hopper_patches(s))
        with_hopper_patch_tile(channels, use);
    else
        with_patch_tile(channels, use);
}

// ---------------------------------------------------------------------- the loop

// How the operands lie in memory. in_vectors: in rows of whole vectors, eight elements aligned to
// 16 bytes. in_tiles: each slice of the one that Hopper's loop loads by TMA (B, if TiledB) is a
// rectangle of a matrix.
struct OperandLayout {
    bool in_vectors;
    bool in_tiles;
};

// Whether NearOffset holds how far from its first pixel a filter may begin, on either map.
inline bool is_near(const ConvShape& s) {
    const double rows = std::max(s.height, s.out_height) * double(s.stride_h) + s.pad_top;
    const double columns = std::max(s.width, s.out_width) * double(s.stride_w) + s.pad_left;
    const double chunks =
        (s.images + 1.0) * rows * columns * std::max(s.channels, s.filters) / kChunk;
    return std::max(rows, columns) <= SHRT_MAX && chunks <= INT_MAX;
}

// As far as a pass's shape says; its arrays have to be aligned as well.
inline OperandLayout operand_layout(Pass pass, const ConvShape& s) {
    const auto whole = [](std::int64_t extent) { return extent % kChunk == 0; };
    const int channels = s.channels / s.groups, filters = s.filters / s.groups;
    const bool x = whole(channels) && whole(s.channels), dy = whole(filters) && whole(s.filters);
    if (pass == Pass::dgrad)
        // With a stride elements are gathered singly. A slice must not cross from one tap into the
        // next.
        return {s.stride_h == 1 && s.stride_w == 1 && dy && whole(channels),
                is_near(s) && (filters % kHopperSlice == 0 ||
                               (s.groups == 1 && s.filter_h == 1 && s.filter_w == 1))};
    const bool vectors = x && (pass == Pass::fprop ? whole(s.taps()) : dy);
    return {vectors, vectors && (pass == Pass::wgrad || is_near(s))};
}

// A main loop: its tiles, and whether it loads whole vectors. In most problems it is B that
// Hopper's loop loads by TMA.
template <class Tiles_, bool vectors_> struct Loop {
    using Tiles = Tiles_;
    using Element = typename Tiles::Element;
    using TiledB = std::true_type;
    static constexpr bool vectors = vectors_;
};

// Calls `use` with the loop for operands of type T. That of the float32 units uses no vectors.
template <class T, class Use> void with_loop(Unit unit, OperandLayout layout, Use use) {
    if constexpr (std::is_same_v<T, bf16>) {
        if (!layout.in_vectors) return use(Loop<Bf16Tiles, false>{});
        if (unit == Unit::wgmma && layout.in_tiles) return use(Loop<HopperTiles, true>{});
        return use(Loop<Bf16Tiles, true>{});
    } else {
        if (unit == Unit::fma) return use(Loop<FloatTiles, false>{});
        return layout.in_vectors ? use(Loop<SplitTiles, true>{}) : use(Loop<SplitTiles, false>{});
    }
}

// Calls `use` with the tile for a product. Where the tensor cores' elements have to be gathered
// singly, that dominates the time: one tile is enough.
template <class Loop, Contiguous of_b, class Use> void with_tile_of(const GemmSize& size, Use use) {
    using Tiles = typename Loop::Tiles;
    if constexpr (Loop::vectors || std::is_same_v<Tiles, FloatTiles>)
        with_tile<Tiles, of_b>(size.groups, size.rows, size.columns, use);
    else
        use(typename Tiles::Square{});
}

template <class T> Choice choice_of(Pass pass, const ConvShape& s) {
    const OperandLayout layout = operand_layout(pass, s);
    Choice found{};
    if (std::is_same_v<T, bf16> && pass == Pass::dgrad && layout.in_vectors && suits_patches(s)) {
        with_patches(s, [&](auto tile) {
            using Tile = decltype(tile);
            found = {Tile::kLoop, kPatchPixels, Tile::Channels, 1};
        });
        return found;
    }
    with_loop<T>(s.unit, layout, [&](auto loop) {
        using Loop = decltype(loop);
        const GemmSize size = size_of<typename Loop::Tiles>(pass, s);
        const auto note = [&](auto tile) {
            found = {Loop::Tiles::kLoop, decltype(tile)::TileM, decltype(tile)::TileN, size.parts};
        };
        if (pass == Pass::fprop)
            with_tile_of<Loop, Contiguous::depth>(size, note);
        else
            with_tile_of<Loop, Contiguous::line>(size, note);
    });
    return found;
}

} // namespace pyalexnet

// dgrad in patches (patch_dgrad.cuh) on Hopper: wgmma reads a patch of dy straight out of shared
// memory, from another pixel on for each tap.
//
// The rows of a product are consecutive in shared memory, so all pixels, of dx and of dy, are
// numbered in one line: column by column, row by row, image by image, with as many places behind
// each row and each image as the larger of its two paddings. A tap then sees dy at the same
// distance from every place, and beyond a row's end it meets only places that stand for zeros: the
// padding behind one row is also that before the next. A block computes 256 consecutive places of
// dx; those that are no pixels are multiplied in vain, 13% in AlexNet's conv2.
//
// A patch lies in planes, which are not swizzled: each holds eight filters, 16 bytes, of one pixel
// after another, and wgmma may begin at any pixel. In swizzled tiles it could not: PTX does not say
// how a tile is read that begins in another than the first of eight rows. Slices of w lie in planes
// of eight channels. Two warpgroups multiply and a third copies, as in hopper.cuh; a stage's
// barrier also tells of the share of the next patch that was copied with it.
//
// An element is summed in the same order as by the other kernel.
#pragma once

#include "simt/hopper.hpp"

#include "hopper.cuh"
#include "patch_dgrad.cuh"

namespace pyalexnet {

// For a thread that copies, and one that multiplies: 2 x 3 warpgroups begin with 80 each.
constexpr int kFewPatchRegisters = 32;
constexpr int kManyPatchRegisters = 104;

constexpr int kRingStages = 3;
constexpr int kStageTaps = 2; // whose slices of w are in a stage

// ---------------------------------------------------------------------- the patch

// The numbering of places, and the places of dy in a patch.
struct PlaceShape {
    int pitch, lines; // places of a row, rows of an image
    int pixels;       // of a patch
    int plane;        // pieces from one plane to the next: chunks of a pixel in different banks
    Divisor by_pitch{pitch}, by_lines{lines};

    explicit PlaceShape(const ConvShape& s)
        : pitch(extent(s.width, s.pad_left, s.filter_w, s.out_width)),
          lines(extent(s.height, s.pad_top, s.filter_h, s.out_height)),
          pixels(kPatchPixels + (s.filter_h - 1) * pitch + s.filter_w - 1),
          plane((pixels + 5) / 8 * 8 + 2) {}

    std::int64_t places(const ConvShape& s) const { return std::int64_t{s.images} * lines * pitch; }
    std::int64_t blocks(const ConvShape& s) const {
        return (places(s) + kPatchPixels - 1) / kPatchPixels * s.groups;
    }
    __device__ Pixel pixel(int place) const { return digits_of<Pixel>(place, by_lines, by_pitch); }

  private:
    // Where paddings exceed the filter, dy has more pixels than dx and its padding.
    static int extent(int in, int before, int filter, int out) {
        const int after = out + filter - 1 - in - before;
        return std::max(out, in + std::max(before, after));
    }
};

template <int Channels_> struct HopperPatchTile {
    static constexpr const char* kLoop = "wgmma patches";
    static constexpr int Channels = Channels_;
    using Shape = PlaceShape;
    using Sums = HopperTile<kPatchPixels, 64, kRingStages>;
    static constexpr int Threads = Sums::Finishers + kPatchLoaders;
    static constexpr int Products = Sums::Products;
    static_assert(Channels <= Sums::TileN && kPatchLoaders == kWarpgroup);
};

// The patch of a block that computes consecutive places.
struct PatchOfPlaces {
    const PlaceShape& shape;
    int images, image_pixels; // of dy
    int first;                // place

    __device__ PatchPixel find(int pixel, int chunk) const {
        const int place = first + pixel;
        const Pixel found = shape.pixel(max(place, 0));
        const bool inside = place >= 0 && found.image < images;
        return {{found.image * image_pixels, inside ? found.row : -1, found.column},
                (chunk * shape.plane + pixel) * kChunk};
    }
};

// 32 filters x channels of one tap.
template <int Channels> struct TapPlanes {
    static constexpr int kChunks = Channels / kChunk;
    static constexpr int kFilter = kChunk;          // elements from one filter to the next
    static constexpr int kPlane = kTensorSlice + 1; // pieces: odd, for the banks
    static constexpr int kPieces = kChunks * kPlane;

    __device__ __forceinline__ static int at(int filter, int chunk) {
        return (chunk * kPlane + filter) * kChunk;
    }
};

// ---------------------------------------------------------------------- the two roles

// The patches, which take turns in two places, and behind them the stages. Distances in pieces.
template <class T> struct PatchRing {
    using Slice = TapPlanes<T::Channels>;
    static constexpr int kStage = kStageTaps * Slice::kPieces;
    const PatchDgrad<PlaceShape>& p;
    bf16* patches;
    simt::Mbarrier* full; // of each stage
    simt::Mbarrier* empty;
    int taps = p.g.shape.filter_h * p.g.shape.filter_w;
    int patch = kPatchChunks * p.patch.plane;
    int slices = (p.g.group_filters + kTensorSlice - 1) / kTensorSlice * taps;
    unsigned fills = static_cast<unsigned>((slices + kStageTaps - 1) / kStageTaps); // of stages

    __device__ bf16* patch_at(int number) const { return patches + number % 2 * patch * kChunk; }
    __device__ bf16* slice_at(int slice) const {
        return patches + (2 * patch + slice * Slice::kPieces) * kChunk;
    }
};

// A patch is copied along with slices of the patch before it. That begins when the last slice of
// the patch whose place it takes has been handed back; all of it has come by the first slice of its
// own. If the last stage is half empty, a slice and a patch of zeros fill it.
template <class T>
__device__ __forceinline__ void bring_patches(const PatchLoader<PatchOfPlaces>& loader,
                                              TapLoader<TapPlanes<T::Channels>>& taps_of,
                                              const PatchRing<T>& ring) {
    constexpr int behind = kStageTaps * (kRingStages - 1);
    const int patches = (static_cast<int>(ring.fills) * kStageTaps + ring.taps - 1) / ring.taps;
    const int rounds = loader.rounds();
    const int fills = (ring.taps - behind) / kStageTaps; // that bring a patch
    const int rounds_each = (rounds + fills - 1) / fills;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) loader.begin(ring.patch_at(0), 0, round);
    int tap = 0, number = 0, round = 0; // the first slice's, its patch's; of the next patch
    for (unsigned fill = 0; fill < ring.fills; ++fill) {
        const unsigned stage = fill % kRingStages, lap = fill / kRingStages;
        simt::mbarrier_wait(ring.empty[stage], ~lap & 1u); // not in the first lap
        if (tap >= behind && number + 1 < patches)
#pragma unroll 1
            for (int end = min(rounds, round + rounds_each); round < end; ++round)
                loader.begin(ring.patch_at(number + 1), (number + 1) * kTensorSlice, round);
#pragma unroll
        for (int i = 0; i < kStageTaps; ++i)
            taps_of.begin(ring.slice_at(static_cast<int>(stage) * kStageTaps + i));
        simt::cp_async_mbarrier_arrive(ring.full[stage]);
        tap += kStageTaps;
        if (tap < ring.taps) continue;
        tap -= ring.taps;
        round = 0;
        ++number;
    }
}

template <class T> using PatchSums = Sums<T, T::Channels>;

// As taps run from first to last, the place at which they see the first row runs through the
// patch's margin from last to first.
template <class T> __device__ __forceinline__ void
multiply_patches(PatchSums<T>& sums, int first_row, const PatchRing<T>& ring) {
    using Slice = TapPlanes<T::Channels>;
    constexpr unsigned piece = kChunk * sizeof(bf16);
    const ConvShape& s = ring.p.g.shape;
    const PlaceShape& shape = ring.p.patch;
    const auto first_a = simt::k_planes(ring.patches + first_row * kChunk, shape.plane * piece);
    const auto first_b = simt::mn_planes(ring.slice_at(0), Slice::kPlane * piece);
    const bool speaks = threadIdx.x % 32 == 0;
    const int last = (s.filter_h - 1) * shape.pitch + s.filter_w - 1;
    int place = last, column = s.filter_w - 1, margin = ring.taps - 1, patch = 0;
    for (unsigned fill = 0; fill < ring.fills; ++fill) {
        const unsigned stage = fill % kRingStages, lap = fill / kRingStages;
        simt::mbarrier_wait(ring.full[stage], lap & 1u);
        simt::fence_proxy_async();
        simt::wgmma_fence();
#pragma unroll
        for (int i = 0; i < kStageTaps; ++i) {
            const auto a = simt::further(first_a, static_cast<unsigned>(patch + place));
            const auto b =
                simt::further(first_b, stage * PatchRing<T>::kStage + i * Slice::kPieces);
#pragma unroll
            for (int k = 0; k < kTensorSlice; k += kWgmmaDepth)
#pragma unroll
                for (int m = 0; m < T::Products; ++m)
                    simt::wgmma<T::Channels>(
                        sums.of[m], simt::further(a, k / kChunk * shape.plane + m * kWgmmaRows),
                        simt::further(b, k));
            --place;
            if (--column < 0) {
                column = s.filter_w - 1;
                place -= shape.pitch - s.filter_w;
            }
            if (--margin < 0) {
                margin = ring.taps - 1;
                place = last;
                patch = ring.patch - patch;
            }
        }
        simt::wgmma_commit();
#pragma unroll
        for (int m = 0; m < T::Products; ++m) simt::wgmma_wait<1>(sums.of[m]);
        if (fill > 0 && speaks) simt::mbarrier_arrive(ring.empty[(fill - 1) % kRingStages]);
    }
#pragma unroll
    for (int m = 0; m < T::Products; ++m) simt::wgmma_wait<0>(sums.of[m]);
}

// How many pixels of dx lie before a place.
__device__ __forceinline__ int pixels_before(const Pixel& place, const ConvShape& s) {
    const int row = min(place.row, s.height);
    const int column = place.row < s.height ? min(place.column, s.width) : 0;
    return (place.image * s.height + row) * s.width + column;
}

// Stores a thread's sums of pixels, side by side as in dx.
template <class T> __device__ __forceinline__ void put_pixels(const PatchSums<T>& sums,
                                                              const PlaceShape& shape,
                                                              const ConvShape& s, int first_place,
                                                              int first_pixel, float* tile) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    const int row = thread / kWarpgroup * T::Sums::Rows + thread % kWarpgroup / 32 * 16 + lane / 4;
#pragma unroll
    for (int m = 0; m < T::Products; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Pixel place = shape.pixel(first_place + row + m * kWgmmaRows + half * 8);
            if (place.row >= s.height || place.column >= s.width) continue;
            const int pixel = pixels_before(place, s) - first_pixel;
#pragma unroll
            for (int n = 0; n < T::Channels / 8; ++n)
                store_pair(tile + SumTile<typename T::Sums>::at(pixel, n * 8 + lane % 4 * 2),
                           sums.of[m][4 * n + 2 * half], sums.of[m][4 * n + 2 * half + 1]);
        }
}

// ---------------------------------------------------------------------- the kernel

// A block computes 256 places of dx for one group. Along the grid groups move fastest, then places.
// Two blocks share a multiprocessor, so that one multiplies while the other begins or ends.
//
// Bound by the banks of shared memory: a product of 64 pixels and 16 filters takes the tensor cores
// half as many clocks as there are channels, but 16 for its pixels and a quarter as many as there
// are channels for its part of w: 28 with 48 channels.
template <class T> __global__ void __launch_bounds__(T::Threads, 2)
    hopper_patch_dgrad_kernel(PatchDgrad<PlaceShape> p) {
    SIMT_DYN_SHARED(float, shared);
    SIMT_SHARED(simt::Mbarrier, full, [kRingStages]);
    SIMT_SHARED(simt::Mbarrier, empty, [kRingStages]);
    SIMT_SHARED(simt::Mbarrier, ended, [2]); // the products; the stores of the sums

    const ConvShape& s = p.g.shape;
    const int group = static_cast<int>(blockIdx.x) % s.groups;
    const int first_place = static_cast<int>(blockIdx.x) / s.groups * kPatchPixels;
    const PatchRing<T> ring{p, reinterpret_cast<bf16*>(shared), full, empty};
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        for (int stage = 0; stage < kRingStages; ++stage) {
            simt::mbarrier_init(full[stage], kPatchLoaders);
            simt::mbarrier_init(empty[stage], T::Sums::Finishers / 32);
        }
        for (int i = 0; i < 2; ++i) simt::mbarrier_init(ended[i], T::Sums::Finishers);
    }
    __syncthreads();

    if (thread >= T::Sums::Finishers) {
        simt::lower_registers<kFewPatchRegisters, 2>();
        const int margin =
            (s.filter_h - 1 - s.pad_top) * p.patch.pitch + s.filter_w - 1 - s.pad_left;
        TapLoader<TapPlanes<T::Channels>> taps_of{p.g, p.w + std::int64_t{group} *
                                                                 p.g.group_filters * p.g.taps};
        bring_patches<T>({p.g,
                          p.dy + group * p.g.group_filters,
                          {p.patch, s.images, p.g.out_image_pixels, first_place - margin}},
                         taps_of, ring);
        return;
    }
    simt::raise_registers<kManyPatchRegisters, 2>();
    // The same for all lanes of a warp, which the compiler cannot see.
    const int first_row = __shfl_sync(~0u, thread / kWarpgroup, 0) * T::Sums::Rows;
    PatchSums<T> sums;
    multiply_patches(sums, first_row, ring);
    meet(ended[0]);
    const int first_pixel = pixels_before(p.patch.pixel(first_place), s);
    put_pixels<T>(sums, p.patch, s, first_place, first_pixel, shared);
    meet(ended[1]);
    GemmSize size{};
    size.rows = min(p.g.in_pixels, pixels_before(p.patch.pixel(first_place + kPatchPixels), s));
    size.columns = p.g.group_channels;
    finish_tile<typename T::Sums>(p.epilogue, size, {first_pixel, 0, group, 0}, shared);
}

// ---------------------------------------------------------------------- launching

template <class T> std::size_t patch_shared(const PlaceShape& patch) {
    const std::size_t copies =
        sizeof(bf16) * (2 * std::size_t(patch.plane) * kPatchChunks * kChunk +
                        kRingStages * PatchRing<T>::kStage * kChunk);
    return std::max(copies, sizeof(float) * SumTile<typename T::Sums>::kFloats);
}

// Calls `use` with the tile for so many channels, of more than 32.
template <class Use> void with_hopper_patch_tile(int channels, Use use) {
    if (channels <= 48) return use(HopperPatchTile<48>{});
    return use(HopperPatchTile<64>{});
}

} // namespace pyalexnet

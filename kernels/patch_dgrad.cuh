// dgrad of a convolution of stride 1 with few channels in a group, on the tensor cores: each pixel
// of dy is fetched once for all taps.
//
// The main loop of tensor.cuh fetches its A, dy, once for every tap, and where a group has few
// channels it does little with it: with 48 channels in a tile of 256 x 64 a byte from the L2
// cache serves 20 useful products, while the tensor cores do 50 in the time that it takes. Here a
// block computes whole rows of an image of dx. It keeps the pixels of dy that contribute to them, a
// patch with a margin as wide as the filter, in shared memory, and multiplies them by one tap
// after another.
//
//   dx[pixel][c] = sum over f, tap of dy[pixel - tap][f] * w[f][tap][c]
//
// hopper_patch_dgrad.cuh has the same for Hopper's wgmma.
//
// A patch holds 32 filters at a time; the slices of w for its taps pass through a ring of stages.
// While they are multiplied, the patch of the next 32 filters arrives, a share with each slice. So
// all copies but those that a block begins with hide behind products, and one barrier a slice is
// enough.
//
// An element is summed over blocks of 32 filters, within these over taps, within these 16 filters
// at a time, in order. The depth is never split: the sum depends on the filter's shape alone.
#pragma once

#include "tensor.cuh"

namespace pyalexnet {

constexpr int kPatchPixels = 256;                   // of dx that a block has sums for
constexpr int kPatchStages = 4;                     // of w
constexpr int kPatchWarp = 64;                      // pixels of a warp
constexpr int kPatchLoaders = 128;                  // threads that copy
constexpr int kPatchChunks = kTensorSlice / kChunk; // of a pixel in a patch

// ---------------------------------------------------------------------- the patch

// What a block computes and keeps, for one convolution.
struct PatchShape {
    int row_tiles; // of an image
    int rows;      // of dx, in a block
    int pitch;     // pixels from one row of a patch to the next
    int pixels;    // of a patch
    Divisor by_pitch{pitch}, by_row_tiles{row_tiles};

    // The pitch is odd or even as the width is: see patch_chunk.
    explicit PatchShape(const ConvShape& s)
        : row_tiles(parts(s.height, std::max(1, kPatchPixels / s.width))),
          rows(parts(s.height, row_tiles)), pitch(s.width + s.filter_w / 2 * 2),
          pixels((rows + s.filter_h - 1) * pitch) {}

    std::int64_t blocks(const ConvShape& s) const {
        return std::int64_t{s.images} * s.groups * row_tiles;
    }

  private:
    static int parts(int whole, int part) { return (whole + part - 1) / part; }
};

// The tiles by channels of a group, and the layout of their sums for the epilogue, in rows whose
// length is a power of two.
template <int Channels_> struct PatchTile {
    static constexpr const char* kLoop = "patches";
    static constexpr int Channels = Channels_;
    using Shape = PatchShape;
    using Sums = TensorTile<kPatchPixels, Channels == 48 ? 64 : Channels, kPatchWarp,
                            Channels == 48 ? 64 : Channels, kPatchStages, 1, 2>;
    static constexpr int Threads = Sums::Threads;
    static_assert(Threads == kPatchLoaders);
};

// Pixels x 32 filters: each pixel has four 16-byte chunks. They are swizzled by the pixel's number,
// counted as if rows had no margin. So the numbers of eight neighbouring pixels of a tile are
// consecutive, whatever the tap and even where a row ends between them, and ldmatrix finds them in
// eight different groups of four banks.
__device__ __forceinline__ int patch_chunk(int number, int chunk) {
    return (chunk ^ (number >> 1) % kPatchChunks) * kChunk;
}

// 32 filters x channels of one tap. Chunks are swizzled so that those of eight filters lie in
// different groups of four banks.
template <int Channels> struct TapSlice {
    static constexpr int kChunks = Channels / kChunk;
    static constexpr int kCycle = kChunks % 8 == 0 ? 1 : kChunks % 4 == 0 ? 2 : 4;
    static constexpr int kFilter = Channels; // elements from one filter to the next
    static constexpr int kElements = kTensorSlice * kFilter;
    static_assert(kChunks % 2 == 0 && kChunks <= 8);

    __device__ __forceinline__ static int at(int filter, int chunk) {
        return filter * kFilter + (chunk ^ filter / kCycle % (8 / kCycle)) * kChunk;
    }
};

// ---------------------------------------------------------------------- copies

template <class Shape> struct PatchDgrad {
    const bf16* dy;
    const bf16* w;
    Geometry g;
    DgradEpilogue<bf16> epilogue;
    Shape patch{g.shape};
};

// A pixel of dy (`image` is the first pixel of its image), and where a chunk of it goes in a patch.
struct PatchPixel {
    Pixel from;
    int to;
};

// The patch of a block that computes whole rows of an image.
struct PatchOfRows {
    const PatchShape& shape;
    int width;   // of dx
    Pixel first; // of dy, as in PatchPixel

    __device__ PatchPixel find(int pixel, int chunk) const {
        const Digits at = shape.by_pitch.divide(pixel);
        return {{first.image, first.row + at.high, first.column + at.low},
                pixel * kTensorSlice + patch_chunk(at.high * width + at.low, chunk)};
    }
};

// Loads a block's patches into shared memory, 16 bytes per thread at a time.
template <class Where> struct PatchLoader {
    static constexpr int kPixels = kPatchLoaders / kPatchChunks; // a round
    const Geometry& g;
    const bf16* dy; // from the group's first filter on
    Where patch;

    __device__ int rounds() const { return (patch.shape.pixels + kPixels - 1) / kPixels; }

    // Begins to load one round of the pixels, 32 of their filters from `filter` on.
    __device__ __forceinline__ void begin(bf16* to, int filter, int round) const {
        const int thread = static_cast<int>(threadIdx.x) % kPatchLoaders;
        const int pixel = round * kPixels + thread / kPatchChunks;
        if (pixel >= patch.shape.pixels) return;
        const int chunk = thread % kPatchChunks;
        const PatchPixel found = patch.find(pixel, chunk);
        const auto [image, row, column] = found.from;
        const ConvShape& s = g.shape;
        const int place = index_of(image, row, s.out_width, column);
        filter += chunk * kChunk;
        simt::cp_async_16(to + found.to, element_of(dy, place, s.filters, filter),
                          below(row, s.out_height) && below(column, s.out_width) &&
                              filter < g.group_filters);
    }
};

// Loads slices of w, one after another: tap by tap for 32 filters, then for the next 32.
template <class Slice> struct TapLoader {
    // Threads for a filter; those without a chunk are idle.
    static constexpr int kThreads = Slice::kChunks == 4 ? 4 : 8;
    static constexpr int kFilters = kPatchLoaders / kThreads; // at a time
    static_assert(Slice::kChunks <= kThreads && kTensorSlice % kFilters == 0);
    const Geometry& g;
    const bf16* w; // from the group's first filter on
    int thread = static_cast<int>(threadIdx.x) % kPatchLoaders;
    int first = thread / kThreads;
    int chunk = thread % kThreads;
    int filter = first, tap = 0; // the thread's first filter of the slice
    const bf16* at = w + std::int64_t{filter} * g.taps + chunk * kChunk;

    // Begins to load the next one, zeros after the last.
    __device__ __forceinline__ void begin(bf16* slice) {
        if (chunk < Slice::kChunks) {
#pragma unroll
            for (int i = 0; i < kTensorSlice; i += kFilters)
                simt::cp_async_16(slice + Slice::at(first, chunk) + i * Slice::kFilter,
                                  at + std::int64_t{i} * g.taps,
                                  filter + i < g.group_filters &&
                                      chunk * kChunk < g.group_channels);
        }
        at += g.group_channels;
        if (++tap < g.shape.filter_h * g.shape.filter_w) return;
        // After the last tap come the next filters.
        tap = 0;
        filter += kTensorSlice;
        at += std::int64_t{kTensorSlice - 1} * g.taps;
    }
};

// ---------------------------------------------------------------------- the kernel

// A block computes dx of some rows of an image for one group, each warp 64 pixels of it. Along the
// grid the rows of an image move fastest, since they share margins of dy; then groups, then images.
//
// Bound by operations. A byte from the L2 cache serves 91 useful products of AlexNet's conv2 (a
// patch of 13 x 31 pixels and 25 taps of 48 channels, for 243 x 48 x 25 products a filter), 80 of
// a convolution of 3 x 3 taps and 64 channels on maps 32 wide. A warp reads 3.5 KiB of shared
// memory for 24 products of fragments; with the copies, the banks are busy for two thirds of the
// time that an A100's tensor cores are. Two blocks share a multiprocessor.
template <class T> __global__ void __launch_bounds__(T::Threads, 2)
    tensor_patch_dgrad_kernel(PatchDgrad<PatchShape> p) {
    SIMT_DYN_SHARED(float, shared);
    using Sums = typename T::Sums;
    using Slice = TapSlice<T::Channels>;
    constexpr int kFragmentsA = kPatchWarp / kFragment;
    constexpr int kFragmentsB = T::Channels / kFragment;
    const int patch_elements = p.patch.pixels * kTensorSlice;
    bf16* const patches = reinterpret_cast<bf16*>(shared);
    bf16* const stages = patches + 2 * patch_elements;

    const ConvShape& s = p.g.shape;
    const Digits tile = p.patch.by_row_tiles.divide(static_cast<int>(blockIdx.x));
    const int first_row = tile.low * p.patch.rows;
    const int group = tile.high % s.groups, image = tile.high / s.groups;
    const PatchLoader<PatchOfRows> patch_loader{
        p.g,
        p.dy + group * p.g.group_filters,
        {p.patch,
         s.width,
         {image * p.g.out_image_pixels, first_row + s.pad_top - (s.filter_h - 1),
          s.pad_left - (s.filter_w - 1)}}};
    TapLoader<Slice> tap_loader{p.g, p.w + std::int64_t{group} * p.g.group_filters * p.g.taps};
    const auto begin_tap = [&](int stage) {
        tap_loader.begin(stages + stage * Slice::kElements);
        simt::cp_async_commit();
    };
    const int taps = s.filter_h * s.filter_w;
    const int rounds = patch_loader.rounds();
    // A patch comes with the taps of the one before it, except the last kPatchStages - 2, whose
    // copies may still be in flight when it is needed.
    const int with_taps = taps - (kPatchStages - 2);
    const int rounds_with_tap = (rounds + with_taps - 1) / with_taps;
    const int slices = (p.g.group_filters + kTensorSlice - 1) / kTensorSlice * taps;

    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp_row = static_cast<int>(threadIdx.x) / 32 * kPatchWarp;
    // Where a lane finds its pixels in a patch's first corner. Surplus pixels of the tile stand for
    // others of it that cause no bank conflicts.
    int a_of_lane[kFragmentsA];
#pragma unroll
    for (int m = 0; m < kFragmentsA; ++m) {
        int pixel = warp_row + m * kFragment + lane % 16;
        if (pixel >= p.patch.rows * s.width) pixel = lane % 16;
        const Digits at = p.g.by_width.divide(pixel);
        a_of_lane[m] = (at.high * p.patch.pitch + at.low) * kTensorSlice;
    }
    int b_of_lane[kFragmentsB];
#pragma unroll
    for (int n = 0; n < kFragmentsB; ++n) b_of_lane[n] = Slice::at(lane % 16, lane / 16 + 2 * n);

    // The slice whose fragments are read: the first of its filters, its patch, and the place in the
    // patch where its tap sees the tile's first pixel. As taps run from first to last, this place
    // runs through the patch's margin from last to first.
    int filter = 0;
    int patch = 0, other_patch = patch_elements;
    int margin = taps - 1;
    int a_of_tap = 0;
    const auto find_tap = [&] {
        const Digits place = p.g.by_filter_w.divide(margin);
        a_of_tap = patch + (place.high * p.patch.pitch + place.low) * kTensorSlice +
                   patch_chunk(lane % 16 + place.high * s.width + place.low, lane / 16);
    };
    const auto read_a = [&](std::uint32_t (&a)[4], int m, int k) {
        // Two chunks make a fragment of the depth.
        simt::ldmatrix_x4(a, patches + a_of_lane[m] + (a_of_tap ^ k * kFragment));
    };
    const auto read_b = [&](std::uint32_t (&b)[kFragmentsB][4], int stage, int k) {
#pragma unroll
        for (int n = 0; n < kFragmentsB; ++n)
            simt::ldmatrix_x4_trans(b[n], stages + stage * Slice::kElements + b_of_lane[n] +
                                              k * kFragment * T::Channels);
    };

    float sums[kFragmentsA][2 * kFragmentsB][4] = {};
    std::uint32_t a[kFragmentsA][4];
    std::uint32_t b[2][kFragmentsB][4];
    // Multiplies the present fragments and reads the next ones, each of A into the registers of the
    // one just used.
    const auto step = [&](const std::uint32_t (&now)[kFragmentsB][4],
                          std::uint32_t (&next)[kFragmentsB][4], int next_stage, int next_k) {
        read_b(next, next_stage, next_k);
#pragma unroll
        for (int m = 0; m < kFragmentsA; ++m) {
#pragma unroll
            for (int n = 0; n < 2 * kFragmentsB; ++n) {
                const std::uint32_t (&two)[4] = now[n / 2];
                const std::uint32_t eight[2] = {two[n % 2 * 2], two[n % 2 * 2 + 1]};
                simt::mma_m16n8k16(sums[m][n], a[m], eight);
            }
            read_a(a[m], m, next_k);
        }
    };

    for (int round = 0; round < rounds; ++round) patch_loader.begin(patches, 0, round);
#pragma unroll
    for (int stage = 0; stage < kPatchStages - 1; ++stage) begin_tap(stage);
    simt::cp_async_wait<kPatchStages - 2>();
    __syncthreads();
    find_tap();
#pragma unroll
    for (int m = 0; m < kFragmentsA; ++m) read_a(a[m], m, 0);
    read_b(b[0], 0, 0);
    int stage = 0;                     // of the present slice
    int free_stage = kPatchStages - 1; // of the one before it, no longer needed
    int round = 0;                     // of the next patch
    for (int slice = 0; slice < slices; ++slice) {
        static_assert(kTensorSlice == 2 * kFragment);
        const bool more = filter + kTensorSlice < p.g.group_filters;
        if (more) {
            const int end = min(rounds, round + rounds_with_tap);
#pragma unroll 1
            for (; round < end; ++round)
                patch_loader.begin(patches + other_patch, filter + kTensorSlice, round);
        }
        begin_tap(free_stage);
        step(b[0], b[1], stage, 1);
        free_stage = stage;
        stage = stage + 1 == kPatchStages ? 0 : stage + 1;
        simt::cp_async_wait<kPatchStages - 2>();
        __syncthreads();
        if (--margin < 0) {
            margin = taps - 1;
            if (more) {
                filter += kTensorSlice;
                round = 0;
                const int before = patch;
                patch = other_patch;
                other_patch = before;
            }
        }
        find_tap();
        step(b[1], b[0], stage, 0);
    }

    // The sums replace the stages, into which the last copies may still be in flight.
    simt::cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kFragmentsA; ++m)
        put_sixteen<Sums, 2 * kFragmentsB>(shared, warp_row + m * kFragment, 0,
                                           [&](int n, int i) { return sums[m][n][i]; });
    __syncthreads();
    // Whole rows are contiguous, in dx as in the tile.
    const int first_pixel = (image * s.height + first_row) * s.width;
    const int rows = min(p.patch.rows, s.height - first_row);
    GemmSize size{};
    size.rows = first_pixel + rows * s.width;
    size.columns = p.g.group_channels;
    finish_tile<Sums>(p.epilogue, size, {first_pixel, 0, group, 0}, shared);
}

// ---------------------------------------------------------------------- launching

template <class T> std::size_t patch_shared(const PatchShape& patch) {
    const std::size_t copies = sizeof(bf16) * (2 * std::size_t(patch.pixels) * kTensorSlice +
                                               kPatchStages * TapSlice<T::Channels>::kElements);
    return std::max(copies, sizeof(float) * SumTile<typename T::Sums>::kFloats);
}

// Calls `use` with the tile for so many channels.
template <class Use> void with_patch_tile(int channels, Use use) {
    if (channels <= 32) return use(PatchTile<32>{});
    if (channels <= 48) return use(PatchTile<48>{});
    return use(PatchTile<64>{});
}

} // namespace pyalexnet

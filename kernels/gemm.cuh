// Every convolution and linear layer: a tiled matrix product whose operands need not lie in memory
// as matrices.
//
//   C[g][m][n] = sum over d of A[g][m][d] * B[g][d][n],     m < rows, n < columns, d < depth
//
// A Problem says what A and B are (operands.cuh) and what becomes of C (epilogue.cuh). For a
// convolution A and B are gathered from maps and filters while they are loaded (implicit GEMM), so
// no unrolled copy of x exists. There are three main loops: those of the tensor cores are
// in tensor.cuh and, for Hopper, hopper.cuh, that of the float32 units here.
//
// Here a block computes one tile of C. Its threads fetch the next slice of A and B from global
// memory into registers while they multiply the present one out of shared memory: two slices take
// turns there, so one barrier a slice is enough. Each thread holds TileM/ThreadsM x TileN/ThreadsN
// sums.
//
// Where C has too few tiles to fill a card, the depth is split: each part writes its own sums to
// the workspace, and a second kernel adds them in the order of the parts. How many parts there are
// depends on the sizes alone, so the result does not depend on the card. An element's sum depends
// on the split of the depth and on nothing else: not on the tile, nor on the other elements.
#pragma once

#include <type_traits>

#include "epilogue.cuh"
#include "hopper.cuh"
#include "tensor.cuh"

namespace pyalexnet {

// A tile of the product: TileM x TileN of C by one block of ThreadsM x ThreadsN threads, and how
// many blocks of it a multiprocessor runs at once.
template <int TileM_, int TileN_, int ThreadsM_, int ThreadsN_> struct Tile {
    static constexpr int TileM = TileM_;
    static constexpr int TileN = TileN_;
    static constexpr int ThreadsM = ThreadsM_;
    static constexpr int ThreadsN = ThreadsN_;
    static constexpr int Threads = ThreadsM * ThreadsN;
    static constexpr int Blocks = 2;
    static constexpr int PerThreadM = TileM / ThreadsM; // multiples of 4: see Lines
    static constexpr int PerThreadN = TileN / ThreadsN;
};

constexpr int kSlice = 16; // depth of a slice: 16 floats of a row are two 32-byte sectors
constexpr int kPad = 4;    // floats between a slice's lines: fewer bank conflicts, 16-byte aligned

// Loads one operand, slice by slice. A thread keeps either its line or its point fixed while the
// other runs: which one depends on the operand's layout in memory, so that neighbouring threads
// read neighbouring floats.
template <class Source, int Lines, int Threads, Contiguous contiguous> class Fetch;

// Neighbouring threads read neighbouring depths: a thread has one depth and several lines.
template <class Source, int Lines, int Threads>
class Fetch<Source, Lines, Threads, Contiguous::depth> {
  public:
    static constexpr int kStep = Threads / kSlice; // lines between two of a thread's
    static constexpr int kCount = Lines / kStep;

    __device__ Fetch(const Source& source, int first_line, int first_depth)
        : source_(source), depth_(first_depth + depth_in_slice()) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            lines_[i] = source.line(first_line + first_in_tile() + i * kStep);
    }

    __device__ __forceinline__ void next(int depth_end) {
        const auto point = source_.point(depth_);
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            values_[i] = depth_ < depth_end ? element(source_, lines_[i], point) : 0.0f;
        depth_ += kSlice;
    }

    __device__ __forceinline__ void put(float (&slice)[kSlice][Lines + kPad]) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            slice[depth_in_slice()][first_in_tile() + i * kStep] = values_[i];
    }

  private:
    __device__ static int depth_in_slice() { return static_cast<int>(threadIdx.x) % kSlice; }
    __device__ static int first_in_tile() { return static_cast<int>(threadIdx.x) / kSlice; }

    const Source& source_;
    int depth_;
    typename Source::Line lines_[kCount];
    float values_[kCount];
};

// Neighbouring threads read neighbouring lines: a thread has one line and several depths.
template <class Source, int Lines, int Threads>
class Fetch<Source, Lines, Threads, Contiguous::line> {
  public:
    static constexpr int kStep = Threads / Lines; // depths between two of a thread's
    static constexpr int kCount = kSlice / kStep;

    __device__ Fetch(const Source& source, int first_line, int first_depth)
        : source_(source), line_(source.line(first_line + line_in_tile())),
          depth_(first_depth + first_in_slice()) {}

    __device__ __forceinline__ void next(int depth_end) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            values_[i] = depth_ < depth_end ? element(source_, line_, source_.point(depth_)) : 0.0f;
            depth_ += kStep;
        }
    }

    __device__ __forceinline__ void put(float (&slice)[kSlice][Lines + kPad]) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            slice[first_in_slice() + i * kStep][line_in_tile()] = values_[i];
    }

  private:
    __device__ static int line_in_tile() { return static_cast<int>(threadIdx.x) % Lines; }
    __device__ static int first_in_slice() { return static_cast<int>(threadIdx.x) / Lines; }

    const Source& source_;
    typename Source::Line line_;
    int depth_;
    float values_[kCount];
};

// The lines of a tile that one thread multiplies: runs of four, a quarter or half of the tile
// apart, so that the threads of a warp read neighbouring float4s of a slice.
template <int PerThread, int Threads> struct Lines {
    static_assert(PerThread % 4 == 0);

    __device__ static int line(int thread, int i) {
        return i / 4 * (Threads * 4) + thread * 4 + i % 4;
    }

    __device__ static void read(const float* slice_line, int thread, float (&values)[PerThread]) {
#pragma unroll
        for (int run = 0; run < PerThread / 4; ++run) {
            const float4 four =
                *reinterpret_cast<const float4*>(slice_line + line(thread, 4 * run));
            values[4 * run] = four.x;
            values[4 * run + 1] = four.y;
            values[4 * run + 2] = four.z;
            values[4 * run + 3] = four.w;
        }
    }
};

// A block computes a TileM x TileN tile of C for one group and one part of the depth; a thread
// PerThreadM x PerThreadN of it. Along the grid the row tiles of C move fastest, then its column
// tiles, groups, parts. Bound by operations: a wide tile does 16 for each float4 that it reads.
template <class Problem, class T> __global__ void __launch_bounds__(T::Threads, 1)
    gemm_kernel(Problem problem, GemmSize size, float* partial) {
    SIMT_SHARED(float, a_slices, [2][kSlice][T::TileM + kPad]);
    SIMT_SHARED(float, b_slices, [2][kSlice][T::TileN + kPad]);
    using A = typename Problem::A;
    using B = typename Problem::B;
    using LinesM = Lines<T::PerThreadM, T::ThreadsM>;
    using LinesN = Lines<T::PerThreadN, T::ThreadsN>;

    unsigned block = blockIdx.x;
    const unsigned row_tiles = (size.rows + T::TileM - 1) / T::TileM;
    const unsigned column_tiles = (size.columns + T::TileN - 1) / T::TileN;
    const int first_row = static_cast<int>(block % row_tiles) * T::TileM;
    block /= row_tiles;
    const int first_column = static_cast<int>(block % column_tiles) * T::TileN;
    block /= column_tiles;
    const int group = static_cast<int>(block % size.groups);
    const int part = static_cast<int>(block / size.groups);
    const int depth_begin = part * size.part_depth;
    const int depth_end = min(size.depth, depth_begin + size.part_depth);
    const int thread_m = static_cast<int>(threadIdx.x) / T::ThreadsN;
    const int thread_n = static_cast<int>(threadIdx.x) % T::ThreadsN;

    const A a_source = problem.a(group);
    const B b_source = problem.b(group);
    Fetch<A, T::TileM, T::Threads, A::kContiguous> a_fetch(a_source, first_row, depth_begin);
    Fetch<B, T::TileN, T::Threads, B::kContiguous> b_fetch(b_source, first_column, depth_begin);

    float sums[T::PerThreadM][T::PerThreadN] = {};
    a_fetch.next(depth_end);
    b_fetch.next(depth_end);
    a_fetch.put(a_slices[0]);
    b_fetch.put(b_slices[0]);
    __syncthreads();

    int turn = 0;
    for (int depth = depth_begin; depth < depth_end; depth += kSlice) {
        const bool more = depth + kSlice < depth_end;
        if (more) {
            a_fetch.next(depth_end);
            b_fetch.next(depth_end);
        }
#pragma unroll
        for (int d = 0; d < kSlice; ++d) {
            float a[T::PerThreadM];
            float b[T::PerThreadN];
            LinesM::read(a_slices[turn][d], thread_m, a);
            LinesN::read(b_slices[turn][d], thread_n, b);
#pragma unroll
            for (int i = 0; i < T::PerThreadM; ++i)
#pragma unroll
                for (int j = 0; j < T::PerThreadN; ++j) sums[i][j] += a[i] * b[j];
        }
        if (more) {
            // The other slices were read before the last barrier and are no longer needed.
            a_fetch.put(a_slices[1 - turn]);
            b_fetch.put(b_slices[1 - turn]);
            __syncthreads();
        }
        turn = 1 - turn;
    }

    const auto finish = [&](const auto& epilogue) {
#pragma unroll
        for (int i = 0; i < T::PerThreadM; ++i) {
            const int row = first_row + LinesM::line(thread_m, i);
            if (row >= size.rows) continue;
#pragma unroll
            for (int j = 0; j < T::PerThreadN; j += 4) {
                const int column = first_column + LinesN::line(thread_n, j);
                if (column >= size.columns) continue;
                const Place place{group, row, column, min(4, size.columns - column)};
                const float four[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                epilogue.put(place, epilogue.read(place), four);
            }
        }
    };
    if (size.parts == 1)
        finish(problem.epilogue);
    else
        finish(Parts{partial, size, part});
}

// A thread adds the parts of four neighbouring elements of C, in their order; columns move fastest.
// Bound by bytes: every part is read once.
template <class Epilogue>
__global__ void gemm_add_parts_kernel(Epilogue epilogue, GemmSize size, float* partial) {
    const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
    const int fours = (size.columns + 3) / 4; // of a row
    const std::int64_t line = i / fours;
    if (line >= std::int64_t{size.groups} * size.rows) return;
    const int column = static_cast<int>(i % fours) * 4;
    const Place place{static_cast<int>(line / size.rows), static_cast<int>(line % size.rows),
                      column, min(4, size.columns - column)};
    const auto read = epilogue.read(place);
    float sums[4] = {};
#pragma unroll 4
    for (int part = 0; part < size.parts; ++part) {
        const Four<float> four =
            read_four<float>(Parts{partial, size, part}.first(place), place.count);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += four.of[j];
    }
    epilogue.put(place, read, sums);
}

// ---------------------------------------------------------------------- choosing a tile

// A tile, and the relative cost of a multiply-add with it among those of its loop, in percent: a
// larger tile reads less memory, shared and other, for each.
template <class T_, int percent> struct Choice {
    using T = T_;
    static constexpr double kCost = percent / 100.0;
};
template <class... Each> struct Choices {};

// Four ways to multiply: the float32 units; the tensor cores in bf16, by warps or by warpgroups; or
// in float32, in three planes. Each has its tiles, and says whether a partial last round of blocks
// counts as a whole one: it does where a multiprocessor has a single large block.

// Floats read from shared memory: 16 for 64 multiply-adds, or 12 for 32. The costs include the
// loads and barriers that a smaller tile spreads over fewer operations.
struct FloatTiles {
    using Element = float;
    using All = Choices<Choice<Tile<128, 128, 16, 16>, 100>, // 8 x 8 sums a thread
                        Choice<Tile<64, 64, 16, 8>, 125>,    // 4 x 8
                        Choice<Tile<128, 32, 16, 8>, 125>>;  // 8 x 4: few filters
    static constexpr bool kWholeRounds = false;
    static constexpr int kSliceDepth = kSlice;
};

// How long a multiprocessor's banks are busy, copies included, relative to its tensor cores: 0.75
// of the time with a wide tile, 0.8 with a narrow one, 1.5 times as long with a square one.
struct Bf16Tiles {
    using Element = bf16;
    using Square = TensorTile<64, 64, 32, 32, 4, 1, 2>;
    using All = Choices<Choice<TensorTile<128, 128, 64, 64, 4, 1, 2>, 100>, Choice<Square, 150>,
                        // For few filters; with three stages two blocks fit.
                        Choice<TensorTile<256, 64, 64, 64, 3, 1, 2>, 110>>;
    static constexpr bool kWholeRounds = false;
    static constexpr int kSliceDepth = kTensorSlice;
};

// Three planes of 32 x 32 for each warp: more do not fit in registers beside the floats in flight.
// The banks are busy for 0.7 of the time that an A100's tensor cores are with a wide tile, 0.75
// with a square one; a wide one reads less from the other caches.
struct SplitTiles {
    using Element = float;
    using Square = TensorTile<64, 64, 32, 32, 2, 3, 2>;
    using All = Choices<Choice<TensorTile<128, 64, 32, 32, 2, 3, 1>, 100>, Choice<Square, 110>>;
    static constexpr bool kWholeRounds = false;
    static constexpr int kSliceDepth = kTensorSlice;
};

// How long the banks are busy, copies included, per clock of the tensor cores: 0.96 with the first
// tile, 1.0 with the second; more with the others, which are that much slower (in fprop; where B
// lies along its lines, a tile of 96 copies 128 of them: 1.33).
struct HopperTiles {
    using Element = bf16;
    using All = Choices<Choice<HopperTile<256, 192, 3>, 100>, Choice<HopperTile<128, 256, 4>, 100>,
                        Choice<HopperTile<256, 128, 4>, 112>, Choice<HopperTile<256, 96, 4>, 129>,
                        Choice<HopperTile<256, 64, 4>, 163>>;
    static constexpr bool kWholeRounds = true;
    static constexpr int kSliceDepth = kHopperSlice;
};

// The index, in Tiles::All, of the cheapest tile for a product: counting what it computes outside
// C, the cost of a multiply-add, and whole rounds where those count.
template <class Tiles> int tile_for(int groups, int rows, int columns);

// Calls `use` with each of the choices, and its number.
template <class Use, class... Each> void for_each_choice(Choices<Each...>, Use use) {
    int number = 0;
    (use(Each{}, number++), ...);
}

// Calls `use` with a value of the tile's type.
template <class Tiles, class Use> void with_tile(int number, Use use) {
    for_each_choice(typename Tiles::All{}, [&](auto choice, int i) {
        if (i == number) use(typename decltype(choice)::T{});
    });
}

// Splits the depth into parts where there are too few tiles to fill a card, none shallower than
// 256.
template <class Tiles> GemmSize gemm_size(int groups, int rows, int columns, int depth);

// The same for a product whose last column holds the sums of A's rows.
template <class Tiles>
GemmSize gemm_size_with_row_sums(int groups, int rows, int columns, int depth);

// The same, split as a product of one group and `all_columns` columns would be: so an element is
// summed in the same order however its layer's columns are divided into groups and among devices.
template <class Tiles>
GemmSize gemm_size_as_whole(int groups, int rows, int columns, int depth, int all_columns);

inline std::size_t gemm_workspace(const GemmSize& size) {
    if (size.parts == 1) return 0;
    const std::size_t lines = static_cast<std::size_t>(size.parts) * size.groups * size.rows;
    return sizeof(float) * lines * size.pitch;
}

template <class T> unsigned tiles(int rows, int columns) {
    return simt::blocks_for(rows, T::TileM) * simt::blocks_for(columns, T::TileN);
}

// ---------------------------------------------------------------------- launching

template <class T> simt::Grid gemm_grid(const GemmSize& size, Stream stream) {
    const unsigned blocks = tiles<T>(size.rows, size.tiled_columns()) * size.groups * size.parts;
    return simt::Grid(blocks, T::Threads, stream);
}

template <class T, class Problem> void
launch_tensor_gemm(const Problem& problem, const GemmSize& size, float* partial, Stream stream) {
    simt::launch<tensor_gemm_kernel<Problem, T>>(
        gemm_grid<T>(size, stream).with_shared(kTensorShared<T>), problem, size, partial);
}

template <class T, class Problem> void
launch_hopper_gemm(const Problem& problem, const GemmSize& size, float* partial, Stream stream) {
    using Shared = HopperShared<Problem, T>;
    const Tiled tiled = problem.tiled();
    simt::launch<hopper_gemm_kernel<Problem, T>>(
        gemm_grid<T>(size, stream).with_shared(Shared::kBytes + simt::kTileSlack), problem,
        simt::tensor_map(tiled.data, tiled.rows, tiled.columns, tiled.pitch,
                         Shared::Copied::kTileRows),
        size, partial);
}

// Where elements have to be gathered singly, that dominates the time: one tile is enough.
template <class Problem>
void launch_gemm(const Problem& problem, const GemmSize& size, float* partial, Stream stream) {
    using Tiles = typename Problem::Tiles;
    const auto with_best = [&](auto use) {
        with_tile<Tiles>(tile_for<Tiles>(size.groups, size.rows, size.tiled_columns()), use);
    };
    if constexpr (std::is_same_v<Tiles, FloatTiles>)
        with_best([&](auto tile) {
            using T = decltype(tile);
            simt::launch<gemm_kernel<Problem, T>>(gemm_grid<T>(size, stream), problem, size,
                                                  partial);
        });
    else if constexpr (std::is_same_v<Tiles, HopperTiles>)
        with_best(
            [&](auto tile) { launch_hopper_gemm<decltype(tile)>(problem, size, partial, stream); });
    else if constexpr (Problem::vectors)
        with_best(
            [&](auto tile) { launch_tensor_gemm<decltype(tile)>(problem, size, partial, stream); });
    else
        launch_tensor_gemm<typename Tiles::Square>(problem, size, partial, stream);
}

template <class Problem>
void gemm(const Problem& problem, const GemmSize& size, void* workspace, Stream stream) {
    auto* partial = static_cast<float*>(workspace);
    launch_gemm(problem, size, partial, stream);
    if (size.parts == 1) return;
    constexpr int threads = 256;
    const std::int64_t fours = std::int64_t{size.groups} * size.rows * ((size.columns + 3) / 4);
    simt::launch<gemm_add_parts_kernel<typename Problem::Epilogue>>(
        simt::Grid(simt::blocks_for(fours, threads), threads, stream), problem.epilogue, size,
        partial);
}

} // namespace pyalexnet

// The main loop of every convolution and linear layer: a tiled matrix product whose operands need
// not lie in memory as matrices.
//
//   C[g][m][n] = sum over d of A[g][m][d] * B[g][d][n],     m < rows, n < columns, d < depth
//
// A Problem says what A and B are, where an element of C goes (`at`) and what is stored there for
// its sum (`finish`). For a convolution A and B are gathered from maps and filters while they are
// loaded (implicit GEMM), so no unrolled copy of x exists.
//
// A block computes one tile of C. Its threads fetch the next slice of A and B from global memory
// into registers while they multiply the present one out of shared memory: two slices take turns
// there, so one barrier a slice is enough. Each thread holds TileM/ThreadsM x TileN/ThreadsN sums.
//
// Where C has too few tiles to fill a card, the depth is split: each part writes its own sums to
// the workspace, and a second kernel adds them in the order of the parts. How many parts there are
// depends on the sizes alone, so the result does not depend on the card. An element's sum depends
// on the split of the depth and on nothing else: not on the tile, nor on the other elements.
#pragma once

#include "ops.h"
#include "simt/simt.hpp"

namespace pyalexnet {

// The extents of a product and how its depth is split.
struct GemmSize {
    int groups;
    int rows;
    int columns;
    int depth;
    int pitch;      // floats from one row of a part's sums to the next: 16-byte aligned
    int parts;      // of the depth
    int part_depth; // of each but the last, a multiple of a slice
};

// How an operand's elements lie in memory, which decides how threads share the loading of a slice.
enum class Contiguous { depth, line };

// A tile of the product: TileM x TileN of C by one block of ThreadsM x ThreadsN threads.
template <int TileM_, int TileN_, int ThreadsM_, int ThreadsN_> struct Tile {
    static constexpr int TileM = TileM_;
    static constexpr int TileN = TileN_;
    static constexpr int ThreadsM = ThreadsM_;
    static constexpr int ThreadsN = ThreadsN_;
    static constexpr int Threads = ThreadsM * ThreadsN;
    static constexpr int PerThreadM = TileM / ThreadsM; // multiples of 4: see Lines
    static constexpr int PerThreadN = TileN / ThreadsN;
};

constexpr int kSlice = 16; // depth of a slice: 16 floats of a row are two 32-byte sectors
constexpr int kPad = 4;    // floats between a slice's lines: fewer bank conflicts, 16-byte aligned

// Loads one operand, slice by slice. `Source` knows the operand's elements:
//   Line line(int i)              what is known of row (A) or column (B) i before its depth is
//   Point point(int d)            likewise of depth d
//   void advance(Point&, int)     moves a point deeper
//   float load(Line, Point, end)  the element; 0 outside the matrix and from depth `end` on
// Of line and point one is fixed for a thread, the other runs: which one follows from how the
// operand lies in memory, so that neighbouring threads read neighbouring floats.
template <class Source, int Lines, int Threads, Contiguous contiguous> class Fetch;

// Neighbouring threads read neighbouring depths: a thread has one depth and several lines.
template <class Source, int Lines, int Threads>
class Fetch<Source, Lines, Threads, Contiguous::depth> {
  public:
    static constexpr int kStep = Threads / kSlice; // lines between two of a thread's
    static constexpr int kCount = Lines / kStep;

    __device__ Fetch(const Source& source, int first_line, int first_depth)
        : source_(source), point_(source.point(first_depth + depth_in_slice())) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            lines_[i] = source.line(first_line + first_in_tile() + i * kStep);
    }

    __device__ __forceinline__ void next(int depth_end) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) values_[i] = source_.load(lines_[i], point_, depth_end);
        source_.advance(point_, kSlice);
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
    typename Source::Point point_;
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
          point_(source.point(first_depth + first_in_slice())) {}

    __device__ __forceinline__ void next(int depth_end) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            values_[i] = source_.load(line_, point_, depth_end);
            source_.advance(point_, kStep);
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
    typename Source::Point point_;
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

// The sums of each part of the depth, in the workspace: (parts, groups, rows, pitch).
struct Parts {
    float* partial;
    GemmSize size;
    int part;

    __device__ float* at(int group, int row, int column) const {
        const std::int64_t line = (std::int64_t{part} * size.groups + group) * size.rows + row;
        return partial + line * size.pitch + column;
    }
    __device__ float finish(int, int, float sum) const { return sum; }
};

// Puts four neighbouring columns of a row into their places, those there are: at once where they
// lie side by side from a multiple of 16 bytes on, so that a warp's store fills whole sectors.
template <class Target> __device__ __forceinline__ void
store_four(const Target& target, int group, int row, int column, int columns, const float* sums) {
    if (column + 3 < columns) {
        float* first = target.at(group, row, column);
        const bool side_by_side = target.at(group, row, column + 3) == first + 3;
        if (side_by_side && reinterpret_cast<std::uintptr_t>(first) % sizeof(float4) == 0) {
            *reinterpret_cast<float4*>(first) = make_float4(
                target.finish(group, column, sums[0]), target.finish(group, column + 1, sums[1]),
                target.finish(group, column + 2, sums[2]),
                target.finish(group, column + 3, sums[3]));
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (column + i >= columns) return;
        *target.at(group, row, column + i) = target.finish(group, column + i, sums[i]);
    }
}

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
            // The other slices were read before the last barrier: nobody needs them any more.
            a_fetch.put(a_slices[1 - turn]);
            b_fetch.put(b_slices[1 - turn]);
            __syncthreads();
        }
        turn = 1 - turn;
    }

#pragma unroll
    for (int i = 0; i < T::PerThreadM; ++i) {
        const int row = first_row + LinesM::line(thread_m, i);
        if (row >= size.rows) continue;
#pragma unroll
        for (int j = 0; j < T::PerThreadN; j += 4) {
            const int column = first_column + LinesN::line(thread_n, j);
            if (size.parts == 1)
                store_four(problem, group, row, column, size.columns, &sums[i][j]);
            else
                store_four(Parts{partial, size, part}, group, row, column, size.columns,
                           &sums[i][j]);
        }
    }
}

// A thread adds the parts of one element of C, in their order; columns move fastest. Bound by
// bytes: every part is read once.
template <class Problem> __global__ void gemm_add_parts_kernel(Problem problem, GemmSize size,
                                                               const float* __restrict__ partial) {
    const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
    const std::int64_t lines = std::int64_t{size.groups} * size.rows;
    if (i >= lines * size.columns) return;
    const int column = static_cast<int>(i % size.columns);
    const std::int64_t line = i / size.columns;
    float sum = 0.0f;
    for (int part = 0; part < size.parts; ++part)
        sum += partial[(part * lines + line) * size.pitch + column];
    const int row = static_cast<int>(line % size.rows);
    const int group = static_cast<int>(line / size.rows);
    *problem.at(group, row, column) = problem.finish(group, column, sum);
}

// ---------------------------------------------------------------------- choosing a tile

using WideTile = Tile<128, 128, 16, 16>; // 8 x 8 sums a thread
using SquareTile = Tile<64, 64, 16, 8>;  // 4 x 8
using NarrowTile = Tile<128, 32, 16, 8>; // 8 x 4: few filters

enum class TileKind { wide, square, narrow };

// The one that computes least outside C, counted by what a useful multiply-add costs with each: a
// larger tile reads less shared memory per operation.
TileKind tile_for(int rows, int columns);

// Calls `use` with a value of the tile's type.
template <class Use> void with_tile(TileKind kind, Use use) {
    switch (kind) {
    case TileKind::wide:
        return use(WideTile{});
    case TileKind::square:
        return use(SquareTile{});
    case TileKind::narrow:
        return use(NarrowTile{});
    }
}

// Splits the depth into as many parts as it takes to have a block for each of 264 (two for each of
// an H100's 132 multiprocessors), none shallower than 16 slices.
GemmSize gemm_size(int groups, int rows, int columns, int depth);

// The same, split as a product of one group and `all_columns` columns would be: so each element is
// summed in one order however its layer's columns are divided into groups and among devices.
GemmSize gemm_size_as_whole(int groups, int rows, int columns, int depth, int all_columns);

inline std::size_t gemm_workspace(const GemmSize& size) {
    if (size.parts == 1) return 0;
    const std::size_t lines = static_cast<std::size_t>(size.parts) * size.groups * size.rows;
    return sizeof(float) * lines * size.pitch;
}

template <class T> unsigned tiles(int rows, int columns) {
    return simt::blocks_for(rows, T::TileM) * simt::blocks_for(columns, T::TileN);
}

template <class T, class Problem>
void launch_gemm(const Problem& problem, const GemmSize& size, float* partial, Stream stream) {
    const unsigned blocks = tiles<T>(size.rows, size.columns) * size.groups * size.parts;
    simt::launch<gemm_kernel<Problem, T>>(simt::Grid(blocks, T::Threads, stream), problem, size,
                                          partial);
}

template <class Problem>
void gemm(const Problem& problem, const GemmSize& size, void* workspace, Stream stream) {
    auto* partial = static_cast<float*>(workspace);
    with_tile(tile_for(size.rows, size.columns),
              [&](auto tile) { launch_gemm<decltype(tile)>(problem, size, partial, stream); });
    if (size.parts == 1) return;
    constexpr int threads = 256;
    const std::int64_t elements = std::int64_t{size.groups} * size.rows * size.columns;
    simt::launch<gemm_add_parts_kernel<Problem>>(
        simt::Grid(simt::blocks_for(elements, threads), threads, stream), problem, size, partial);
}

// ---------------------------------------------------------------------- what a bias and neuron add

// act(sum + bias), NaN passing through.
__device__ __forceinline__ float activate(float value, Activation activation) {
    if (activation == Activation::relu) return value < 0.0f ? 0.0f : value;
    if (activation == Activation::tanh) return tanhf(value);
    return value;
}

} // namespace pyalexnet

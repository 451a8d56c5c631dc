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

#include "sums.cuh"

namespace pyalexnet {

// A tile of the product: TileM x TileN of C by one block of ThreadsM x ThreadsN threads, and how
// many blocks of it a multiprocessor has registers for.
template <int TileM_, int TileN_, int ThreadsM_, int ThreadsN_, int Blocks_> struct Tile {
    static constexpr int TileM = TileM_, TileN = TileN_, ThreadsM = ThreadsM_, ThreadsN = ThreadsN_;
    static constexpr int Threads = ThreadsM * ThreadsN;
    static constexpr int Blocks = Blocks_;
    static constexpr int PerThreadM = TileM / ThreadsM; // multiples of 4: see Lines
    static constexpr int PerThreadN = TileN / ThreadsN;
};

constexpr int kSlice = 16; // depth of a slice: 16 floats of a row are two 32-byte sectors
constexpr int kPad = 4;    // floats between a slice's lines: fewer bank conflicts, 16-byte aligned

// Loads one operand, slice by slice. Neighbouring threads read neighbours in memory. Where these
// are depths, a thread has one depth and several lines; where they are lines, it has one line and
// several depths.
template <class Source, int Lines, int Threads> class Fetch {
    static constexpr bool kAlongDepth = Source::kContiguous == Contiguous::depth;
    static constexpr int kAlong = kAlongDepth ? kSlice : Lines; // of a slice, next to one another
    static constexpr int kStep = Threads / kAlong;              // between two of a thread's across
    static constexpr int kCount = (kAlongDepth ? Lines : kSlice) / kStep;

  public:
    __device__ Fetch(const Source& source, int first_line, int first_depth)
        : source_(source), depth_(first_depth) {
#pragma unroll
        for (int i = 0; i < (kAlongDepth ? kCount : 1); ++i)
            lines_[i] = source.line(first_line + line(i));
    }

    __device__ __forceinline__ void next(int depth_end) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int at = depth_ + depth(i);
            const auto point = source_.point(at); // of all i the same along the depth
            const auto& own = lines_[kAlongDepth ? i : 0];
            values_[i] = at < depth_end ? element(source_, own, point) : 0.0f;
        }
        depth_ += kSlice;
    }

    __device__ __forceinline__ void put(float (&slice)[kSlice][Lines + kPad]) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i) slice[depth(i)][line(i)] = values_[i];
    }

  private:
    // Where in a slice the thread's i-th element is.
    __device__ static int along() { return static_cast<int>(threadIdx.x) % kAlong; }
    __device__ static int across(int i) {
        return static_cast<int>(threadIdx.x) / kAlong + i * kStep;
    }
    __device__ static int depth(int i) { return kAlongDepth ? along() : across(i); }
    __device__ static int line(int i) { return kAlongDepth ? across(i) : along(); }

    Source source_;
    int depth_; // of the next slice
    typename Source::Line lines_[kAlongDepth ? kCount : 1];
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
        for (int i = 0; i < PerThread; i += 4)
            load_vector(slice_line + line(thread, i), values + i);
    }
};

// A block computes a TileM x TileN tile of C for one group and one part of the depth; a thread
// PerThreadM x PerThreadN of it. Along the grid the row tiles of C move fastest, then its column
// tiles, groups, parts. Bound by operations: a wide tile does 16 for each float4 that it reads.
template <class Problem, class T> __global__ void __launch_bounds__(T::Threads, T::Blocks)
    gemm_kernel(Problem problem, GemmSize size, float* partial) {
    SIMT_SHARED(float, a_slices, [2][kSlice][T::TileM + kPad]);
    SIMT_SHARED(float, b_slices, [2][kSlice][T::TileN + kPad]);
    using LinesM = Lines<T::PerThreadM, T::ThreadsM>;
    using LinesN = Lines<T::PerThreadN, T::ThreadsN>;

    const TilePlace tile = tile_place<T>(size, Fastest::rows);
    const auto [depth_begin, depth_end] = depth_of(tile, size);
    const int thread_m = static_cast<int>(threadIdx.x) / T::ThreadsN;
    const int thread_n = static_cast<int>(threadIdx.x) % T::ThreadsN;

    Fetch<typename Problem::A, T::TileM, T::Threads> a_fetch(problem.a(tile.group), tile.row,
                                                             depth_begin);
    Fetch<typename Problem::B, T::TileN, T::Threads> b_fetch(problem.b(tile.group), tile.column,
                                                             depth_begin);

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

    hand_over(problem.epilogue, size, tile.part, partial, [&](const auto& epilogue) {
#pragma unroll
        for (int j = 0; j < T::PerThreadN; j += 4) {
            const int column = tile.column + LinesN::line(thread_n, j);
            if (column >= size.columns) continue;
            const Columns columns{tile.group, column, min(4, size.columns - column)};
            epilogue.with_fours(columns, [&](const auto& to) {
#pragma unroll
                for (int i = 0; i < T::PerThreadM; ++i) {
                    const int row = tile.row + LinesM::line(thread_m, i);
                    if (row >= size.rows) continue;
                    const float four[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2],
                                           sums[i][j + 3]};
                    to.put(row, to.read(row), four);
                }
            });
        }
    });
}

// A thread adds the parts of four neighbouring elements of C, in their order; columns move fastest.
// Bound by bytes: every part is read once.
template <class Epilogue>
__global__ void gemm_add_parts_kernel(Epilogue epilogue, GemmSize size, float* partial) {
    const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
    const int fours = (size.columns + 3) / 4; // of a row
    const std::int64_t line = i / fours;
    if (line >= std::int64_t{size.groups} * size.rows) return;
    const int column = static_cast<int>(i % fours) * 4, row = static_cast<int>(line % size.rows);
    const Columns columns{static_cast<int>(line / size.rows), column,
                          min(4, size.columns - column)};
    epilogue.with_fours(columns, [&](const auto& to) {
        const auto read = to.read(row);
        float sums[4] = {};
#pragma unroll 4
        for (int part = 0; part < size.parts; ++part) {
            const Four<float> four = Parts{partial, size, part}.fours(columns).sums.read(row);
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[j] += four.of[j];
        }
        to.put(row, read, sums);
    });
}

} // namespace pyalexnet

// The main loop of matrix products of bf16 on Hopper (sm_90a): wgmma, which multiplies for four
// warps at a time straight out of shared memory. tensor.cuh's loop serves the other cards; on a
// Hopper it runs at some two thirds of this one's rate.
//
//   C[g][m][n] = sum over d of A[g][m][d] * B[g][d][n],     m < rows, n < columns, d < depth
//
// A block computes one tile of C. All its warpgroups but one multiply, each some of the tile's
// rows. The last brings slices of A and B, 64 deep, into a ring of stages; it needs few registers
// and leaves the rest to the others. A small tile has one that multiplies, and two blocks share a
// multiprocessor, so that one begins or ends while the other multiplies. One operand lies in memory
// as a matrix: a single thread has the copy engine (TMA) load whole tiles of it. The other is
// gathered from a map, 16 bytes at a time, by cp.async. No step waits for the whole block: a stage
// is `full` when its bytes have arrived, which the multiplying warps wait for, and `empty` when all
// of those are done with it.
//
// Two blocks on neighbouring tiles that need the same slices of the tiled operand are a cluster:
// each loads half of every slice for both, so half as much of it comes out of the L2 cache. A stage
// is then `empty` when the warps of both blocks are done with it, and both are told. Single blocks
// have a kernel of their own, which any launch can start.
//
// Gathered elements are written by threads but read by wgmma, which is not ordered after their
// writes: hence the fence before a slice is multiplied.
//
// A stage keeps an operand as it lies in global memory, along its depth or along its lines; wgmma
// accepts both. The sums go to the epilogue through shared memory, in place of the stages.
//
// An element is summed 16 products of the depth at a time, in their order: it depends on the split
// of the depth alone, not on the tile.
//
// Bound by the tensor cores' rate, and by the banks of shared memory: a slice of 256 x 192 takes
// the former 1,536 clocks, in which 56 KiB are written and 128 KiB read of the 192 KiB that the
// banks can move. choice.cuh has the other tiles' figures. The gather is faster: its instructions
// take a warp 430 to 600 clocks a slice.
#pragma once

#include "simt/hopper.hpp"

#include "tensor.cuh"

namespace pyalexnet {

constexpr int kHopperSlice = 64; // depth of a slice: 128 bytes, the width of a tile in memory
constexpr int kWarpgroup = 128;
constexpr int kWgmmaRows = 64; // of a product
constexpr int kWgmmaDepth = 16;
constexpr int kFewRegisters = 56; // of a thread that gathers

// A tile of the product, how many stages there are, how many warpgroups multiply, and how many
// blocks share a multiprocessor.
template <int TileM_, int TileN_, int Stages_, int multiplying = 2, int Blocks_ = 1>
struct HopperTile {
    static constexpr int TileM = TileM_, TileN = TileN_, Stages = Stages_, Blocks = Blocks_;
    static constexpr int Finishers = multiplying * kWarpgroup;
    static constexpr int Threads = Finishers + kWarpgroup;
    static constexpr int Rows = TileM / multiplying; // of a warpgroup that multiplies
    static constexpr int Products = Rows / kWgmmaRows;
    // Of a thread that multiplies: what the others leave of 65,536, in eights.
    static constexpr int Registers =
        (65536 / kWarpgroup / Blocks - kFewRegisters) / multiplying / 8 * 8;
    static_assert(TileM == multiplying * Products * kWgmmaRows);
};

// An operand that lies in memory as a matrix.
struct Tiled {
    const bf16* data;
    std::int64_t rows, columns, pitch; // elements from one row to the next
};

// Where in it a slice begins.
struct TiledPlace {
    int row, column;
};

// ---------------------------------------------------------------------- a slice in shared memory

// Lines x depth of one operand: one tile with a row for each line, or tiles of 64 lines with a row
// for each step of the depth.
template <Contiguous contiguous, int Lines> struct Factor {
    static constexpr bool kAlongDepth = contiguous == Contiguous::depth;
    static constexpr int kTileRows = kAlongDepth ? Lines : kHopperSlice;
    static constexpr int kTiles = kAlongDepth ? 1 : Lines / simt::kTileColumns;
    static constexpr unsigned kTileBytes = simt::tile_bytes(kTileRows);
    static constexpr unsigned kBytes = kTiles * kTileBytes;
    static_assert(kAlongDepth || Lines % simt::kTileColumns == 0);

    // For wgmma, from this line and depth on.
    __device__ __forceinline__ static auto operand(const unsigned char* slice, int line,
                                                   int depth) {
        if constexpr (kAlongDepth)
            return simt::k_major(slice + simt::tile_bytes(line) + depth * sizeof(bf16));
        else
            return simt::mn_major(slice + line / simt::kTileColumns * kTileBytes +
                                      simt::tile_bytes(depth),
                                  kTileBytes);
    }
};

// Gathers slices of the operand that does not lie in memory as a matrix. Called by a warpgroup. A
// thread has one chunk of 16 bytes in every sixteenth row of each tile. The operand's lines are
// looked up once a block.
template <class Source, int Lines> class Gatherer {
    using Layout = Factor<Source::kContiguous, Lines>;
    static constexpr int kChunks = simt::kTileColumns / kChunk; // of a row
    static constexpr int kStep = kWarpgroup / kChunks;          // rows between two of a thread's
    static constexpr int kCount = Layout::kTileRows / kStep;
    // Lines whose numbers a thread has registers for.
    static constexpr int kTogether = kCount % 8 == 0 ? 8 : 4;
    static_assert(Layout::kTileRows % kStep == 0 && Lines % kChunk == 0);
    static_assert(!Layout::kAlongDepth || kCount % kTogether == 0);

  public:
    // Lines that are looked up: each, or the first of a chunk.
    using Line = std::conditional_t<Layout::kAlongDepth, NearOffset, typename Source::Line>;
    static constexpr int kKnown = Layout::kAlongDepth ? Lines : Lines / kChunk;

    // Looks the lines up. Called by the whole block.
    template <int threads>
    __device__ static void know(Line (&known)[kKnown], const Source& source, int first_line) {
        constexpr int step = Layout::kAlongDepth ? 1 : kChunk;
        static_assert(kKnown <= threads);
        const int i = static_cast<int>(threadIdx.x);
        if (i < kKnown) known[i] = Line(source.line(first_line + i * step));
    }

    // Writes the line of ones, which begin() leaves out, into all stages. Called by the whole
    // block.
    template <int stages, int threads> __device__ static void
    put_ones(unsigned char* slice, unsigned stage, const Source& source, int first_line) {
        if constexpr (!Layout::kAlongDepth) {
            const int line = source.ones - first_line;
            if (!below(line, Lines)) return;
            slice += line / simt::kTileColumns * Layout::kTileBytes;
            const int chunk = line % simt::kTileColumns / kChunk;
#pragma unroll 1
            for (int i = static_cast<int>(threadIdx.x); i < stages * Layout::kTileRows;
                 i += threads)
                put_one(reinterpret_cast<bf16*>(slice + i / Layout::kTileRows * stage +
                                                in_tile(i % Layout::kTileRows, chunk)));
        }
    }

    __device__ Gatherer(const Source& source, const Line (&known)[kKnown])
        : source_(source), known_(known), row_(thread() / kChunks), chunk_(thread() % kChunks),
          first_(in_tile(row_, chunk_)) {
        if constexpr (!Layout::kAlongDepth)
#pragma unroll
            for (int tile = 0; tile < Layout::kTiles; ++tile)
                own_[tile] = known[tile * kChunks + chunk_];
    }

    // Begins to load the slice from `depth` on, zeros from `depth_end` on. No read of shared memory
    // may overtake a copy to it: so several lines are read before their copies begin.
    __device__ __forceinline__ void begin(unsigned char* slice, int depth, int depth_end) const {
        unsigned char* const to = slice + first_;
        if constexpr (Layout::kAlongDepth) {
            const int at = depth + chunk_ * kChunk;
            const auto point = source_.point(at);
#pragma unroll
            for (int first = 0; first < kCount; first += kTogether) {
                Line lines[kTogether];
#pragma unroll
                for (int i = 0; i < kTogether; ++i) lines[i] = known_[row_ + (first + i) * kStep];
#pragma unroll
                for (int i = 0; i < kTogether; ++i) {
                    const Location<bf16> from = source_.find(lines[i], point);
                    simt::cp_async_16(to + simt::tile_bytes((first + i) * kStep), from.at,
                                      from.inside && at < depth_end);
                }
            }
        } else {
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const int at = depth + row_ + i * kStep;
                const auto point = source_.point(at);
#pragma unroll
                for (int tile = 0; tile < Layout::kTiles; ++tile) {
                    if (is_ones(source_, own_[tile])) continue;
                    const Location<bf16> from = source_.find(own_[tile], point);
                    simt::cp_async_16(to + tile * Layout::kTileBytes + simt::tile_bytes(i * kStep),
                                      from.at, from.inside && at < depth_end);
                }
            }
        }
    }

  private:
    __device__ static int thread() { return static_cast<int>(threadIdx.x) % kWarpgroup; }
    // Where a chunk of a row begins in its swizzled tile.
    __device__ static unsigned in_tile(int row, int chunk) {
        return simt::tile_bytes(row) + (chunk ^ row % 8) * kChunk * sizeof(bf16);
    }

    Source source_;
    const Line (&known_)[kKnown];
    int row_, chunk_;
    unsigned first_;           // where the thread's first chunk goes
    Line own_[Layout::kTiles]; // where it has the same lines in every slice
};

// ---------------------------------------------------------------------- shared memory

// The layout for a problem with this tile: the two operands, and what lies where.
template <class Problem, class T> struct HopperShared {
    static constexpr bool kTiledB = Problem::TiledB::value;
    using A = Factor<Problem::A::kContiguous, T::TileM>;
    using B = Factor<Problem::B::kContiguous, T::TileN>;
    using Copied = std::conditional_t<kTiledB, B, A>;
    using Source = std::conditional_t<kTiledB, typename Problem::A, typename Problem::B>;
    using Gathers = Gatherer<Source, kTiledB ? T::TileM : T::TileN>;

    static constexpr unsigned kStage = A::kBytes + B::kBytes;
    static constexpr unsigned kStages = T::Stages * kStage;
    static constexpr unsigned kSums = sizeof(float) * SumTile<T>::kFloats; // in their place
    static constexpr unsigned kBytes = kStages > kSums ? kStages : kSums;

    // What a multiprocessor has: of its blocks' layouts, lines, barriers, and a KiB of the
    // system's.
    static constexpr unsigned kKnown = sizeof(typename Gathers::Line) * Gathers::kKnown;
    static_assert(T::Blocks * (kBytes + simt::kTileAlignment + kKnown + 128 + 1024) <= 228 * 1024);
};

// The stages of a block, and the barriers that guard them. They are used in turn: lap 0, 1, ...
template <class Problem, class T> struct Stages {
    unsigned char* first;
    simt::Mbarrier* full;  // its bytes have come
    simt::Mbarrier* empty; // all warps of the cluster that multiply are done with it
};

// ---------------------------------------------------------------------- the two roles

template <class Cluster, class Problem, class T, class Gathers>
__device__ __forceinline__ void bring_slices(Cluster cluster, const Problem& problem,
                                             const Gathers& gatherer, const simt::TensorMap& map,
                                             const TilePlace& tile, const Depth& depth,
                                             const Stages<Problem, T>& stages) {
    using Shared = HopperShared<Problem, T>;
    using Copied = typename Shared::Copied;
    constexpr bool tiled_b = Shared::kTiledB;
    // The first of a tile's rows that this block loads for all of the cluster.
    const int own =
        static_cast<int>(Copied::kTileRows / cluster.blocks * simt::cluster_rank(cluster));
    unsigned slice = 0;
    for (int from = depth.begin; from < depth.end; from += kHopperSlice, ++slice) {
        const unsigned stage = slice % T::Stages, lap = slice / T::Stages;
        simt::Mbarrier& full = stages.full[stage];
        unsigned char* const a = stages.first + stage * Shared::kStage;
        unsigned char* const b = a + Shared::A::kBytes;
        simt::mbarrier_wait(stages.empty[stage], ~lap & 1u); // not in the first lap
        // The warps take turns: the others are ahead meanwhile.
        if (threadIdx.x == T::Finishers + slice % (kWarpgroup / 32) * 32) {
            simt::mbarrier_arrive_expect(full, Copied::kBytes);
            const TiledPlace at =
                problem.tiled_place(tile.group, tiled_b ? tile.column : tile.row, from);
            unsigned char* const to = (tiled_b ? b : a) + simt::tile_bytes(own);
#pragma unroll
            for (int i = 0; i < Copied::kTiles; ++i)
                simt::load_tile_multicast(cluster, to + i * Copied::kTileBytes, map, at.row + own,
                                          at.column + i * simt::kTileColumns, full);
        }
        gatherer.begin(tiled_b ? a : b, from, depth.end);
        simt::cp_async_mbarrier_arrive(full);
    }
}

// The sums of a thread.
template <class T, int columns = T::TileN> struct Sums {
    float of[T::Products][columns / 2] = {};
};

// Multiplies slice after slice. While one slice's products run, it waits for the previous one's and
// hands its stage back to all that fill it again; a block that does not may have ended.
template <class Cluster, class Problem, class T>
__device__ __forceinline__ void multiply_slices(Cluster cluster, Sums<T>& sums, int first_row,
                                                unsigned slices, const Stages<Problem, T>& stages) {
    using Shared = HopperShared<Problem, T>;
    const unsigned to = threadIdx.x % 32; // the rank that a thread speaks to
    for (unsigned slice = 0; slice < slices; ++slice) {
        const unsigned stage = slice % T::Stages, lap = slice / T::Stages;
        const unsigned char* const a = stages.first + stage * Shared::kStage;
        const unsigned char* const b = a + Shared::A::kBytes;
        simt::mbarrier_wait(stages.full[stage], lap & 1u);
        simt::fence_proxy_async();
        simt::wgmma_fence();
#pragma unroll
        for (int depth = 0; depth < kHopperSlice; depth += kWgmmaDepth)
#pragma unroll
            for (int m = 0; m < T::Products; ++m) {
                const auto of_a = Shared::A::operand(a, first_row + m * kWgmmaRows, depth);
                simt::wgmma<T::TileN>(sums.of[m], of_a, Shared::B::operand(b, 0, depth));
            }
        simt::wgmma_commit();
#pragma unroll
        for (int m = 0; m < T::Products; ++m) simt::wgmma_wait<1>(sums.of[m]);
        if (slice > 0 && slice - 1 + T::Stages < slices && to < cluster.blocks)
            simt::mbarrier_arrive_at(cluster, stages.empty[(slice - 1) % T::Stages], to);
    }
#pragma unroll
    for (int m = 0; m < T::Products; ++m) simt::wgmma_wait<0>(sums.of[m]);
}

// The warps that multiply wait for each other, once.
__device__ __forceinline__ void meet(simt::Mbarrier& barrier) {
    simt::mbarrier_arrive(barrier);
    simt::mbarrier_wait(barrier, 0);
}

template <class T>
__device__ __forceinline__ void put_sums(const Sums<T>& sums, int first_row, float* tile) {
    const int of_warp = first_row + static_cast<int>(threadIdx.x) % kWarpgroup / 32 * 16;
#pragma unroll
    for (int m = 0; m < T::Products; ++m) {
        const int row = of_warp + m * kWgmmaRows;
        put_sixteen<T, T::TileN / 8>(tile, row, 0,
                                     [&](int n, int i) { return sums.of[m][4 * n + i]; });
    }
}

// ---------------------------------------------------------------------- the kernels

// A block computes a TileM x TileN tile of C for one group and one part of the depth. Along the
// grid the tiles of a cluster move fastest, then the column tiles of C, row tiles, groups, parts.
template <class Problem, class T, class Cluster>
__device__ __forceinline__ void hopper_gemm(Cluster cluster, const Problem& problem,
                                            const simt::TensorMap& map, const GemmSize& size,
                                            float* partial) {
    using Shared = HopperShared<Problem, T>;
    using Gathers = typename Shared::Gathers;
    SIMT_TILES(unsigned char, shared);
    SIMT_SHARED(typename Gathers::Line, known, [Gathers::kKnown]);
    SIMT_SHARED(simt::Mbarrier, full, [T::Stages]);
    SIMT_SHARED(simt::Mbarrier, empty, [T::Stages]);
    SIMT_SHARED(simt::Mbarrier, ended, [2]); // the products; the stores of the sums

    const unsigned blocks = cluster.blocks;
    const TilePlace tile = tile_place<T>(
        size, Fastest::columns, Shared::kTiledB ? Together{blocks, 1} : Together{1, blocks});
    const Depth depth = depth_of(tile, size);
    const Stages<Problem, T> stages{shared, full, empty};
    const auto source = [&] {
        if constexpr (Shared::kTiledB)
            return problem.a(tile.group);
        else
            return problem.b(tile.group);
    }();

    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        for (int stage = 0; stage < T::Stages; ++stage) {
            simt::mbarrier_init(full[stage], kWarpgroup + 1); // the gatherers and the engine
            simt::mbarrier_init(empty[stage], T::Finishers / 32 * blocks);
        }
        for (int i = 0; i < 2; ++i) simt::mbarrier_init(ended[i], T::Finishers);
        simt::mbarrier_fence_init();
    }
    const int first_line = Shared::kTiledB ? tile.row : tile.column;
    Gathers::template know<T::Threads>(known, source, first_line);
    Gathers::template put_ones<T::Stages, T::Threads>(
        shared + (Shared::kTiledB ? 0 : Shared::A::kBytes), Shared::kStage, source, first_line);
    simt::cluster_sync(cluster);

    if (thread >= T::Finishers) {
        simt::lower_registers<kFewRegisters, T::Blocks>();
        bring_slices(cluster, problem, Gathers(source, known), map, tile, depth, stages);
    } else {
        simt::raise_registers<T::Registers, T::Blocks>();
        // The same for all lanes of a warp, which the compiler cannot see.
        const int first_row = __shfl_sync(~0u, thread / kWarpgroup, 0) * T::Rows;
        const unsigned slices = (depth.end - depth.begin + kHopperSlice - 1) / kHopperSlice;
        Sums<T> sums;
        multiply_slices(cluster, sums, first_row, slices, stages);
        meet(ended[0]);
        float* const tile_sums = reinterpret_cast<float*>(shared);
        put_sums(sums, first_row, tile_sums);
        meet(ended[1]);
        hand_over_tile<T>(problem.epilogue, size, tile, partial, tile_sums);
    }
}

// For single blocks. Bound by operations.
template <class Problem, class T> __global__ void __launch_bounds__(T::Threads, T::Blocks)
    hopper_gemm_kernel(Problem problem, const __grid_constant__ simt::TensorMap map, GemmSize size,
                       float* partial) {
    hopper_gemm<Problem, T>(simt::cluster<1>(), problem, map, size, partial);
}

// For clusters of two. As hopper_gemm_kernel.
template <class Problem, class T> __global__ void SIMT_CLUSTER(2)
    __launch_bounds__(T::Threads, T::Blocks)
        hopper_gemm_pair_kernel(Problem problem, const __grid_constant__ simt::TensorMap map,
                                GemmSize size, float* partial) {
    hopper_gemm<Problem, T>(simt::cluster<2>(), problem, map, size, partial);
}

} // namespace pyalexnet

// Hopper's machinery on input from outside: test_hopper.py compares the results with float64, and
// runs the same kernels under the checker.
//
//   hopper_cases product SEED A B M N K    a, b as bf16, each by its order ("k" or "mn"),
//                                          with rows of a multiple of 8
//                                          -> a b (M, N), or the report
//   hopper_cases multiply COLUMNS A B [cut]
//                                          a 64 x 64, b 64 x COLUMNS in tile layout,
//                                          not swizzled
//                                          -> a b (64, COLUMNS)
//   hopper_cases planes COLUMNS A B        likewise, multiplied in planes
//   hopper_cases CASE SEED                 a small kernel's output, or the report
//   hopper_cases map ROWS COLUMNS PITCH TILE_ROWS
//                                          nothing, or why there is no such tensor map
//   hopper_cases scripts                   a line for each script read (see below)
//
// Numbers are raw bytes on the standard input and output. A comment "// case: what" marks a line
// that a report has to name.
#include "scripts.hpp"
#include "simt/device.hpp"
#include "simt/hopper.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using simt::Major;
using simt::Mbarrier;
using simt::TensorMap;

namespace {

constexpr int kTile = 128; // rows and columns of a block's tile of the product
constexpr int kDepth = 64; // of a stage
constexpr int kStages = 3; // two come while one is multiplied
constexpr int kThreads = 3 * 128;
constexpr unsigned kFactorBytes = simt::tile_bytes(kTile); // of one factor in a stage
constexpr std::size_t kStageBytes = 2 * kFactorBytes;

// Where a line (a row of a, a column of b) and a depth lie in a factor's part of a stage.
template <Major major> __device__ auto operand(const unsigned char* factor, int line, int depth) {
    if constexpr (major == Major::k)
        return simt::k_major(factor + simt::tile_bytes(line) + depth * 2);
    else
        return simt::mn_major(factor + simt::tile_bytes(line / 64 * 64 + depth),
                              simt::tile_bytes(64));
}

// K-major factors come as one tile of 128 lines, the others as two of 64 lines.
template <Major major> constexpr int kTileRows = major == Major::k ? kTile : kDepth;
template <Major major> __device__ void load_factor(unsigned char* to, const TensorMap& map,
                                                   int line, int depth, Mbarrier& full) {
    if constexpr (major == Major::k) {
        simt::load_tile(to, map, line, depth, full);
    } else {
        simt::load_tile(to, map, depth, line, full);
        simt::load_tile(to + simt::tile_bytes(64), map, depth, line + 64, full);
    }
}

// y (rows, columns) = a b: a block computes a tile. One thread of the last of its three warpgroups
// loads stages of 64 of the depth; the other two multiply 64 rows each, and hand back a stage once
// the next one has been started. It is bound by the tensor cores.
template <Major of_a, Major of_b> __global__ void __launch_bounds__(kThreads, 1)
    product_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                   float* y, int rows, int columns, int depth) {
    SIMT_TILES(unsigned char, stages);
    SIMT_SHARED(Mbarrier, full, [kStages]);
    SIMT_SHARED(Mbarrier, empty, [kStages]);
    const int thread = static_cast<int>(threadIdx.x), group = thread / 128;
    const int row = static_cast<int>(blockIdx.y) * kTile,
              column = static_cast<int>(blockIdx.x) * kTile;
    const int slices = (depth + kDepth - 1) / kDepth;
    if (thread == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            simt::mbarrier_init(full[stage], 1);
            simt::mbarrier_init(empty[stage], 2);
        }
        simt::mbarrier_fence_init();
    }
    __syncthreads();
    if (group == 2) {
        simt::lower_registers<40>();
        if (thread != 256) return;
        for (int slice = 0; slice < slices; ++slice) {
            const int stage = slice % kStages;
            const unsigned lap = static_cast<unsigned>(slice / kStages);
            simt::mbarrier_wait(empty[stage], ~lap & 1u);
            simt::mbarrier_arrive_expect(full[stage], kStageBytes);
            unsigned char* const to = stages + stage * kStageBytes;
            load_factor<of_a>(to, a, row, slice * kDepth, full[stage]);
            load_factor<of_b>(to + kFactorBytes, b, column, slice * kDepth, full[stage]);
        }
        return;
    }
    simt::raise_registers<232>();
    float sums[kTile / 2] = {};
    for (int slice = 0; slice < slices; ++slice) {
        const int stage = slice % kStages;
        const unsigned lap = static_cast<unsigned>(slice / kStages);
        simt::mbarrier_wait(full[stage], lap & 1u);
        const unsigned char* const from = stages + stage * kStageBytes;
        simt::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kDepth; k += 16)
            simt::wgmma<kTile>(sums, operand<of_a>(from, group * 64, k),
                               operand<of_b>(from + kFactorBytes, 0, k));
        simt::wgmma_commit();
        simt::wgmma_wait<1>(sums);
        if (slice > 0 && thread % 128 == 0) simt::mbarrier_arrive(empty[(slice - 1) % kStages]);
    }
    simt::wgmma_wait<0>(sums);
    const int lane = thread % 32, warp = thread / 32;
    for (int i = 0; i < kTile / 2; ++i) {
        const int r = row + warp * 16 + lane / 4 + i / 2 % 2 * 8;
        const int c = column + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (r < rows && c < columns) y[static_cast<std::int64_t>(r) * columns + c] = sums[i];
    }
}

// ---------------------------------------------------------------------- one warpgroup

// y (64, n) = a b, with tiles written by the threads. Both hold 64 of the depth; b, of up to
// 256 columns, is several tiles of 64.
template <int n, Major of_a, Major of_b>
__global__ void multiply_kernel(const std::uint16_t* a, const std::uint16_t* b, float* y) {
    SIMT_TILES(unsigned char, tiles);
    constexpr int kTiles = (n + 63) / 64;
    const int thread = static_cast<int>(threadIdx.x);
    const auto write = [thread](unsigned char* to, const std::uint16_t* from, int rows) {
        for (int i = thread; i < rows * 64; i += 128) {
            const int row = i / 64, place = i % 64 / 8 ^ row % 8;
            reinterpret_cast<std::uint16_t*>(to)[row * 64 + place * 8 + i % 8] = from[i];
        }
    };
    write(tiles, a, 64);
    write(tiles + simt::tile_bytes(64), b, kTiles * 64);
    simt::fence_proxy_async();
    __syncthreads();
    float sums[n / 2] = {};
    simt::wgmma_fence();
    for (int k = 0; k < 64; k += 16)
        simt::wgmma<n>(sums, operand<of_a>(tiles, 0, k),
                       operand<of_b>(tiles + simt::tile_bytes(64), 0, k));
    simt::wgmma_commit();
    simt::wgmma_wait<0>(sums);
    const int lane = thread % 32, warp = thread / 32;
    for (int i = 0; i < n / 2; ++i) {
        const int r = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        y[r * n + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
}

// A factor in planes for multiply_planes_kernel, from a place on that no tile could have.
template <Major major, int lines> struct Planes {
    static constexpr unsigned kPieces = major == Major::k ? lines : 64; // of a plane
    static constexpr unsigned kNext = (kPieces + 3) * 16;
    static constexpr unsigned kBytes = (major == Major::k ? 8 : (lines + 63) / 64 * 8) * kNext;

    // From 64 columns a row; tiles of an MN-major one follow one another.
    __device__ static void write(unsigned char* to, const std::uint16_t* from) {
        constexpr int rows = (lines + 63) / 64 * 64;
        for (int i = static_cast<int>(threadIdx.x); i < rows * 64; i += 128) {
            const int row = i / 64, chunk = i % 64 / 8;
            const int plane = major == Major::k ? chunk : row / 64 * 8 + chunk;
            const int piece = major == Major::k ? row : row % 64;
            if (piece >= static_cast<int>(kPieces)) continue;
            auto* const at = to + plane * kNext + piece * 16;
            reinterpret_cast<std::uint16_t*>(at)[i % 8] = from[i];
        }
    }
    __device__ static auto operand(const unsigned char* from, int depth) {
        if constexpr (major == Major::k)
            return simt::k_planes(from + depth / 8 * kNext, kNext);
        else
            return simt::mn_planes(from + depth * 16, kNext);
    }
};

// y (64, n) = a b, both of 64 of the depth, with planes written by the threads.
template <int n, Major of_a, Major of_b>
__global__ void multiply_planes_kernel(const std::uint16_t* a, const std::uint16_t* b, float* y) {
    SIMT_TILES(unsigned char, shared);
    using A = Planes<of_a, 64>;
    using B = Planes<of_b, n>;
    unsigned char* const a_planes = shared + 48;
    unsigned char* const b_planes = a_planes + A::kBytes;
    A::write(a_planes, a);
    B::write(b_planes, b);
    simt::fence_proxy_async();
    __syncthreads();
    float sums[n / 2] = {};
    simt::wgmma_fence();
    for (int k = 0; k < 64; k += 16)
        simt::wgmma<n>(sums, A::operand(a_planes, k), B::operand(b_planes, k));
    simt::wgmma_commit();
    simt::wgmma_wait<0>(sums);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    for (int i = 0; i < n / 2; ++i) {
        const int r = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        y[r * n + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
}

// ---------------------------------------------------------------------- small kernels
//
// x (64, 128) bf16 -> x x^T (64, 64), by a thread that loads two halves of x into one stage, and a
// warpgroup that multiplies each by itself. Each case has a single fault.

constexpr int kSide = 64;
constexpr unsigned kHalfBytes = simt::tile_bytes(kSide);

enum class How {
    rightly,
    not_awaited,    // the stage is multiplied before its barrier
    read_unawaited, // likewise, read by threads
    handed_early,   // the stage is handed back before its product has been waited for
    one_left,       // the sums are read before the product has been waited for
    not_committed,  // likewise
    no_wgmma_fence,
    overwritten,        // by threads, in whose place the copy engine writes next
    overwritten_fenced, // rightly
    too_few_bytes,
    too_many_bytes,
    one_arrival_short,
    one_arrival_more,
    never_initialised,
    init_unordered, // no barrier of the block behind it
    init_unfenced,  // the copy engine has not been told
    left_behind     // a tile for which nobody waits
};

template <How how> __device__ unsigned expected_bytes() {
    if (how == How::too_few_bytes) return kHalfBytes / 2;
    return how == How::too_many_bytes ? 2 * kHalfBytes : kHalfBytes;
}

template <How how> __global__ void stage_kernel(const __grid_constant__ TensorMap x, float* y) {
    SIMT_TILES(std::uint16_t, stage);
    SIMT_SHARED(Mbarrier, full, [1]);
    SIMT_SHARED(Mbarrier, empty, [1]);
    const int thread = static_cast<int>(threadIdx.x);
    constexpr bool overwrites = how == How::overwritten || how == How::overwritten_fenced;
    if (thread == 0) {
        simt::mbarrier_init(full[0], how == How::one_arrival_short ? 2 : 1); // stage: init
        if (how != How::never_initialised) simt::mbarrier_init(empty[0], overwrites ? 128 : 1);
        if (how != How::init_unfenced) simt::mbarrier_fence_init();
    }
    if (how != How::init_unordered) __syncthreads();
    if (thread < 128) {
        if (thread > 0) return;
        for (int half = 0; half < (how == How::left_behind ? 3 : 2); ++half) {
            simt::mbarrier_wait(empty[0], half % 2 == 0); // stage: empty
            simt::mbarrier_arrive_expect(full[0], expected_bytes<how>());
            simt::load_tile(stage, x, 0, half % 2 * kSide, full[0]); // stage: load
            if (how == How::one_arrival_more) simt::mbarrier_arrive(full[0]);
        }
        return;
    }
    float sums[kSide / 2] = {};
    for (unsigned half = 0; half < 2; ++half) {
        if (how != How::not_awaited && how != How::read_unawaited)
            simt::mbarrier_wait(full[0], half);                  // stage: full
        if (how == How::read_unawaited) sums[0] = stage[thread]; // stage: read
        if (how != How::no_wgmma_fence) simt::wgmma_fence();
        for (int k = 0; k < kSide; k += 16) {
            const simt::Operand<Major::k> lines = simt::k_major(stage + k);
            simt::wgmma<kSide>(sums, lines, lines); // stage: multiply
        }
        if (how != How::not_committed) simt::wgmma_commit();
        if (how == How::handed_early && thread == 128) simt::mbarrier_arrive(empty[0]);
        if (how == How::one_left && half == 1)
            simt::wgmma_wait<1>(sums);
        else
            simt::wgmma_wait<0>(sums);
        if (overwrites) stage[thread] = 0; // stage: write
        if (how == How::overwritten_fenced) simt::fence_proxy_async();
        if (overwrites || (how != How::handed_early && thread == 128))
            simt::mbarrier_arrive(empty[0]);
    }
    const int lane = thread % 32, warp = thread / 32 % 4;
    for (int i = 0; i < kSide / 2; ++i) {
        const int r = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        y[r * kSide + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
}

// The first half of x, loaded as a tile or by cp.async, and multiplied by itself.
enum class Copied {
    rightly,
    tied,           // by cp.async, whose end is an arrival
    tied_unfenced,  // likewise; the tensor cores have not been told
    tied_unawaited, // likewise, multiplied before its barrier
    misaligned,
    planes_misaligned, // an operand in planes
    planes_apart,      // planes not at multiples of 16 bytes from one another
    beyond,            // half of the tile lies behind the shared memory
    to_global,
    second_of_eight, // an operand that begins in the second of eight rows
    apart,           // warps of one warpgroup multiply different operands
    three_warps,     // less than a warpgroup
    in_place,        // what is copied was written by a thread
    in_place_fenced  // rightly
};

template <Copied how>
__global__ void copy_kernel(const __grid_constant__ TensorMap map, std::uint16_t* x, float* y) {
    SIMT_TILES(std::uint16_t, stage);
    SIMT_SHARED(Mbarrier, full, [1]);
    const int thread = static_cast<int>(threadIdx.x);
    constexpr bool tied =
        how == Copied::tied || how == Copied::tied_unfenced || how == Copied::tied_unawaited;
    if (thread == 0) {
        simt::mbarrier_init(full[0], tied ? 128 : 1);
        simt::mbarrier_fence_init();
        if (how == Copied::in_place || how == Copied::in_place_fenced) x[2] = x[9]; // copy: write
        if (how == Copied::in_place_fenced) simt::fence_proxy_async();
    }
    __syncthreads();
    for (int i = thread; tied && i < kSide * 8; i += 128) {
        std::uint16_t* const to = stage + i / 8 * 64 + (i % 8 ^ i / 8 % 8) * 8;
        simt::cp_async_16(to, x + i / 8 * 128 + i % 8 * 8, true); // copy: begin
    }
    if (tied) simt::cp_async_mbarrier_arrive(full[0]);
    if (!tied && thread == 0) {
        simt::mbarrier_arrive_expect(full[0], kHalfBytes);
        void* to = stage;
        if (how == Copied::misaligned) to = stage + 64;
        if (how == Copied::beyond) to = stage + kSide * kSide / 2;
        if (how == Copied::to_global) to = y;
        simt::load_tile(to, map, 0, 0, full[0]); // copy: load
    }
    if (how != Copied::tied_unawaited) simt::mbarrier_wait(full[0], 0);
    if (tied && how != Copied::tied_unfenced) simt::fence_proxy_async();
    float sums[kSide / 2] = {};
    const std::uint16_t* from = stage;
    if (how == Copied::second_of_eight) from += kSide;
    if (how == Copied::apart && thread >= 96) from += 16;
    constexpr bool in_planes = how == Copied::planes_misaligned || how == Copied::planes_apart;
    const auto planes = simt::k_planes(stage + (how == Copied::planes_misaligned ? 4 : 0),
                                       how == Copied::planes_apart ? 24 : 16);
    simt::wgmma_fence();                                                   // copy: fence
    if (in_planes) simt::wgmma<kSide>(sums, planes, simt::k_major(stage)); // copy: planes
    simt::wgmma<kSide>(sums, simt::k_major(stage), simt::k_major(from));   // copy: multiply
    simt::wgmma_commit();
    simt::wgmma_wait<0>(sums);
    for (int i = 0; i < kSide / 2; ++i) {
        const int r = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        y[r * kSide + i / 4 * 8 + thread % 4 * 2 + i % 2] = sums[i];
    }
}

// Three warpgroups of 168 registers a thread at entry: the last hands over what the others take.
enum class Handed {
    rightly,
    of_two,   // blocks on a multiprocessor, rightly: 80 at entry
    too_few,  // the last warp has to wait for ever
    by_three, // warps of a warpgroup
    unlike,   // one of the four keeps more
    by_half,  // of a warp
    up_to_less,
    down_to_more
};

template <Handed how> __global__ void registers_kernel(float* y) {
    constexpr unsigned blocks = how == Handed::of_two ? 2 : 1;
    constexpr int few = how == Handed::down_to_more ? 176 : how == Handed::of_two ? 32 : 40;
    constexpr int many = how == Handed::up_to_less ? 160
                         : how == Handed::of_two   ? 104
                         : how == Handed::by_three ? 200
                         : how == Handed::too_few  ? 240
                                                   : 232;
    const unsigned thread = threadIdx.x;
    for (unsigned i = thread; i < kSide * kSide; i += kThreads) y[i] = 0;
    if (how == Handed::by_half && thread % 32 >= 16) return;
    if (how == Handed::by_three && thread >= 352) return;
    if (thread < 256)
        simt::raise_registers<many, blocks>(); // registers: raise
    else if (how != Handed::unlike || thread < 352)
        simt::lower_registers<few, blocks>(); // registers: lower
    else
        simt::lower_registers<48>(); // registers: unlike
}

// ---------------------------------------------------------------------- scripts
//
// The actions of every thread of a block, in order, read from outside, as in simt_cases.cu. A
// script is whole numbers: the schedule's seed, the arrivals in a phase of each barrier, and for
// each thread the number of its actions and these. An action is 16 * (4 * barrier + element) +
// what; for a wait, its parity replaces the element. An element is a tile of 16 rows: a thread
// touches its first number, and a product reads all of it.

enum Action {
    read,
    write,
    sync_block,
    sync_warp,
    arrive,
    wait,
    load, // and arrive
    fence,
    multiply_tile,
    commit,
    wait_all,
    wait_all_but_one,
    copy,
    arrive_by_copies
};

constexpr int kScriptThreads = 160; // a warpgroup and a warp
constexpr int kScriptBarriers = 3, kScriptElements = 3, kElement = 16 * 64;

__device__ void take(std::uint16_t) {}

// Thread i's actions are those from begins[i] up to begins[i + 1].
__global__ void script_kernel(const __grid_constant__ TensorMap x, const int* arrivals,
                              const int* actions, const int* begins) {
    SIMT_TILES(std::uint16_t, data);
    SIMT_SHARED(Mbarrier, barriers, [kScriptBarriers]);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        for (int i = 0; i < kScriptBarriers; ++i)
            simt::mbarrier_init(barriers[i], static_cast<unsigned>(arrivals[i]));
        simt::mbarrier_fence_init();
        for (int i = 0; i < kScriptElements * kElement; ++i) data[i] = 0;
        simt::fence_proxy_async();
    }
    __syncthreads();
    float sums[32] = {};
    for (int i = begins[thread]; i < begins[thread + 1]; ++i) {
        const int what = actions[i] % 16, which = actions[i] / 16 % 4;
        std::uint16_t* const tile = data + which * kElement;
        volatile std::uint16_t* const element = tile;
        Mbarrier& barrier = barriers[actions[i] / 64];
        if (what == read) take(*element);
        if (what == write) *element = 0;
        if (what == sync_block) __syncthreads();
        if (what == sync_warp) __syncwarp();
        if (what == arrive) simt::mbarrier_arrive(barrier);
        if (what == wait) simt::mbarrier_wait(barrier, static_cast<unsigned>(which));
        if (what == load) {
            simt::mbarrier_arrive_expect(barrier, simt::tile_bytes(16));
            simt::load_tile(tile, x, 0, 0, barrier);
        }
        if (what == fence) simt::fence_proxy_async();
        if (what == multiply_tile) {
            const simt::Operand<Major::mn> lines = simt::mn_major(tile, 0);
            simt::wgmma_fence();
            simt::wgmma<64>(sums, lines, lines);
        }
        if (what == commit) simt::wgmma_commit();
        if (what == wait_all) simt::wgmma_wait<0>(sums);
        if (what == wait_all_but_one) simt::wgmma_wait<1>(sums);
        if (what == copy) simt::cp_async_16(tile, nullptr, false);
        if (what == arrive_by_copies) simt::cp_async_mbarrier_arrive(barrier);
    }
}

// ---------------------------------------------------------------------- what a run does

struct alignas(16) Sixteen {
    std::byte bytes[16];
};
using Bytes = std::vector<Sixteen>;

Bytes read_bytes(std::size_t bytes) {
    Bytes all((bytes + 15) / 16);
    if (std::fread(all.data(), 1, bytes, stdin) != bytes) std::exit(2);
    return all;
}

simt::Buffer buffer(const char* name, Bytes& bytes, std::size_t size, std::size_t element,
                    simt::Access access) {
    return {name, bytes.data(), size, element, access, simt::kHost};
}

// A factor of `lines` by `depth`, in its memory layout.
struct Factor {
    Factor(Major major_, int lines, int depth)
        : major(major_), rows(major == Major::k ? lines : depth),
          columns(major == Major::k ? depth : lines), row_elements((columns + 7) / 8 * 8),
          bytes(static_cast<std::size_t>(rows) * row_elements * 2), numbers(read_bytes(bytes)) {}

    TensorMap map(const void* placed) const {
        return simt::tensor_map(placed, rows, columns, row_elements,
                                major == Major::k ? kTile : kDepth);
    }

    Major major;
    int rows, columns, row_elements;
    std::size_t bytes;
    Bytes numbers;
};

Major major_of(const char* name) { return std::strcmp(name, "mn") == 0 ? Major::mn : Major::k; }

void product(Major of_a, Major of_b, int rows, int columns, int depth) {
    Factor a(of_a, rows, depth), b(of_b, columns, depth);
    const std::size_t count = static_cast<std::size_t>(rows) * columns;
    Bytes y((count * 4 + 15) / 16);
    using simt::Access;
    simt::Session session(0, {buffer("a", a.numbers, a.bytes, 2, Access::read),
                              buffer("b", b.numbers, b.bytes, 2, Access::read),
                              buffer("y", y, count * 4, 4, Access::write)});
    const dim3 blocks(simt::blocks_for(columns, kTile), simt::blocks_for(rows, kTile));
    const simt::Grid grid =
        simt::Grid(blocks, kThreads, nullptr).with_shared(kStages * kStageBytes + simt::kTileSlack);
    const auto launch = [&](auto kernel) {
        kernel(grid, a.map(session[0]), b.map(session[1]), static_cast<float*>(session[2]), rows,
               columns, depth);
    };
    if (of_a == Major::k && of_b == Major::k)
        launch([](auto... all) { simt::launch<product_kernel<Major::k, Major::k>>(all...); });
    if (of_a == Major::k && of_b == Major::mn)
        launch([](auto... all) { simt::launch<product_kernel<Major::k, Major::mn>>(all...); });
    if (of_a == Major::mn && of_b == Major::k)
        launch([](auto... all) { simt::launch<product_kernel<Major::mn, Major::k>>(all...); });
    if (of_a == Major::mn && of_b == Major::mn)
        launch([](auto... all) { simt::launch<product_kernel<Major::mn, Major::mn>>(all...); });
    session.finish();
    std::fwrite(y.data(), 4, count, stdout);
}

// Calls `launch` with a, b and y, both factors in tile layout.
template <int n, class Launch> void multiply_by(Launch launch) {
    constexpr std::size_t b_bytes = simt::tile_bytes((n + 63) / 64 * 64);
    Bytes a = read_bytes(simt::tile_bytes(64)), b = read_bytes(b_bytes), y(64 * n / 4);
    using simt::Access;
    simt::Session session(0, {buffer("a", a, simt::tile_bytes(64), 2, Access::read),
                              buffer("b", b, b_bytes, 2, Access::read),
                              buffer("y", y, 64 * n * 4, 4, Access::write)});
    launch(static_cast<const std::uint16_t*>(session[0]),
           static_cast<const std::uint16_t*>(session[1]), static_cast<float*>(session[2]));
    session.finish();
    std::fwrite(y.data(), 16, y.size(), stdout);
}

template <int n, Major of_a, Major of_b> void multiply() {
    multiply_by<n>([](auto... all) {
        const simt::Grid grid(1, 128, nullptr);
        simt::launch<multiply_kernel<n, of_a, of_b>>(
            grid.with_shared(simt::tile_bytes(64 + (n + 63) / 64 * 64) + simt::kTileSlack), all...);
    });
}

template <int n, Major of_a, Major of_b> void multiply_planes() {
    multiply_by<n>([](auto... all) {
        const simt::Grid grid(1, 128, nullptr);
        simt::launch<multiply_planes_kernel<n, of_a, of_b>>(
            grid.with_shared(48 + Planes<of_a, 64>::kBytes + Planes<of_b, n>::kBytes +
                             simt::kTileSlack),
            all...);
    });
}

template <int n> void multiply_planes(Major of_a, Major of_b) {
    if (of_a == Major::k && of_b == Major::k) multiply_planes<n, Major::k, Major::k>();
    if (of_a == Major::k && of_b == Major::mn) multiply_planes<n, Major::k, Major::mn>();
    if (of_a == Major::mn && of_b == Major::k) multiply_planes<n, Major::mn, Major::k>();
    if (of_a == Major::mn && of_b == Major::mn) multiply_planes<n, Major::mn, Major::mn>();
}

template <int n> void multiply(Major of_a, Major of_b) {
    if (of_a == Major::k && of_b == Major::k) multiply<n, Major::k, Major::k>();
    if (of_a == Major::mn && of_b == Major::k) multiply<n, Major::mn, Major::k>();
    if constexpr (n % simt::kTileColumns == 0) {
        if (of_a == Major::k && of_b == Major::mn) multiply<n, Major::k, Major::mn>();
        if (of_a == Major::mn && of_b == Major::mn) multiply<n, Major::mn, Major::mn>();
    }
}

void multiply(int columns, Major of_a, Major of_b) {
    if (columns == 64) multiply<64>(of_a, of_b);
    if (columns == 96) multiply<96>(of_a, of_b);
    if (columns == 128) multiply<128>(of_a, of_b);
    if (columns == 192) multiply<192>(of_a, of_b);
    if (columns == 256) multiply<256>(of_a, of_b);
}

// ---------------------------------------------------------------------- running a case

// x and y of a small kernel: x[i][j] = (i + 2 j) % 7 - 3, so that products are exact.
struct Small {
    Small() : x(kSide * 128 / 8), y(kSide * kSide / 4) {
        auto* const values = reinterpret_cast<std::uint16_t*>(x.data());
        for (int i = 0; i < kSide * 128; ++i) {
            const float value = static_cast<float>((i / 128 + i % 128 * 2) % 7 - 3);
            std::uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            values[i] = static_cast<std::uint16_t>(bits >> 16);
        }
    }
    Bytes x, y;
};

template <class Launch> void run_small(Launch launch) {
    Small small;
    using simt::Access;
    simt::Session session(0, {buffer("x", small.x, 16 * small.x.size(), 2, Access::read_write),
                              buffer("y", small.y, 16 * small.y.size(), 4, Access::write)});
    launch(simt::tensor_map(session[0], kSide, 128, 128, kSide),
           static_cast<std::uint16_t*>(session[0]), static_cast<float*>(session[1]));
    session.finish();
    std::fwrite(small.y.data(), 16, small.y.size(), stdout);
}

template <How how> void run() {
    run_small([](TensorMap map, std::uint16_t*, float* y) {
        const simt::Grid grid(1, 256, nullptr); // stage: launch
        simt::launch<stage_kernel<how>>(grid.with_shared(kHalfBytes + simt::kTileSlack), map, y);
    });
}

template <Copied how> void run() {
    run_small([](TensorMap map, std::uint16_t* x, float* y) {
        const simt::Grid grid(1, how == Copied::three_warps ? 96 : 128, nullptr); // copy: launch
        simt::launch<copy_kernel<how>>(grid.with_shared(kHalfBytes + simt::kTileSlack), map, x, y);
    });
}

template <Handed how> void run() {
    run_small([](TensorMap, std::uint16_t*, float* y) {
        const simt::Grid grid(1, kThreads, nullptr); // registers: launch
        simt::launch<registers_kernel<how>>(grid, y);
    });
}

void run_script() {
    Bytes x(simt::tile_bytes(16) / 16);
    std::vector<int> arrivals;
    for (int i = 0; i < kScriptBarriers; ++i) arrivals.push_back(scripts::next_number());
    scripts::Actions actions(kScriptThreads);
    const auto whole = [](const char* name, std::vector<int>& numbers) {
        return simt::Buffer{name,        numbers.data(),     sizeof(int) * numbers.size(),
                            sizeof(int), simt::Access::read, simt::kHost};
    };
    simt::Session session(0, {buffer("x", x, 16 * x.size(), 2, simt::Access::read),
                              whole("arrivals", arrivals), whole("actions", actions.all),
                              whole("begins", actions.begins)});
    const auto placed = [&](std::size_t i) { return static_cast<const int*>(session[i]); };
    const simt::Grid grid(1, kScriptThreads, nullptr);
    simt::launch<script_kernel>(
        grid.with_shared(kScriptElements * simt::tile_bytes(16) + simt::kTileSlack),
        simt::tensor_map(session[0], 16, 64, 64, 16), placed(1), placed(2), placed(3));
}

struct Case {
    const char* name;
    void (*run)();
};

const Case kCases[] = {
    {"stage rightly", run<How::rightly>},
    {"stage not_awaited", run<How::not_awaited>},
    {"stage read_unawaited", run<How::read_unawaited>},
    {"stage handed_early", run<How::handed_early>},
    {"stage one_left", run<How::one_left>},
    {"stage not_committed", run<How::not_committed>},
    {"stage no_wgmma_fence", run<How::no_wgmma_fence>},
    {"stage overwritten", run<How::overwritten>},
    {"stage overwritten_fenced", run<How::overwritten_fenced>},
    {"stage too_few_bytes", run<How::too_few_bytes>},
    {"stage too_many_bytes", run<How::too_many_bytes>},
    {"stage one_arrival_short", run<How::one_arrival_short>},
    {"stage one_arrival_more", run<How::one_arrival_more>},
    {"stage never_initialised", run<How::never_initialised>},
    {"stage init_unordered", run<How::init_unordered>},
    {"stage init_unfenced", run<How::init_unfenced>},
    {"stage left_behind", run<How::left_behind>},
    {"copy rightly", run<Copied::rightly>},
    {"copy tied", run<Copied::tied>},
    {"copy tied_unfenced", run<Copied::tied_unfenced>},
    {"copy tied_unawaited", run<Copied::tied_unawaited>},
    {"copy misaligned", run<Copied::misaligned>},
    {"copy planes_misaligned", run<Copied::planes_misaligned>},
    {"copy planes_apart", run<Copied::planes_apart>},
    {"copy beyond", run<Copied::beyond>},
    {"copy to_global", run<Copied::to_global>},
    {"copy second_of_eight", run<Copied::second_of_eight>},
    {"copy apart", run<Copied::apart>},
    {"copy three_warps", run<Copied::three_warps>},
    {"copy in_place", run<Copied::in_place>},
    {"copy in_place_fenced", run<Copied::in_place_fenced>},
    {"registers rightly", run<Handed::rightly>},
    {"registers of_two", run<Handed::of_two>},
    {"registers too_few", run<Handed::too_few>},
    {"registers by_three", run<Handed::by_three>},
    {"registers unlike", run<Handed::unlike>},
    {"registers by_half", run<Handed::by_half>},
    {"registers up_to_less", run<Handed::up_to_less>},
    {"registers down_to_more", run<Handed::down_to_more>},
};

} // namespace

int main(int count, char** arguments) {
    const std::string what = count > 1 ? arguments[1] : "";
    const auto number = [arguments](int i) { return std::atoi(arguments[i]); };
    if (what == "scripts") scripts::run_all(run_script);
    try {
        if (what == "multiply" && count >= 5) {
            simt::set_schedule(0, count > 5);
            multiply(number(2), major_of(arguments[3]), major_of(arguments[4]));
        }
        if (what == "planes" && count == 5) {
            const auto run = number(2) == 48 ? multiply_planes<48> : multiply_planes<128>;
            run(major_of(arguments[3]), major_of(arguments[4]));
        }
        if (what == "map" && count == 6)
            simt::tensor_map(nullptr, std::atoll(arguments[2]), std::atoll(arguments[3]),
                             std::atoll(arguments[4]), number(5));
        if (what == "product" && count == 8) {
            simt::set_schedule(static_cast<std::uint64_t>(number(2)));
            product(major_of(arguments[3]), major_of(arguments[4]), number(5), number(6),
                    number(7));
        }
        for (const Case& one : kCases) {
            if (what != one.name) continue;
            simt::set_schedule(static_cast<std::uint64_t>(number(2)));
            one.run();
        }
    } catch (const simt::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

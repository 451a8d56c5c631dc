// Hopper's machinery on numbers from outside: what test_hopper.py compares with float64, and what it
// shows to the checker.
//
//   hopper_cases product SEED A B M N K    a, b as bf16, each by its way ("k" or "mn") with rows of a
//                                          multiple of 8 -> a b (M, N); or the report
//   hopper_cases multiply COLUMNS A B      a 64 x 64, b 64 x COLUMNS as they lie in their tiles, not
//                                          swizzled -> a b (64, COLUMNS)
//   hopper_cases CASE SEED                 what a small kernel writes, or the report
//   hopper_cases scripts                   a line for each script read (see below)
//
// Numbers are raw bytes on the standard input and output. A comment "// case: what" marks a line
// that a report has to name.
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

constexpr int kTile = 128;  // rows and columns of a block's tile of the product
constexpr int kDepth = 64;  // of a stage
constexpr int kStages = 3;  // two come while one is multiplied
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
template <Major major>
__device__ void load_factor(unsigned char* to, const TensorMap& map, int line, int depth,
                            Mbarrier& full) {
    if constexpr (major == Major::k) {
        simt::load_tile(to, map, line, depth, full);
    } else {
        simt::load_tile(to, map, depth, line, full);
        simt::load_tile(to + simt::tile_bytes(64), map, depth, line + 64, full);
    }
}

// y (rows, columns) = a b: a block takes a tile. Of its three warpgroups the last brings stages of
// 64 of the depth, by one thread; each of the others multiplies 64 rows, a stage behind which the
// one before it is handed back. It is bound by the tensor cores.
template <Major of_a, Major of_b>
__global__ void __launch_bounds__(kThreads, 1)
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
        if (slice > 0 && thread % 128 == 0)
            simt::mbarrier_arrive(empty[(slice - 1) % kStages]);
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

// y (64, n) = a b, whose tiles are written by the threads. Both hold 64 of the depth; b of up to 256
// columns is several tiles of 64.
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

//CASES//
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

// A factor of `lines` by `depth`, as it lies in memory.
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
        simt::Grid(blocks, kThreads, nullptr).with_shared(kStages * kStageBytes);
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

template <int n, Major of_a, Major of_b> void multiply() {
    constexpr std::size_t b_bytes = simt::tile_bytes((n + 63) / 64 * 64);
    Bytes a = read_bytes(simt::tile_bytes(64)), b = read_bytes(b_bytes), y(64 * n / 4);
    using simt::Access;
    simt::Session session(0, {buffer("a", a, simt::tile_bytes(64), 2, Access::read),
                              buffer("b", b, b_bytes, 2, Access::read),
                              buffer("y", y, 64 * n * 4, 4, Access::write)});
    const simt::Grid grid(1, 128, nullptr);
    simt::launch<multiply_kernel<n, of_a, of_b>>(grid.with_shared(simt::tile_bytes(64) + b_bytes),
                                                 static_cast<const std::uint16_t*>(session[0]),
                                                 static_cast<const std::uint16_t*>(session[1]),
                                                 static_cast<float*>(session[2]));
    session.finish();
    std::fwrite(y.data(), 16, y.size(), stdout);
}

template <int n> void multiply(Major of_a, Major of_b) {
    if (of_a == Major::k && of_b == Major::k) multiply<n, Major::k, Major::k>();
    if (of_a == Major::k && of_b == Major::mn) multiply<n, Major::k, Major::mn>();
    if (of_a == Major::mn && of_b == Major::k) multiply<n, Major::mn, Major::k>();
    if (of_a == Major::mn && of_b == Major::mn) multiply<n, Major::mn, Major::mn>();
}

void multiply(int columns, Major of_a, Major of_b) {
    if (columns == 64) multiply<64>(of_a, of_b);
    if (columns == 96) multiply<96>(of_a, of_b);
    if (columns == 128) multiply<128>(of_a, of_b);
    if (columns == 192) multiply<192>(of_a, of_b);
    if (columns == 256) multiply<256>(of_a, of_b);
}

} // namespace

int main(int count, char** arguments) {
    const std::string what = count > 1 ? arguments[1] : "";
    const auto number = [arguments](int i) { return std::atoi(arguments[i]); };
    try {
        if (what == "multiply" && count == 5)
            multiply(number(2), major_of(arguments[3]), major_of(arguments[4]));
        if (what == "product" && count == 8) {
            simt::set_schedule(static_cast<std::uint64_t>(number(2)));
            product(major_of(arguments[3]), major_of(arguments[4]), number(5), number(6),
                    number(7));
        }
    } catch (const simt::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

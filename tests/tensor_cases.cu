// Operations around the tensor cores, on input from outside; test_tensor.py compares with float64.
//
//   tensor_cases roundings             float32 -> the words pack(x, -x) and pack(widened of both)
//   tensor_cases vectors               float32, eight at a time -> the same through memory as bf16
//   tensor_cases fragments [cut]       a (16, 16), b (16, 8) as bf16, d (16, 8) -> d + a b
//   tensor_cases product SEED [SITE]   a, b (128, 88) as bf16 -> a b^T (128, 128), or the report;
//                                      SITE: a barrier that is left out. The checked build lists
//                                      the barriers reached on the standard error
//
// Numbers are raw bytes on the standard input and output.
#include "bf16.cuh"
#include "simt/device.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

using namespace pyalexnet;

namespace {

__global__ void roundings_kernel(const float* x, std::uint32_t* y, std::int64_t count) {
    const std::int64_t i = blockIdx.x * std::int64_t{256} + threadIdx.x;
    if (i >= count) return;
    const std::uint32_t pair = pack(x[i], -x[i]);
    const bool same =
        pair == (std::uint32_t{narrow<bf16>(-x[i]).bits} << 16 | narrow<bf16>(x[i]).bits);
    y[2 * i] = same ? pair : 0;
    y[2 * i + 1] = pack(widen_low(pair), widen(bf16{static_cast<std::uint16_t>(pair >> 16)}));
}

// Thread i takes eight floats, stores them as bf16, and writes them as read back.
__global__ void vectors_kernel(const float* x, bf16* kept, float* y) {
    const int i = static_cast<int>(threadIdx.x);
    float eight[8];
    for (int half = 0; half < 2; ++half) {
        float four[4];
        load_vector(x + 8 * i + 4 * half, four);
        for (int j = 0; j < 4; ++j) eight[4 * half + j] = four[j];
    }
    store_vector(kept + kVector<bf16> * i, eight);
    load_vector(kept + kVector<bf16> * i, eight);
    store_vector(y + 8 * i, eight);
    store_pair(y + 8 * i + 4, eight[4], eight[5]);
    store_pair(kept + 8 * i, eight[6], eight[7]);
    store_pair(y + 8 * i + 6, widen(kept[8 * i]), widen(kept[8 * i + 1]));
}

// One warp loads its fragments from the places that the instruction defines.
__global__ void fragments_kernel(const bf16* a, const bf16* b, float* d) {
    const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4 * 2;
    std::uint32_t of_a[4], of_b[2];
    for (int i = 0; i < 4; ++i) {
        const bf16* pair = a + (g + i % 2 * 8) * 16 + t + i / 2 * 8;
        of_a[i] = std::uint32_t{pair[1].bits} << 16 | pair[0].bits;
    }
    for (int i = 0; i < 2; ++i) {
        const bf16* low = b + (t + i * 8) * 8 + g;
        of_b[i] = std::uint32_t{low[8].bits} << 16 | low[0].bits;
    }
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = d[(g + i / 2 * 8) * 8 + t + i % 2];
    simt::mma_m16n8k16(sums, of_a, of_b);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t + i % 2] = sums[i];
}

// ---------------------------------------------------------------------- a pipelined product

constexpr int kRows = 128, kDepth = 88; // of both factors
constexpr int kTile = 64, kSlice = 32, kStages = 3;
constexpr int kThreads = 128; // four warps of 32 x 32
constexpr std::size_t kBytes = kStages * 2 * kTile * kSlice * sizeof(bf16);

// The place of eight elements of a slice's row: shifted, so that eight rows cover all banks.
__device__ int place(int row, int eight) { return row * kSlice + (eight ^ (row / 2 & 3)) * 8; }

// y (rows, rows) = a b^T: a block computes a tile of y, one slice of the depth at a time; two
// slices are under way while a third is multiplied.
__global__ void product_kernel(const bf16* a, const bf16* b, float* y) {
    SIMT_DYN_SHARED(bf16, slices);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int row = static_cast<int>(blockIdx.y) * kTile,
              column = static_cast<int>(blockIdx.x) * kTile;
    const auto copy = [&](int slice) {
        bf16* to = slices + slice % kStages * 2 * kTile * kSlice;
        for (int i = thread; i < 2 * kTile * kSlice / 8; i += kThreads) {
            const int line = i / (kSlice / 8), eight = i % (kSlice / 8);
            const int depth = slice * kSlice + eight * 8;
            const bf16* from = line < kTile ? a + (row + line) * kDepth + depth
                                            : b + (column + line - kTile) * kDepth + depth;
            simt::cp_async_16(to + place(line, eight), from, depth < kDepth);
        }
        simt::cp_async_commit();
    };
    float sums[2][4][4] = {};
    copy(0);
    copy(1);
    for (int slice = 0; slice * kSlice < kDepth; ++slice) {
        simt::cp_async_wait<1>();
        __syncthreads();
        copy(slice + 2);
        const bf16* from = slices + slice % kStages * 2 * kTile * kSlice;
        for (int k = 0; k < kSlice / 8; k += 2) {
            std::uint32_t of_a[2][4], of_b[4][2];
            for (int i = 0; i < 2; ++i)
                simt::ldmatrix_x4(of_a[i],
                                  from + place(warp / 2 * 32 + i * 16 + lane % 16, k + lane / 16));
            for (int j = 0; j < 4; j += 2) {
                std::uint32_t two[4];
                const int line = kTile + warp % 2 * 32 + j * 8 + lane / 16 * 8 + lane % 8;
                simt::ldmatrix_x4(two, from + place(line, k + lane / 8 % 2));
                for (int i = 0; i < 4; ++i) of_b[j + i / 2][i % 2] = two[i];
            }
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 4; ++j) simt::mma_m16n8k16(sums[i][j], of_a[i], of_b[j]);
        }
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j)
            for (int half = 0; half < 2; ++half) {
                const int r = row + warp / 2 * 32 + i * 16 + half * 8 + lane / 4;
                const int c = column + warp % 2 * 32 + j * 8 + lane % 4 * 2;
                store_pair(y + r * kRows + c, sums[i][j][2 * half], sums[i][j][2 * half + 1]);
            }
}

// ---------------------------------------------------------------------- what a run does

struct alignas(16) Sixteen {
    std::byte bytes[16];
};
using Bytes = std::vector<Sixteen>;

Bytes read_bytes(std::size_t bytes) {
    Bytes all(bytes / 16);
    if (std::fread(all.data(), 16, all.size(), stdin) != all.size()) std::exit(2);
    return all;
}

Bytes read_all() {
    Bytes all;
    for (Sixteen next; std::fread(&next, 16, 1, stdin) == 1;) all.push_back(next);
    return all;
}

simt::Buffer buffer(const char* name, Bytes& bytes, std::size_t element, simt::Access access) {
    return {name, bytes.data(), 16 * bytes.size(), element, access, simt::kHost};
}

void write_bytes(const Bytes& bytes) { std::fwrite(bytes.data(), 16, bytes.size(), stdout); }

// Launches a kernel on these arrays, and writes the last of them.
template <auto kernel, class... Arguments> void run(const simt::Grid& grid,
                                                    std::vector<simt::Buffer> buffers,
                                                    Bytes& result, Arguments... arguments) {
    simt::Session session(0, std::move(buffers));
    simt::launch<kernel>(grid, arguments(session)...);
    session.finish();
    write_bytes(result);
}

template <class T> auto array(std::size_t index) {
    return [index](const simt::Session& session) { return static_cast<T*>(session[index]); };
}

using simt::Access;

void roundings() {
    Bytes x = read_all(), y(2 * x.size());
    const auto count = static_cast<std::int64_t>(4 * x.size());
    run<roundings_kernel>(simt::Grid(simt::blocks_for(count, 256), 256, nullptr),
                          {buffer("x", x, 4, Access::read), buffer("y", y, 4, Access::write)}, y,
                          array<const float>(0), array<std::uint32_t>(1),
                          [count](const simt::Session&) { return count; });
}

void vectors() {
    Bytes x = read_bytes(64 * 8 * 4), kept(64), y(x.size());
    run<vectors_kernel>(simt::Grid(1, 64, nullptr),
                        {buffer("x", x, 4, Access::read), buffer("kept", kept, 2, Access::scratch),
                         buffer("y", y, 4, Access::write)},
                        y, array<const float>(0), array<bf16>(1), array<float>(2));
}

void fragments() {
    Bytes a = read_bytes(16 * 16 * 2), b = read_bytes(16 * 8 * 2), d = read_bytes(16 * 8 * 4);
    run<fragments_kernel>(simt::Grid(1, 32, nullptr),
                          {buffer("a", a, 2, Access::read), buffer("b", b, 2, Access::read),
                           buffer("d", d, 4, Access::read_write)},
                          d, array<const bf16>(0), array<const bf16>(1), array<float>(2));
}

void product() {
    Bytes a = read_bytes(kRows * kDepth * 2), b = read_bytes(kRows * kDepth * 2),
          y(kRows * kRows / 4);
    const dim3 blocks(kRows / kTile, kRows / kTile);
    run<product_kernel>(simt::Grid(blocks, kThreads, nullptr).with_shared(kBytes),
                        {buffer("a", a, 2, Access::read), buffer("b", b, 2, Access::read),
                         buffer("y", y, 4, Access::write)},
                        y, array<const bf16>(0), array<const bf16>(1), array<float>(2));
}

} // namespace

int main(int count, char** arguments) {
    const std::string what = count > 1 ? arguments[1] : "";
    try {
        if (what == "roundings") roundings();
        if (what == "vectors") vectors();
        if (what == "fragments") {
            simt::set_schedule(0, count > 2);
            fragments();
        }
        if (what == "product") {
            if (count > 2) simt::set_schedule(std::strtoull(arguments[2], nullptr, 10));
#if defined(SIMT_CHECK)
            if (count > 3) simt::leave_out_barrier(arguments[3]);
#endif
            product();
#if defined(SIMT_CHECK)
            for (const std::string& site : simt::barriers_met())
                std::fprintf(stderr, "%s\n", site.c_str());
#endif
        }
    } catch (const simt::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

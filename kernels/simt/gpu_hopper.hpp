// hopper.hpp as nvcc sees it: one instruction of the card each.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <string>

// The instructions exist for sm_90a alone. The host's pass sees them too, but generates no code for
// them.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SIMT_HOPPER(...) asm volatile(__VA_ARGS__)
#define SIMT_CLUSTER(blocks) __cluster_dims__(blocks, 1, 1)
#else
#define SIMT_HOPPER(...) __trap()
#define SIMT_CLUSTER(blocks)
#endif

// The launch's dynamic shared memory from a multiple of 1,024 bytes on: not every nvcc honours an
// alignment of more than 16 bytes there, so a launch asks for kTileSlack more.
#define SIMT_TILES(type, name)                                                                     \
    extern __shared__ __align__(16) unsigned char simt_tiles[];                                    \
    type* const name = reinterpret_cast<type*>(simt::detail::first_tile(simt_tiles))

namespace simt {

constexpr unsigned kTileSlack = kTileAlignment - 16;

namespace detail {

__device__ __forceinline__ unsigned char* first_tile(unsigned char* shared) {
    return shared + (0u - shared_address(shared)) % kTileAlignment;
}

} // namespace detail

struct alignas(8) Mbarrier {
    std::uint64_t state;
};

// ---------------------------------------------------------------------- barriers

__device__ __forceinline__ void mbarrier_init(Mbarrier& barrier, unsigned arrivals) {
    SIMT_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(detail::shared_address(&barrier)),
                "r"(arrivals) : "memory");
}

__device__ __forceinline__ void mbarrier_fence_init() {
    SIMT_HOPPER("fence.mbarrier_init.release.cluster;\n" :: : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier& barrier) {
    SIMT_HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(
        detail::shared_address(&barrier)) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive_expect(Mbarrier& barrier, unsigned bytes) {
    SIMT_HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
                    detail::shared_address(&barrier)),
                "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_wait(Mbarrier& barrier, unsigned parity) {
    for (unsigned ended = 0; !ended;)
        SIMT_HOPPER("{\n"
                    ".reg .pred ended;\n"
                    "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                    "selp.u32 %0, 1, 0, ended;\n"
                    "}\n" : "=r"(ended) : "r"(detail::shared_address(&barrier)),
                    "r"(parity) : "memory");
}

__device__ __forceinline__ void cp_async_mbarrier_arrive(Mbarrier& barrier) {
    SIMT_HOPPER("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(
        detail::shared_address(&barrier)) : "memory");
}

__device__ __forceinline__ void fence_proxy_async() {
    SIMT_HOPPER("fence.proxy.async.shared::cta;\n" :: : "memory");
}

// ---------------------------------------------------------------------- clusters

// Those of compute capability 9.0 and later do. Where it cannot be told, the launch says why.
inline bool launches_clusters() {
    int device = 0, launches = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&launches, cudaDevAttrClusterLaunch, device);
    return launches != 0;
}

template <unsigned count> struct Cluster {
    static constexpr unsigned blocks = count;
};

template <unsigned blocks> __device__ __forceinline__ Cluster<blocks> cluster() { return {}; }

template <unsigned blocks> __device__ __forceinline__ unsigned cluster_rank(Cluster<blocks>) {
    unsigned rank = 0;
    if constexpr (blocks > 1) SIMT_HOPPER("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return rank;
}

template <unsigned blocks> __device__ __forceinline__ void cluster_sync(Cluster<blocks>) {
    if constexpr (blocks == 1)
        __syncthreads();
    else
        SIMT_HOPPER("barrier.cluster.arrive.aligned;\n"
                    "barrier.cluster.wait.aligned;\n" :: : "memory");
}

// In the default scope, that of a block, as in CUTLASS: it orders the ends of wgmmas' reads before
// a load_tile. With .release.cluster the compiler would put a MEMBAR.ALL.GPU in front of each.
template <unsigned blocks> __device__ __forceinline__ void
mbarrier_arrive_at(Cluster<blocks>, Mbarrier& barrier, [[maybe_unused]] unsigned rank) {
    if constexpr (blocks == 1)
        mbarrier_arrive(barrier);
    else
        SIMT_HOPPER("{\n"
                    ".reg .b32 there;\n"
                    "mapa.shared::cluster.u32 there, %0, %1;\n"
                    "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                    "}\n" ::"r"(detail::shared_address(&barrier)),
                    "r"(rank) : "memory");
}

// ---------------------------------------------------------------------- tiles

using TensorMap = CUtensorMap;

namespace detail {

// The driver's function, obtained from the runtime: nothing links to libcuda, so a module loads
// even where there is no driver.
inline auto tensor_map_encoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                12000, cudaEnableDefault, &found);
#else
    const cudaError_t status =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess)
        throw Error("the driver has no cuTensorMapEncodeTiled, as CUDA 12's and later have");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

} // namespace detail

// For `rows` x `columns` bf16 at `matrix`, each row `row_elements` after the one before it.
inline TensorMap tensor_map(const void* matrix, std::int64_t rows, std::int64_t columns,
                            std::int64_t row_elements, int tile_rows) {
    static const auto encode = detail::tensor_map_encoder();
    const cuuint64_t extents[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t row_bytes[1] = {static_cast<cuuint64_t>(row_elements) * 2};
    const cuuint32_t tile[2] = {kTileColumns, static_cast<cuuint32_t>(tile_rows)};
    const cuuint32_t steps[2] = {1, 1};
    TensorMap map;
    const CUresult result =
        encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix), extents,
               row_bytes, tile, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        throw Error("no tensor map of " + std::to_string(rows) + " x " + std::to_string(columns) +
                    " bf16, " + std::to_string(row_elements) + " a row, in tiles of " +
                    std::to_string(tile_rows) + " rows: the driver's error " +
                    std::to_string(result));
    return map;
}

__device__ __forceinline__ void load_tile(void* shared, const TensorMap& map, int row, int column,
                                          Mbarrier& barrier) {
    SIMT_HOPPER("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                "[%0], [%1, {%2, %3}], [%4];\n" ::"r"(detail::shared_address(shared)),
                "l"(&map), "r"(column), "r"(row), "r"(detail::shared_address(&barrier)) : "memory");
}

template <unsigned blocks>
__device__ __forceinline__ void load_tile_multicast(Cluster<blocks>, void* shared,
                                                    const TensorMap& map, int row, int column,
                                                    Mbarrier& barrier) {
    if constexpr (blocks == 1)
        load_tile(shared, map, row, column, barrier);
    else
        SIMT_HOPPER(
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
            ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(
                detail::shared_address(shared)),
            "l"(&map), "r"(column), "r"(row), "r"(detail::shared_address(&barrier)),
            "h"(static_cast<std::uint16_t>((1u << blocks) - 1)) : "memory");
}

// ---------------------------------------------------------------------- products

// A matrix descriptor: addresses and distances in units of 16 bytes. In tiles, for a K-major
// operand the distance is from eight rows to the next eight (the leading one is not used); for an
// MN-major one, from eight k to the next eight, and the leading one from one tile to the next. In
// planes the distance is from eight lines to the next eight, and the leading one from eight k to
// the next.
template <Major, Packing = Packing::tiles> struct Operand {
    std::uint64_t descriptor;
};

namespace detail {

constexpr std::uint64_t kSwizzled = std::uint64_t{1} << 62; // by 128 bytes
constexpr unsigned kEightRows = 8 * 128;                    // of a tile
constexpr unsigned kEightPieces = 8 * 16;                   // of a plane

__device__ __forceinline__ std::uint64_t descriptor(const void* element, unsigned leading,
                                                    unsigned distance) {
    const std::uint64_t start = (shared_address(element) & 0x3ffffu) >> 4;
    return std::uint64_t{distance >> 4} << 32 | std::uint64_t{leading >> 4} << 16 | start;
}

} // namespace detail

__device__ __forceinline__ Operand<Major::k> k_major(const void* element) {
    return {detail::kSwizzled | detail::descriptor(element, 16, detail::kEightRows)};
}

__device__ __forceinline__ Operand<Major::mn> mn_major(const void* element, unsigned next) {
    return {detail::kSwizzled | detail::descriptor(element, next, detail::kEightRows)};
}

__device__ __forceinline__ Operand<Major::k, Packing::planes> k_planes(const void* element,
                                                                       unsigned next) {
    return {detail::descriptor(element, next, detail::kEightPieces)};
}

__device__ __forceinline__ Operand<Major::mn, Packing::planes> mn_planes(const void* element,
                                                                         unsigned next) {
    return {detail::descriptor(element, detail::kEightPieces, next)};
}

// The start is in the lower half, as a number of pieces.
template <Major major> __device__ __forceinline__ Operand<major, Packing::planes>
further(Operand<major, Packing::planes> operand, unsigned pieces) {
    const auto lower = static_cast<std::uint32_t>(operand.descriptor);
    return {operand.descriptor >> 32 << 32 | (lower + pieces)};
}

__device__ __forceinline__ void wgmma_fence() {
    SIMT_HOPPER("wgmma.fence.sync.aligned;\n" :: : "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    SIMT_HOPPER("wgmma.commit_group.sync.aligned;\n" :: : "memory");
}

// The compiler does not know that d is written until the wait: each register is marked as changed
// only then.
template <int left, int count> __device__ __forceinline__ void wgmma_wait(float (&d)[count]) {
    SIMT_HOPPER("wgmma.wait_group.sync.aligned %0;\n" ::"n"(left) : "memory");
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The text and the operands of one product, for each of the sizes: "%0, %1, ... %9, " of a decade
// of registers by its first digits, and the registers themselves.
#define SIMT_TEN(tens)                                                                             \
    "%" #tens "0, %" #tens "1, %" #tens "2, %" #tens "3, %" #tens "4, %" #tens "5, %" #tens        \
    "6, %" #tens "7, %" #tens "8, %" #tens "9, "
#define SIMT_FORTY SIMT_TEN() SIMT_TEN(1) SIMT_TEN(2) SIMT_TEN(3)
#define SIMT_D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SIMT_D16(i) SIMT_D4(i), SIMT_D4((i) + 4), SIMT_D4((i) + 8), SIMT_D4((i) + 12)
#define SIMT_D32(i) SIMT_D16(i), SIMT_D16((i) + 16)
#define SIMT_D64(i) SIMT_D32(i), SIMT_D32((i) + 32)
// The four operands after the registers: two descriptors, and whether each is MN-major.
#define SIMT_WGMMA(columns, registers, a_at, b_at, a_major, b_major, ...)                          \
    if constexpr (n == columns) {                                                                  \
        SIMT_HOPPER("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" registers   \
                    "}, %" #a_at ", %" #b_at ", 1, 1, 1, %" #a_major ", %" #b_major                \
                    ";\n" : __VA_ARGS__ : "l"(a.descriptor),                                       \
                    "l"(b.descriptor), "n"(of_a == Major::mn), "n"(of_b == Major::mn) : "memory"); \
    }

template <int n, Major of_a, Packing pack_a, Major of_b, Packing pack_b>
__device__ __forceinline__ void wgmma(float (&d)[n / 2], Operand<of_a, pack_a> a,
                                      Operand<of_b, pack_b> b) {
    expect_product<n, of_b, pack_b>();
    SIMT_WGMMA(48, SIMT_TEN() SIMT_TEN(1) "%20, %21, %22, %23", 24, 25, 26, 27, SIMT_D16(0),
               SIMT_D4(16), SIMT_D4(20))
    SIMT_WGMMA(64, SIMT_TEN() SIMT_TEN(1) SIMT_TEN(2) "%30, %31", 32, 33, 34, 35, SIMT_D32(0))
    SIMT_WGMMA(96, SIMT_FORTY "%40, %41, %42, %43, %44, %45, %46, %47", 48, 49, 50, 51, SIMT_D32(0),
               SIMT_D16(32))
    SIMT_WGMMA(128, SIMT_FORTY SIMT_TEN(4) SIMT_TEN(5) "%60, %61, %62, %63", 64, 65, 66, 67,
               SIMT_D64(0))
    SIMT_WGMMA(192,
               SIMT_FORTY SIMT_TEN(4) SIMT_TEN(5) SIMT_TEN(6) SIMT_TEN(7)
                   SIMT_TEN(8) "%90, %91, %92, %93, %94, %95",
               96, 97, 98, 99, SIMT_D64(0), SIMT_D32(64))
    SIMT_WGMMA(256,
               SIMT_FORTY SIMT_TEN(4) SIMT_TEN(5) SIMT_TEN(6) SIMT_TEN(7) SIMT_TEN(8) SIMT_TEN(9)
                   SIMT_TEN(10) SIMT_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127",
               128, 129, 130, 131, SIMT_D64(0), SIMT_D64(64))
}

#undef SIMT_WGMMA
#undef SIMT_D64
#undef SIMT_D32
#undef SIMT_D16
#undef SIMT_D4
#undef SIMT_FORTY
#undef SIMT_TEN

// ---------------------------------------------------------------------- registers

template <int count, unsigned blocks = 1> __device__ __forceinline__ void lower_registers() {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "");
    SIMT_HOPPER("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(count));
}

template <int count, unsigned blocks = 1> __device__ __forceinline__ void raise_registers() {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "");
    SIMT_HOPPER("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(count));
}

} // namespace simt

#undef SIMT_HOPPER

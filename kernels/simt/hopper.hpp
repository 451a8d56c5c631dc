// What Hopper alone has (sm_90a): copies of whole tiles and products of whole warpgroups, both
// asynchronous, the barriers in shared memory on which threads wait for them, and clusters of
// blocks. A kernel file that uses them includes this header as well; for any other card it compiles
// to kernels that trap.
//
// A tile is 64 columns of bf16 (128 bytes) by up to 256 rows, at a multiple of 1,024 bytes of
// shared memory. It lies there swizzled: row r keeps its c-th 16 bytes in place c ^ r % 8. Larger
// operands are several tiles.
//
//   SIMT_TILES(type, name);            the launch's dynamic shared memory, at such a multiple: of a
//                                      grid with_shared(bytes + kTileSlack)
//
// Mbarriers, SIMT_SHARED(simt::Mbarrier, full, [stages]), count phases, the first of which is 0:
//
//   mbarrier_init(barrier, arrivals)   by one thread: a phase ends after so many arrivals, once
//                                      all bytes that were expected in it have come
//   mbarrier_fence_init()              by the same thread after it, for load_tile; for the other
//                                      threads a __syncthreads() has to follow
//   mbarrier_arrive(barrier)           what this thread did comes before what any thread does
//                                      after a wait for this phase
//   mbarrier_arrive_expect(barrier, bytes)
//                                      the same, and the phase brings so many bytes more
//   mbarrier_wait(barrier, parity)     waits until the last ended phase has this parity, 0 or 1.
//                                      Before the first has ended, that is 1
//   cp_async_mbarrier_arrive(barrier)  arrives as soon as all copies have come that this thread
//                                      has begun by cp_async_16, and does not wait for them
//
// Tiles come from matrices whose rows begin at multiples of 16 bytes. The host makes a map, which
// is a kernel's argument `const __grid_constant__ simt::TensorMap`:
//
//   tensor_map(matrix, rows, columns, row_elements, tile_rows)
//   load_tile(shared, map, row, column, barrier)
//                                      by one thread: begins to copy the tile that begins with this
//                                      element, zeros where it lies beyond the matrix. Brings
//                                      tile_bytes(tile_rows) in the barrier's present phase
//
// The blocks of a kernel that is declared `__global__ void SIMT_CLUSTER(2)` and launched with a
// Grid(...).in_clusters(2) run two by two, neighbours along x at the same time; otherwise a block
// is a cluster of its own. An array has the same place in the shared memory of both:
//
//   launches_clusters()                by the host: whether the device does. Results never depend
//                                      on it
//   cluster<blocks>()                  which kind of kernel this is, 1 or 2. The compiler knows, so
//                                      code for single blocks has no instruction for clusters.
//                                      `.blocks` says it again
//   cluster_rank(cluster)              which of its blocks this one is
//   cluster_sync(cluster)              a __syncthreads() of the whole cluster
//   load_tile_multicast(cluster, shared, map, row, column, barrier)
//                                      a load_tile for each block of the cluster: to this place in
//                                      its shared memory, and by the barrier in this place
//   mbarrier_arrive_at(cluster, barrier, rank)
//                                      arrives at the barrier in this place of that block: what was
//                                      read here comes before the tiles that are loaded after the
//                                      wait there. What was written here may be seen later
//
// The last two come after a cluster_sync(cluster) that follows that block's mbarrier_fence_init(),
// and that block waits for the phase before it ends.
//
// Products d += a b are made by a warpgroup: four whole warps whose first thread's number is a
// multiple of 128. All of them make the same calls. a is 64 x 16 and b 16 x n, bf16 in tiles; a
// line is a row of a or a column of b. An operand is given by where its first element would lie in
// a tile that is not swizzled:
//
//   k_major(element)                   a line lies along a row of a tile, at a multiple of 16
//                                      columns, and the next one in the next row; the first in a
//                                      row that is a multiple of 8
//   mn_major(element, next)            a line lies down a column of a tile, from a row on that is a
//                                      multiple of 8. 64 lines are in a tile; the next 64 lie
//                                      `next` bytes further: of b, whole tiles
//
// or in planes, which are not swizzled: of pieces of 16 bytes side by side, from any multiple of 16
// bytes on. `next`, such a multiple too, is from one plane to the next:
//
//   k_planes(element, next)            a piece is eight k of a line; a plane has that of each line
//   mn_planes(element, next)           a piece is eight lines at one k; a plane has that of each k
//   further(operand, pieces)           one that begins so many pieces further on
//
//   wgmma_fence()                      before the first product, and again after a wait
//   wgmma<n>(d, a, b)                  begins. Of thread 32 w + l of the group, with g = l / 4 and
//                                      t = 2 (l % 4), d[4 j + 2 h + i] is element
//                                      (16 w + g + 8 h, 8 j + t + i)
//   wgmma_commit()                     makes those begun since the last commit a group
//   wgmma_wait<left>(d)                waits for all but this warp's `left` newest groups. Until
//                                      then d and the operands are left alone
//
//   fence_proxy_async()                between what a thread wrote to memory and a load_tile or a
//                                      wgmma there: by the writer before it tells the others, or by
//                                      them once they have been told, as for copies, whose end the
//                                      writer does not wait for
//   lower_registers<n>(), raise_registers<n>()
//                                      by a warpgroup: how many each of its threads has. Raising
//                                      waits until others have handed over enough. At entry it has
//                                      what launch bounds of one block, or of `blocks` in
//                                      <n, blocks>, leave it
#pragma once

#include "simt.hpp"

namespace simt {

constexpr int kTileColumns = 64;
constexpr unsigned kTileAlignment = 1024;
constexpr int kMaxTileRows = 256;

__host__ __device__ constexpr unsigned tile_bytes(int rows) {
    return static_cast<unsigned>(rows) * kTileColumns * 2;
}

// In which direction an operand is contiguous in shared memory, and how its pieces of 16 bytes lie.
enum class Major { k, mn };
enum class Packing { tiles, planes };

// The card has all multiples of eight, gpu_hopper.hpp those in use.
template <int n, Major of_b, Packing pack_b> __host__ __device__ constexpr void expect_product() {
    static_assert(n == 48 || n == 64 || n == 96 || n == 128 || n == 192 || n == 256,
                  "wgmma<n>: n is 48, 64, 96, 128, 192 or 256");
    static_assert(of_b == Major::k || pack_b == Packing::planes || n % kTileColumns == 0,
                  "wgmma<n>: of an MN-major b whole tiles of 64 columns are multiplied");
}

} // namespace simt

#if defined(__CUDACC__)
#include "gpu_hopper.hpp"
#else
#include "emu_hopper.hpp"
#endif

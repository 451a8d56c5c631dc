// What Hopper alone has (sm_90a): copies of whole tiles and products of whole warpgroups, both
// asynchronous, and the barriers in shared memory by which they are waited for. A kernel file that
// uses them includes this header as well; for any other card it compiles to kernels that trap.
//
// A tile is 64 columns of bf16 (128 bytes) by up to 256 rows, at a multiple of 1,024 bytes of
// shared memory. It lies there swizzled: the 16 bytes of row r that are the c-th of their row stand
// as the (c ^ r % 8)-th. Larger operands are several tiles.
//
//   SIMT_TILES(type, name);               the launch's dynamic shared memory at such a multiple;
//   what
//                                         SIMT_SHARED takes beside it counts by whole 1,024 bytes
//
// Mbarriers (SIMT_SHARED(simt::Mbarrier, full, [stages])). Each counts phases, the first is 0:
//
//   mbarrier_init(barrier, arrivals)      by one thread; a phase ends after so many arrivals, when
//                                         all bytes have come that were expected in it
//   mbarrier_fence_init()                 by the same thread after it: tells the copy engine. The
//                                         other threads learn of it at the next __syncthreads()
//   mbarrier_arrive(barrier)              what this thread did before comes before what a thread
//                                         does that has waited for this phase
//   mbarrier_arrive_expect(barrier, n)    the same, and this phase brings n bytes more
//   mbarrier_wait(barrier, parity)        until a phase of this parity (0 or 1) is the last that
//                                         ended. Before the first has, 1 counts as that
//   mbarrier_try_wait(barrier, parity)    waits a while; whether it has ended
//   cp_async_mbarrier_arrive(barrier)     an arrival as soon as all cp_async_16 of this thread are
//                                         there, which it need not wait for itself
//
// Tiles out of global memory, whose rows begin at multiples of 16 bytes:
//
//   TensorMap map = tensor_map(x, rows, columns, row_elements, tile_rows)
//                                         on the host; a kernel's `const __grid_constant__`
//                                         argument
//   load_tile(shared, map, row, column, barrier)
//                                         by one thread: begins to copy the tile whose first
//                                         element this is; zeros beyond the matrix. Brings
//                                         tile_bytes(rows) to the phase of `barrier` that is under
//                                         way
//
// Products d += a b of the four warps of a warpgroup (threads 128 w and up), all of which make
// these calls. a is 64 x 16, b 16 x columns (8 to 256 by 8), both in tiles. K-major operands have
// the 16 along a tile's rows, at any multiple of 16 columns, and one row of theirs in each;
// MN-major ones the 16 down its columns, at any multiple of 8 rows, and 64 rows of theirs in one
// tile:
//
//   k_major(element)                      an operand by its first element's address in a tile that
//                                         were not swizzled
//   mn_major(element, next)               likewise; the next 64 rows lie `next` bytes behind
//   wgmma_fence()                         before the first product, and whenever sums or shared
//                                         memory were touched since the last
//   wgmma<columns>(d, a, b)               begins; d is left alone until it has been waited for.
//                                         Of thread 32 w + l, with g = l / 4 and t = 2 (l % 4):
//                                         d[4 j + 2 h + i] is (16 w + g + 8 h, 8 j + t + i)
//   wgmma_commit()                        makes those begun since the last commit a group
//   wgmma_wait<left>(d)                   waits for this warp's groups but the `left` newest
//
//   fence_proxy_async()                   between what threads wrote to shared memory and a tile's
//                                         load or a product there: by each thread that wrote,
//                                         before the barrier
//   lower_registers<n>(), raise_registers<n>()
//                                         by a whole warpgroup: registers of each of its threads
#pragma once

#include "simt.hpp"

namespace simt {

constexpr int kTileColumns = 64;
constexpr unsigned kTileAlignment = 1024;
constexpr int kMaxTileRows = 256;

__host__ __device__ constexpr unsigned tile_bytes(int rows) {
    return static_cast<unsigned>(rows) * kTileColumns * 2;
}

// In which direction an operand's neighbours in shared memory lie.
enum class Major { k, mn };

} // namespace simt

#if defined(__CUDACC__)
#include "gpu_hopper.hpp"
#else
#include "emu_hopper.hpp"
#endif

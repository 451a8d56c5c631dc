// The only way to start a kernel, on the GPU and on the CPU.
//
// A kernel file includes this header and nothing of CUDA. nvcc compiles it for the card; any C++17
// compiler compiles the same file for the emulation (emu.hpp), or as a plain loop (loop.hpp). What
// differs is spelled here once:
//
//   SIMT_SHARED(float, tile, [16][64]);   a __shared__ array
//   SIMT_DYN_SHARED(float, stages);       the launch's dynamic shared memory, as a pointer
//   simt::launch<kernel<64>>(simt::Grid(blocks, threads, stream).with_shared(bytes), arguments...);
//
// What feeds the tensor cores (gpu_tensor.hpp, emu_tensor.hpp). Shared memory is given by ordinary
// pointers; those to 16 bytes are multiples of 16 bytes. All lanes of a warp take part in the last
// three, each at the same call:
//
//   cp_async_16(shared, global, inside)   begins to copy 16 bytes; if not inside, 16 zeros, and
//                                         `global` is not touched
//   cp_async_commit()                     makes those begun since the last commit a group
//   cp_async_wait<left>()                 waits for all but this thread's `left` newest groups. Its
//                                         copies are then its own writes: the other threads see
//                                         them after a barrier
//   ldmatrix_x4(r, row)                   four 8x8 matrices of 16-bit elements: lane 8m + i gives
//                                         the address of row i of matrix m; r[m] becomes elements
//                                         (l / 4, 2 (l % 4)) and, in the upper half, the next one
//   ldmatrix_x4_trans(r, row)             the same for the transposed matrices
//   mma_m16n8k16(d, a, b)                 d += a b for a 16x16 and b 16x8 of bf16, d float32. Of
//                                         lane l, with g = l / 4 and t = 2 (l % 4):
//                                           a: (g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8), each
//                                              with the element to its right in the upper half
//                                           b: (t, g), (t + 8, g), each with the one below it
//                                           d: (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1)
//   to_bf16(x), to_bf16_pair(low, high)   bits of the nearest bf16, ties to even
//
// Launches are checked. Any failure throws simt::Error, which names the kernel and the line that
// launched it.
#pragma once

#include "error.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

namespace simt {

// Where a launch or a barrier stands in the source.
struct Site {
    const char* file;
    int line;

    // As a default argument: the line of the call.
    static constexpr Site here(const char* file_ = __builtin_FILE(), int line_ = __builtin_LINE()) {
        return {file_, line_};
    }
};

// The kernel's own name, from the compiler's spelling of a function template's signature.
std::string kernel_name(const char* pretty_function);

} // namespace simt

#if defined(__CUDACC__)
#include "gpu.hpp"
#elif defined(SIMT_LOOP)
#include "loop.hpp"
#else
#include "emu.hpp"
#endif

namespace simt {

// How a kernel is launched: blocks, threads of a block, the stream (a cudaStream_t; the emulation
// has none and runs at once) and the block's dynamic shared memory. Remembers the line that made
// it.
struct Grid {
    dim3 blocks;
    dim3 threads;
    void* stream;
    std::size_t shared_bytes = 0;
    unsigned cluster = 1; // blocks of one (hopper.hpp)
    Site site;

    Grid(dim3 blocks_, dim3 threads_, void* stream_, const char* file = __builtin_FILE(),
         int line = __builtin_LINE())
        : blocks(blocks_), threads(threads_), stream(stream_), site{file, line} {}

    Grid with_shared(std::size_t bytes) const {
        Grid grid = *this;
        grid.shared_bytes = bytes;
        return grid;
    }
    Grid in_clusters(unsigned of_blocks) const {
        Grid grid = *this;
        grid.cluster = of_blocks;
        return grid;
    }
};

// Starts `kernel` on every thread of the grid.
template <auto kernel, class... Arguments> void launch(const Grid& grid, Arguments... arguments) {
    detail::launch<kernel>(grid, __PRETTY_FUNCTION__, arguments...);
}

// Blocks of `block` threads that cover `count` elements.
inline unsigned blocks_for(std::int64_t count, int block) {
    return static_cast<unsigned>((count + block - 1) / block);
}

} // namespace simt

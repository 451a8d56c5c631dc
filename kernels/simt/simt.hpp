// The only way to start a kernel, on the GPU and on the CPU.
//
// A kernel file includes this header and nothing of CUDA. nvcc compiles it for the card; any C++17
// compiler compiles the same file for the emulation (emu.hpp). What differs is spelled here once:
//
//   SIMT_SHARED(float, tile, [16][64]);            a __shared__ array
//   simt::launch<kernel<64>>(simt::Grid(blocks, threads, stream), arguments...);
//
// A launch is checked. What goes wrong throws simt::Error, which names the kernel and the line that
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
};

// The kernel's own name out of the compiler's spelling of a function template's signature.
std::string kernel_name(const char* pretty_function);

} // namespace simt

#if defined(__CUDACC__)
#include "gpu.hpp"
#else
#include "emu.hpp"
#endif

namespace simt {

// How a kernel is launched: blocks, threads of a block and the stream (a cudaStream_t; the
// emulation has none and runs at once). Remembers the line that made it.
struct Grid {
    dim3 blocks;
    dim3 threads;
    void* stream;
    Site site;

    Grid(dim3 blocks_, dim3 threads_, void* stream_, const char* file = __builtin_FILE(),
         int line = __builtin_LINE())
        : blocks(blocks_), threads(threads_), stream(stream_), site{file, line} {}
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

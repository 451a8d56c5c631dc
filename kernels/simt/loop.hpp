// simt.hpp where a C++ compiler turns kernels into plain loops: over the blocks, shared among the
// cores, and over the threads of each. For kernels whose threads never wait for one another: there
// are no barriers, shuffles or shared memory here, and code that needs them does not compile.
#pragma once

#include "host.hpp"
#include "threads.hpp"

namespace simt::detail {

template <auto kernel, class GridType, class... Arguments>
void launch(const GridType& grid, const char*, Arguments... arguments) {
    const std::uint64_t threads = volume(grid.threads);
    parallel(static_cast<std::int64_t>(volume(grid.blocks)), [&](std::int64_t block, int) {
        self.block = position(static_cast<std::uint64_t>(block), grid.blocks);
        self.blocks = {grid.blocks.x, grid.blocks.y, grid.blocks.z};
        self.threads = {grid.threads.x, grid.threads.y, grid.threads.z};
        for (std::uint64_t thread = 0; thread < threads; ++thread) {
            self.thread = position(thread, grid.threads);
            kernel(arguments...);
        }
    });
}

} // namespace simt::detail

// simt.hpp where a C++ compiler turns kernels into plain loops: over the blocks, shared among the
// cores, and over the threads of each. For kernels whose threads never wait for one another: there
// are no barriers, shuffles or shared memory here, and code that needs them does not compile.
#pragma once

#include "host.hpp"
#include "threads.hpp"

namespace simt {

// The place of a CUDA thread. In initial-exec TLS: an access is one instruction.
struct Self {
    uint3 thread, block, threads, blocks;
};
extern __thread Self self __attribute__((tls_model("initial-exec")));

} // namespace simt

#define threadIdx (::simt::self.thread)
#define blockIdx (::simt::self.block)
#define blockDim (::simt::self.threads)
#define gridDim (::simt::self.blocks)

namespace simt::detail {

inline uint3 position(std::int64_t index, dim3 extent) {
    const auto i = static_cast<std::uint64_t>(index);
    return make_uint3(static_cast<unsigned>(i % extent.x),
                      static_cast<unsigned>(i / extent.x % extent.y),
                      static_cast<unsigned>(i / extent.x / extent.y));
}

inline std::int64_t volume(dim3 extent) { return std::int64_t{extent.x} * extent.y * extent.z; }

template <auto kernel, class GridType, class... Arguments>
void launch(const GridType& grid, const char*, Arguments... arguments) {
    const std::int64_t threads = volume(grid.threads);
    parallel(volume(grid.blocks), [&](std::int64_t block, int) {
        self.block = position(block, grid.blocks);
        self.blocks = make_uint3(grid.blocks.x, grid.blocks.y, grid.blocks.z);
        self.threads = make_uint3(grid.threads.x, grid.threads.y, grid.threads.z);
        for (std::int64_t thread = 0; thread < threads; ++thread) {
            self.thread = position(thread, grid.threads);
            kernel(arguments...);
        }
    });
}

} // namespace simt::detail

// simt.hpp as nvcc sees it: CUDA itself, with every launch checked.
#pragma once

#include <cuda_runtime.h>

#define SIMT_SHARED(type, name, ...) __shared__ __align__(16) type name __VA_ARGS__

namespace simt {

struct Grid;

namespace detail {

inline void check(cudaError_t status, const char* pretty_function, Site site) {
    if (status == cudaSuccess) return;
    cudaGetLastError(); // a launch error is not sticky: leave none for the next launch to report
    throw Error(kernel_name(pretty_function) + " launched at " + site.file + ":" +
                std::to_string(site.line) + ": " + cudaGetErrorString(status));
}

template <auto kernel, class GridType, class... Arguments>
void launch(const GridType& grid, const char* pretty_function, Arguments... arguments) {
    kernel<<<grid.blocks, grid.threads, 0, static_cast<cudaStream_t>(grid.stream)>>>(arguments...);
    check(cudaGetLastError(), pretty_function, grid.site);
}

} // namespace detail
} // namespace simt

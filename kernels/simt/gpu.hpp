// simt.hpp as nvcc sees it: CUDA itself, with every launch checked.
#pragma once

#include "gpu_tensor.hpp"

#include <cuda_runtime.h>

#include <atomic>
#include <mutex>

#define SIMT_SHARED(type, name, ...) __shared__ __align__(16) type name __VA_ARGS__

// Declared with one type everywhere: as an array of `type` it would clash with another kernel's.
#define SIMT_DYN_SHARED(type, name)                                                                \
    extern __shared__ __align__(128) unsigned char simt_dynamic_shared[];                          \
    type* const name = reinterpret_cast<type*>(simt_dynamic_shared)

namespace simt {

struct Grid;

namespace detail {

inline void check(cudaError_t status, const char* pretty_function, Site site) {
    if (status == cudaSuccess) return;
    cudaGetLastError(); // a launch error is not sticky: leave none for the next launch to report
    throw Error(kernel_name(pretty_function) + " launched at " + site.file + ":" +
                std::to_string(site.line) + ": " + cudaGetErrorString(status));
}

constexpr int kRememberedDevices = 64;

// A kernel gets 48 KiB, and more only on request: made once, until still more is wanted.
template <auto kernel, class GridType>
void allow_shared(const GridType& grid, const char* pretty_function) {
    static std::atomic<std::size_t> allowed[kRememberedDevices];
    int device = 0;
    check(cudaGetDevice(&device), pretty_function, grid.site);
    const bool remembered = device < kRememberedDevices;
    if (remembered && allowed[device] >= grid.shared_bytes) return;
    static std::mutex turn; // no thread takes back what another has just been granted
    const std::lock_guard<std::mutex> lock(turn);
    if (remembered && allowed[device] >= grid.shared_bytes) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          pretty_function, grid.site);
    if (remembered) allowed[device] = grid.shared_bytes;
}

template <auto kernel, class GridType, class... Arguments>
void launch(const GridType& grid, const char* pretty_function, Arguments... arguments) {
    if (grid.shared_bytes > 0) allow_shared<kernel>(grid, pretty_function);
    // Blocks of a cluster are the kernel's own affair: SIMT_CLUSTER.
    kernel<<<grid.blocks, grid.threads, grid.shared_bytes,
             static_cast<cudaStream_t>(grid.stream)>>>(arguments...);
    check(cudaGetLastError(), pretty_function, grid.site);
}

} // namespace detail
} // namespace simt

// Four mistakes on purpose, one for each tool of compute-sanitizer: a tool that does not find its
// own looks at nothing, and what it says of the kernels is worth nothing.
//   planted memcheck|racecheck|initcheck|synccheck
// Not part of the package: built and run by bench/sanitizer.py alone.
#include <cstdio>
#include <cstring>

#include <cuda_runtime.h>

namespace {

constexpr int kThreads = 64;

// The last thread writes behind the end.
__global__ void out_of_bounds(float* x, int count) {
    const int i = static_cast<int>(threadIdx.x);
    if (i <= count) x[i] = 1.0f;
}

// Each thread reads what its neighbour in the other warp writes, with no barrier between.
__global__ void race(float* x) {
    __shared__ float shared[kThreads];
    const unsigned i = threadIdx.x;
    shared[i] = static_cast<float>(i);
    x[i] = shared[(i + kThreads / 2) % kThreads];
}

// Nobody has written `source`.
__global__ void uninitialised(const float* source, float* x) {
    x[threadIdx.x] = source[threadIdx.x] + 1.0f;
}

// Half of a warp's threads wait at a barrier that the others never reach.
__global__ void divergent_barrier(float* x) {
    if (threadIdx.x % 2 == 0) __syncthreads();
    x[threadIdx.x] = 1.0f;
}

} // namespace

int main(int argc, char** argv) {
    const char* mistake = argc > 1 ? argv[1] : "";
    float *x = nullptr, *source = nullptr;
    const std::size_t bytes = kThreads * sizeof(float);
    if (cudaMalloc(&x, bytes) != cudaSuccess || cudaMalloc(&source, bytes) != cudaSuccess) {
        std::puts("no memory on a GPU");
        return 3;
    }
    if (!std::strcmp(mistake, "memcheck")) {
        out_of_bounds<<<1, 2 * kThreads>>>(x, kThreads);
    } else if (!std::strcmp(mistake, "racecheck")) {
        race<<<1, kThreads>>>(x);
    } else if (!std::strcmp(mistake, "initcheck")) {
        uninitialised<<<1, kThreads>>>(source, x);
    } else if (!std::strcmp(mistake, "synccheck")) {
        divergent_barrier<<<1, kThreads>>>(x);
    } else {
        std::puts("usage: planted memcheck|racecheck|initcheck|synccheck");
        return 2;
    }
    const cudaError_t status = cudaDeviceSynchronize();
    std::puts(cudaGetErrorString(status));
    cudaFree(source);
    cudaFree(x);
    return 0;
}

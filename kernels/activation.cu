// ReLU and tanh with their gradients from the output alone, and the product with a number.
#include "bf16.cuh"
#include "ops.h"

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;

enum class Map { relu_fprop, relu_dgrad, tanh_fprop, tanh_dgrad, scale };

template <Map map> constexpr bool kGradient = map == Map::relu_dgrad || map == Map::tanh_dgrad;

// The maps of ops.h: of x; of y and dy; or of x and the factor.
template <Map map> __device__ __forceinline__ float mapped(float x, float other) {
    // Written so that a NaN, for which every comparison is false, passes through.
    if (map == Map::relu_fprop) return x <= 0.0f ? 0.0f : x;
    if (map == Map::relu_dgrad) return x > 0.0f ? other : 0.0f;
    if (map == Map::tanh_fprop) return tanhf(x);
    // The product, unlike 1 - y^2, keeps its digits where y is near 1.
    if (map == Map::tanh_dgrad) return other * ((1.0f - x) * (1.0f + x));
    return other * x;
}

// A thread maps 16 bytes of neighbouring elements, the first `vectors` threads, or one; a block 256
// times as many. Bound by bytes. dy is null unless the map has one. No __restrict__: the output may
// be an input.
template <class T, Map map> __global__ void map_kernel(const T* x, const T* dy, T* out,
                                                       float factor, std::int64_t vectors,
                                                       std::int64_t count) {
    const std::int64_t thread = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
    if (thread < vectors) {
        float values[kVector<T>], gradients[kVector<T>];
        load_vector(x + kVector<T> * thread, values);
        if (kGradient<map>) load_vector(dy + kVector<T> * thread, gradients);
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i)
            values[i] = mapped<map>(values[i], kGradient<map> ? gradients[i] : factor);
        store_vector(out + kVector<T> * thread, values);
        return;
    }
    const std::int64_t i = thread + (kVector<T> - 1) * vectors;
    if (i >= count) return;
    out[i] = narrow<T>(mapped<map>(widen(x[i]), kGradient<map> ? widen(dy[i]) : factor));
}

template <Map map, class T>
void launch(const T* x, const T* dy, T* out, float factor, std::int64_t count, Stream stream) {
    const bool in_vectors = aligned(x) && aligned(dy) && aligned(out);
    const std::int64_t vectors = in_vectors ? count / kVector<T> : 0;
    const unsigned blocks = simt::blocks_for(count - (kVector<T> - 1) * vectors, kThreads);
    simt::launch<map_kernel<T, map>>(simt::Grid(blocks, kThreads, stream), x, dy, out, factor,
                                     vectors, count);
}

} // namespace

template <class T> void relu_fprop(const T* x, T* y, std::int64_t count, Stream stream) {
    launch<Map::relu_fprop, T>(x, nullptr, y, 0.0f, count, stream);
}

template <class T>
void relu_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream stream) {
    launch<Map::relu_dgrad>(y, dy, dx, 0.0f, count, stream);
}

template <class T> void scale(const T* x, T* y, std::int64_t count, float factor, Stream stream) {
    launch<Map::scale, T>(x, nullptr, y, factor, count, stream);
}

template <class T> void tanh_fprop(const T* x, T* y, std::int64_t count, Stream stream) {
    launch<Map::tanh_fprop, T>(x, nullptr, y, 0.0f, count, stream);
}

template <class T>
void tanh_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream stream) {
    launch<Map::tanh_dgrad>(y, dy, dx, 0.0f, count, stream);
}

PYALEXNET_FOR_ELEMENTS(relu_fprop);
PYALEXNET_FOR_ELEMENTS(relu_dgrad);
PYALEXNET_FOR_ELEMENTS(scale);
PYALEXNET_FOR_ELEMENTS(tanh_fprop);
PYALEXNET_FOR_ELEMENTS(tanh_dgrad);

} // namespace pyalexnet

// ReLU and tanh with their gradients from the output alone, and the product with a number.
#include "elementwise.cuh"
#include "ops.h"

namespace pyalexnet {
namespace {

// Written so that a NaN, for which every comparison is false, passes through.
struct ReluFprop {
    __device__ __forceinline__ float operator()(float x) const { return x <= 0.0f ? 0.0f : x; }
};

struct ReluDgrad {
    __device__ __forceinline__ float operator()(float y, float dy) const {
        return y > 0.0f ? dy : 0.0f;
    }
};

struct TanhFprop {
    __device__ __forceinline__ float operator()(float x) const { return tanhf(x); }
};

// The product, unlike 1 - y^2, keeps its digits where y is near 1.
struct TanhDgrad {
    __device__ __forceinline__ float operator()(float y, float dy) const {
        return dy * ((1.0f - y) * (1.0f + y));
    }
};

struct Scale {
    float factor;

    __device__ __forceinline__ float operator()(float x) const { return factor * x; }
};

// A thread maps 16 bytes of neighbouring elements, or one (Split); a block 256 times as many. Bound
// by bytes. No __restrict__: y may be x.
template <class T, class Map>
__global__ void unary_kernel(const T* x, T* y, Map map, Split<T> split) {
    const std::int64_t thread = elementwise_thread();
    if (thread < split.vectors) {
        float values[kVector<T>];
        load_vector(x + kVector<T> * thread, values);
#pragma unroll
        for (float& value : values) value = map(value);
        store_vector(y + kVector<T> * thread, values);
        return;
    }
    const std::int64_t i = scalar_element(split, thread);
    if (i < split.count) y[i] = narrow<T>(map(widen(x[i])));
}

// The same for two inputs, bound by bytes too; dx may alias either.
template <class T, class Map>
__global__ void binary_kernel(const T* y, const T* dy, T* dx, Split<T> split) {
    const std::int64_t thread = elementwise_thread();
    const Map map;
    if (thread < split.vectors) {
        float outputs[kVector<T>], gradients[kVector<T>];
        load_vector(y + kVector<T> * thread, outputs);
        load_vector(dy + kVector<T> * thread, gradients);
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) gradients[i] = map(outputs[i], gradients[i]);
        store_vector(dx + kVector<T> * thread, gradients);
        return;
    }
    const std::int64_t i = scalar_element(split, thread);
    if (i < split.count) dx[i] = narrow<T>(map(widen(y[i]), widen(dy[i])));
}

template <class T, class Map>
void launch_unary(const T* x, T* y, std::int64_t count, Map map, Stream stream) {
    const Split<T> parts = split<T>(count, x, y);
    simt::launch<unary_kernel<T, Map>>(elementwise_grid(parts, stream), x, y, map, parts);
}

template <class Map, class T>
void launch_binary(const T* y, const T* dy, T* dx, std::int64_t count, Stream stream) {
    const Split<T> parts = split<T>(count, y, dy, dx);
    simt::launch<binary_kernel<T, Map>>(elementwise_grid(parts, stream), y, dy, dx, parts);
}

} // namespace

template <class T> void relu_fprop(const T* x, T* y, std::int64_t count, Stream stream) {
    launch_unary(x, y, count, ReluFprop{}, stream);
}

template <class T>
void relu_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream stream) {
    launch_binary<ReluDgrad>(y, dy, dx, count, stream);
}

template <class T> void scale(const T* x, T* y, std::int64_t count, float factor, Stream stream) {
    launch_unary(x, y, count, Scale{factor}, stream);
}

template <class T> void tanh_fprop(const T* x, T* y, std::int64_t count, Stream stream) {
    launch_unary(x, y, count, TanhFprop{}, stream);
}

template <class T>
void tanh_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream stream) {
    launch_binary<TanhDgrad>(y, dy, dx, count, stream);
}

PYALEXNET_FOR_ELEMENTS(relu_fprop);
PYALEXNET_FOR_ELEMENTS(relu_dgrad);
PYALEXNET_FOR_ELEMENTS(scale);
PYALEXNET_FOR_ELEMENTS(tanh_fprop);
PYALEXNET_FOR_ELEMENTS(tanh_dgrad);

} // namespace pyalexnet

// ReLU and tanh with their gradients from the output alone, and the product with a number.
#include "elementwise.cuh"
#include "ops.h"

namespace pyalexnet {
namespace {

// Written so that a NaN, for which every comparison is false, comes out again.
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

// A thread maps four neighbouring elements, or one (Split); a block 1,024. Bound by bytes. No
// __restrict__: y may be x.
template <class Map> __global__ void unary_kernel(const float* x, float* y, Map map, Split split) {
    const std::int64_t thread = elementwise_thread();
    if (thread < split.vectors) {
        const float4 in = reinterpret_cast<const float4*>(x)[thread];
        reinterpret_cast<float4*>(y)[thread] =
            make_float4(map(in.x), map(in.y), map(in.z), map(in.w));
        return;
    }
    const std::int64_t i = scalar_element(split, thread);
    if (i < split.count) y[i] = map(x[i]);
}

// The same of two inputs, bound by bytes too; dx may be either.
template <class Map>
__global__ void binary_kernel(const float* y, const float* dy, float* dx, Split split) {
    const std::int64_t thread = elementwise_thread();
    const Map map;
    if (thread < split.vectors) {
        const float4 a = reinterpret_cast<const float4*>(y)[thread];
        const float4 b = reinterpret_cast<const float4*>(dy)[thread];
        reinterpret_cast<float4*>(dx)[thread] =
            make_float4(map(a.x, b.x), map(a.y, b.y), map(a.z, b.z), map(a.w, b.w));
        return;
    }
    const std::int64_t i = scalar_element(split, thread);
    if (i < split.count) dx[i] = map(y[i], dy[i]);
}

template <class Map>
void launch_unary(const float* x, float* y, std::int64_t count, Map map, Stream stream) {
    const Split parts = split(count, x, y);
    simt::launch<unary_kernel<Map>>(elementwise_grid(parts, stream), x, y, map, parts);
}

template <class Map>
void launch_binary(const float* y, const float* dy, float* dx, std::int64_t count, Stream stream) {
    const Split parts = split(count, y, dy, dx);
    simt::launch<binary_kernel<Map>>(elementwise_grid(parts, stream), y, dy, dx, parts);
}

} // namespace

void relu_fprop(const float* x, float* y, std::int64_t count, Stream stream) {
    launch_unary(x, y, count, ReluFprop{}, stream);
}

void relu_dgrad(const float* y, const float* dy, float* dx, std::int64_t count, Stream stream) {
    launch_binary<ReluDgrad>(y, dy, dx, count, stream);
}

void scale(const float* x, float* y, std::int64_t count, float factor, Stream stream) {
    launch_unary(x, y, count, Scale{factor}, stream);
}

void tanh_fprop(const float* x, float* y, std::int64_t count, Stream stream) {
    launch_unary(x, y, count, TanhFprop{}, stream);
}

void tanh_dgrad(const float* y, const float* dy, float* dx, std::int64_t count, Stream stream) {
    launch_binary<TanhDgrad>(y, dy, dx, count, stream);
}

} // namespace pyalexnet

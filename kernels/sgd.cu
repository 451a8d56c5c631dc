// Momentum SGD with the paper's update: the learning rate lies inside the momentum buffer.
#include "elementwise.cuh"
#include "ops.h"

namespace pyalexnet {
namespace {

struct Step {
    float lr, momentum, weight_decay;

    __device__ __forceinline__ void operator()(float& w, float& v, float dw) const {
        v = momentum * v - lr * (weight_decay * w + dw);
        w += v;
    }
};

// A thread updates four neighbouring weights, or one (Split); a block 1,024. Bound by bytes: three
// floats read and two written a weight.
__global__ void sgd_update_kernel(float* __restrict__ w, float* __restrict__ v,
                                  const float* __restrict__ dw, Split split, Scalar lr,
                                  float momentum, float weight_decay) {
    const Step step{lr.on_device ? *lr.on_device : lr.value, momentum, weight_decay};
    if (step.lr == 0.0f) return;
    const std::int64_t thread = elementwise_thread();
    if (thread < split.vectors) {
        float4& w4 = reinterpret_cast<float4*>(w)[thread];
        float4& v4 = reinterpret_cast<float4*>(v)[thread];
        float4 weight = w4, velocity = v4;
        const float4 gradient = reinterpret_cast<const float4*>(dw)[thread];
        step(weight.x, velocity.x, gradient.x);
        step(weight.y, velocity.y, gradient.y);
        step(weight.z, velocity.z, gradient.z);
        step(weight.w, velocity.w, gradient.w);
        w4 = weight;
        v4 = velocity;
        return;
    }
    const std::int64_t i = scalar_element(split, thread);
    if (i < split.count) step(w[i], v[i], dw[i]);
}

} // namespace

void sgd_update(float* w, float* v, const float* dw, std::int64_t count, Scalar lr, float momentum,
                float weight_decay, Stream stream) {
    const Split parts = split(count, w, v, dw);
    simt::launch<sgd_update_kernel>(elementwise_grid(parts, stream), w, v, dw, parts, lr, momentum,
                                    weight_decay);
}

} // namespace pyalexnet

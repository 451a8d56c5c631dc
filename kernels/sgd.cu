// Momentum SGD with the paper's update (sgd.cuh), and weights split into halves and joined.
#include "ops.h"
#include "sgd.cuh"

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;

// The four of `count` elements that a thread works on; fewer at the end.
struct Range {
    std::int64_t first;
    int count;
};

__device__ __forceinline__ Range range_of_thread(std::int64_t count) {
    const std::int64_t first = 4 * (blockIdx.x * std::int64_t{kThreads} + threadIdx.x);
    const std::int64_t left = max(count - first, std::int64_t{0});
    return {first, static_cast<int>(min(left, std::int64_t{4}))};
}

simt::Grid grid_of(std::int64_t count, Stream stream) {
    return {simt::blocks_for(count, 4 * kThreads), kThreads, stream};
}

// A thread updates four neighbouring weights, a block 1,024. Bound by bytes: 20 a weight, as a
// float32 (or its halves) and its momentum are read and written and its gradient is read.
template <class T> __global__ void
sgd_update_kernel(Learned<T> learned, const float* __restrict__ dw, std::int64_t count, Rule rule) {
    const Momentum momentum = read_rule(rule);
    if (momentum.freezes()) return;
    const Range at = range_of_thread(count);
    if (at.count == 0) return;
    const FourWeights four = read_weights(learned, at.first, at.count);
    const Four<float> gradient = read_four(dw + at.first, at.count);
    learn_weights(learned, at.first, at.count, four, gradient.of, momentum);
}

// A thread splits four neighbouring weights, a block 1,024. Bound by bytes.
__global__ void split_weights_kernel(const float* __restrict__ w, bf16* __restrict__ high,
                                     std::uint16_t* __restrict__ low, std::int64_t count) {
    const Range at = range_of_thread(count);
    write_halves(high, low, at.first, at.count, read_four(w + at.first, at.count));
}

// A thread joins four neighbouring weights, a block 1,024. Bound by bytes.
__global__ void join_weights_kernel(const bf16* __restrict__ high,
                                    const std::uint16_t* __restrict__ low, float* __restrict__ w,
                                    std::int64_t count) {
    const Range at = range_of_thread(count);
    write_four(w + at.first, at.count, read_halves(high, low, at.first, at.count));
}

} // namespace

template <class T>
void sgd_update(Learned<T> w, const float* dw, std::int64_t count, Rule rule, Stream stream) {
    simt::launch<sgd_update_kernel<T>>(grid_of(count, stream), w, dw, count, rule);
}

void split_weights(const float* w, bf16* high, std::uint16_t* low, std::int64_t count,
                   Stream stream) {
    simt::launch<split_weights_kernel>(grid_of(count, stream), w, high, low, count);
}

void join_weights(const bf16* high, const std::uint16_t* low, float* w, std::int64_t count,
                  Stream stream) {
    simt::launch<join_weights_kernel>(grid_of(count, stream), high, low, w, count);
}

PYALEXNET_FOR_ELEMENTS(sgd_update);

} // namespace pyalexnet

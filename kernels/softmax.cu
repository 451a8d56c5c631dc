// Softmax, cross-entropy, its gradient and the top-k errors in one pass over the rows, and the
// rows' means in a second launch, always added in the same order.
#include "bf16.cuh"
#include "ops.h"

namespace pyalexnet {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr int kMeanThreads = 256;

// Joins a value of every lane. Each receives the same bits: at each step both partners join the
// same two numbers.
template <class Number, class Join>
__device__ __forceinline__ Number join_lanes(Number value, const Join& join) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2)
        value = join(value, __shfl_xor_sync(0xffffffffu, value, mask));
    return value;
}

// 1 - the credit of a label that `greater` logits surpass and `equal` tie with, itself included.
// The credit is its share of the tied places that lie within the first k. A NaN logit equals not
// even itself.
__device__ __forceinline__ float topk_error(int k, int greater, int equal) {
    if (equal == 0) return 1.0f;
    const float credit = static_cast<float>(k - greater) / static_cast<float>(equal);
    return 1.0f - fminf(fmaxf(credit, 0.0f), 1.0f);
}

// A warp computes one row, a lane every 32nd class, a block four rows; classes move fastest. Bound
// by latency at the networks' sizes: three short passes over a row that stays in L1. results
// (3, rows): each row's loss, top-1 and top-5 error.
template <class T> __global__ void softmax_rows_kernel(const float* __restrict__ logits,
                                                       const std::int64_t* __restrict__ labels,
                                                       T* __restrict__ dlogits,
                                                       float* __restrict__ results,
                                                       std::int64_t rows, int classes) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const std::int64_t row = blockIdx.x * std::int64_t{kWarpsPerBlock} + threadIdx.x / kWarp;
    if (row >= rows) return;
    logits += row * classes;
    dlogits += row * classes;

    const auto finish = [&](float loss, float top1, float top5) {
        if (lane != 0) return;
        results[row] = loss;
        results[rows + row] = top1;
        results[2 * rows + row] = top5;
    };

    const std::int64_t label = labels[row];
    if (label < 0 || label >= classes) {
        for (int c = lane; c < classes; c += kWarp) dlogits[c] = narrow<T>(NAN);
        return finish(NAN, 1.0f, 1.0f);
    }

    float highest = -INFINITY;
    for (int c = lane; c < classes; c += kWarp) highest = fmaxf(highest, logits[c]);
    highest = join_lanes(highest, [](float a, float b) { return fmaxf(a, b); });

    const float own = logits[label];
    float sum = 0.0f;
    int greater = 0, equal = 0;
    for (int c = lane; c < classes; c += kWarp) {
        const float logit = logits[c];
        sum += expf(logit - highest);
        greater += logit > own;
        equal += logit == own;
    }
    const auto add = [](auto a, auto b) { return a + b; };
    sum = join_lanes(sum, add);
    greater = join_lanes(greater, add);
    equal = join_lanes(equal, add);

    const float scale = static_cast<float>(rows);
    for (int c = lane; c < classes; c += kWarp) {
        const float probability = expf(logits[c] - highest) / sum;
        dlogits[c] = narrow<T>((c == label ? probability - 1.0f : probability) / scale);
    }
    finish(logf(sum) - (own - highest), topk_error(1, greater, equal),
           topk_error(5, greater, equal));
}

// Block 0 computes the mean loss, blocks 1 and 2 the mean errors, of results (3, rows); a thread
// adds every 256th row, then halves of the block are folded. Bound by latency.
__global__ void softmax_means_kernel(const float* __restrict__ results, float* __restrict__ loss,
                                     float* __restrict__ top1, float* __restrict__ top5,
                                     std::int64_t rows) {
    SIMT_SHARED(float, partial, [kMeanThreads]);
    results += blockIdx.x * rows;
    float sum = 0.0f;
    for (std::int64_t row = threadIdx.x; row < rows; row += kMeanThreads) sum += results[row];
    partial[threadIdx.x] = sum;
    for (unsigned half = kMeanThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x != 0) return;
    float* const mean = blockIdx.x == 0 ? loss : blockIdx.x == 1 ? top1 : top5;
    *mean = partial[0] / static_cast<float>(rows);
}

} // namespace

template <class T> void softmax_cross_entropy(const float* logits, const std::int64_t* labels,
                                              float* loss, T* dlogits, float* top1, float* top5,
                                              std::int64_t rows, int classes, void* workspace,
                                              Stream stream) {
    float* const results = static_cast<float*>(workspace);
    simt::launch<softmax_rows_kernel<T>>(
        simt::Grid(simt::blocks_for(rows, kWarpsPerBlock), kWarpsPerBlock * kWarp, stream), logits,
        labels, dlogits, results, rows, classes);
    simt::launch<softmax_means_kernel>(simt::Grid(3, kMeanThreads, stream), results, loss, top1,
                                       top5, rows);
}

PYALEXNET_FOR_ELEMENTS(softmax_cross_entropy);

} // namespace pyalexnet

// Softmax, cross-entropy, its gradient and the top-k errors in one pass over the rows, and the
// rows' means, always added in the same order. A piece is some rows.
#include <limits>

#include "bf16.cuh"
#include "cpu/functions.hpp"
#include "cpu/lanes.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

template <class Number, class Vector> PYALEXNET_INLINE Number sum_of_lanes(Vector x) {
    Number sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += x[lane];
    return sum;
}

// The lanes' own numbers.
PYALEXNET_INLINE Ints places() {
    Ints place;
    for (int lane = 0; lane < kLanes; ++lane) place[lane] = lane;
    return place;
}

// 1 - the credit of a label that `greater` logits surpass and `equal` tie with, itself included.
// The credit is its share of the tied places that lie within the first k. A NaN logit equals not
// even itself.
float topk_error(int k, int greater, int equal) {
    if (equal == 0) return 1.0f;
    const float credit = static_cast<float>(k - greater) / static_cast<float>(equal);
    return 1.0f - std::min(std::max(credit, 0.0f), 1.0f);
}

struct Result {
    float loss, top1, top5;
};

// Bound by the exponentials: one for each class, kept in dlogits, or two where dlogits would round
// it.
template <class T> Result softmax_row(const float* logits, std::int64_t label, T* dlogits,
                                      std::int64_t rows, int classes) {
    if (label < 0 || label >= classes) {
        std::fill_n(dlogits, classes, narrow<T>(std::numeric_limits<float>::quiet_NaN()));
        return {std::numeric_limits<float>::quiet_NaN(), 1.0f, 1.0f};
    }
    V highest_of_lanes = splat(-std::numeric_limits<float>::infinity());
    by_vectors(classes, [&](int c, auto n) {
        const V logit = load(logits + c, n);
        const Ints higher = (logit > highest_of_lanes) & (places() < splat(classes - c));
        highest_of_lanes = select(higher, logit, highest_of_lanes);
    });
    float highest = highest_of_lanes[0];
    for (int lane = 1; lane < kLanes; ++lane) highest = std::max(highest, highest_of_lanes[lane]);

    constexpr bool keeps = std::is_same_v<T, float>;
    const float own = logits[label];
    V sums{};
    Ints greater{}, equal{};
    by_vectors(classes, [&](int c, auto n) {
        const V logit = load(logits + c, n);
        const Ints counts = places() < splat(classes - c);
        const V e = exponential(logit - highest);
        if (keeps) store(dlogits + c, e, n);
        sums += select(counts, e, V{});
        greater -= (logit > splat(own)) & counts;
        equal -= (logit == splat(own)) & counts;
    });
    const auto sum = sum_of_lanes<float>(sums);
    const float scale = 1.0f / static_cast<float>(rows), over_sum = 1.0f / sum;
    by_vectors(classes, [&](int c, auto n) {
        const V e = keeps ? load(dlogits + c, n) : exponential(load(logits + c, n) - highest);
        const V probability = e * over_sum;
        const Ints own_class = places() == splat(static_cast<std::int32_t>(label) - c);
        store(dlogits + c, select(own_class, probability - 1.0f, probability) * scale, n);
    });
    const auto above = sum_of_lanes<int>(greater), ties = sum_of_lanes<int>(equal);
    return {std::log(sum) - (own - highest), topk_error(1, above, ties),
            topk_error(5, above, ties)};
}

float mean(const float* results, std::int64_t rows) {
    V sums{};
    by_vectors(rows, [&](std::int64_t row, auto n) { sums += load(results + row, n); });
    return sum_of_lanes<float>(sums) / static_cast<float>(rows);
}

} // namespace

template <class T> void softmax_cross_entropy(const float* logits, const std::int64_t* labels,
                                              float* loss, T* dlogits, float* top1, float* top5,
                                              std::int64_t rows, int classes, void* workspace,
                                              Stream) {
    float* const results = static_cast<float*>(workspace); // (3, rows)
    parallel_rows(rows, classes, [&](std::int64_t row) {
        const std::int64_t at = row * classes;
        const Result result = softmax_row(logits + at, labels[row], dlogits + at, rows, classes);
        results[row] = result.loss;
        results[rows + row] = result.top1;
        results[2 * rows + row] = result.top5;
    });
    *loss = mean(results, rows);
    *top1 = mean(results + rows, rows);
    *top5 = mean(results + 2 * rows, rows);
}

PYALEXNET_FOR_ELEMENTS(softmax_cross_entropy);

} // namespace pyalexnet

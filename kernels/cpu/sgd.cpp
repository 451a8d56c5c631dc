// Momentum SGD with the paper's update, and weights split into halves and joined (ops.h). Bound by
// bytes.
#include "cpu/epilogue.hpp"
#include "cpu/lanes.hpp"

namespace pyalexnet {
using namespace cpu;

template <class T>
void sgd_update(Learned<T> w, const float* dw, std::int64_t count, Rule rule, Stream) {
    const Momentum momentum = read_rule(rule);
    if (momentum.freezes()) return;
    elementwise(count, [=](std::int64_t i, auto n) { learn(momentum, w, i, n, load(dw + i, n)); });
}

void split_weights(const float* w, bf16* high, std::uint16_t* low, std::int64_t count, Stream) {
    elementwise(count,
                [=](std::int64_t i, auto n) { split(load(w + i, n), high + i, low + i, n); });
}

void join_weights(const bf16* high, const std::uint16_t* low, float* w, std::int64_t count,
                  Stream) {
    elementwise(count,
                [=](std::int64_t i, auto n) { store(w + i, joined(high + i, low + i, n), n); });
}

PYALEXNET_FOR_ELEMENTS(sgd_update);

} // namespace pyalexnet

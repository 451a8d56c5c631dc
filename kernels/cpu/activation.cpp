// ReLU and tanh with their gradients, and the product with a number, as activation.cu has them:
// bound by bytes, except tanh, which is computed lane by lane.
#include "cpu/epilogue.hpp"
#include "cpu/lanes.hpp"

namespace pyalexnet {
namespace cpu {
namespace {

// Elements of a piece of work: they outweigh the cost of handing it out.
constexpr int kElements = 1 << 14;

// Calls body(i, lanes) for the vectors of `count` elements, on any core.
template <class Body> void elementwise(std::int64_t count, Body body) {
    simt::parallel(quotient_up(count, kElements), [&](std::int64_t piece, int) {
        const std::int64_t first = piece * kElements;
        by_vectors(static_cast<int>(std::min<std::int64_t>(kElements, count - first)),
                   [&](int i, auto lanes) { body(first + i, lanes); });
    });
}

} // namespace
} // namespace cpu

template <class T> void relu_fprop(const T* x, T* y, std::int64_t count, Stream) {
    cpu::elementwise(count, [=](std::int64_t i, auto lanes) {
        const cpu::V value = lanes.load(x + i);
        lanes.store(y + i, cpu::select(value <= 0.0f, cpu::V{}, value));
    });
}

template <class T> void relu_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream) {
    cpu::elementwise(count, [=](std::int64_t i, auto lanes) {
        lanes.store(dx + i, cpu::select(lanes.load(y + i) > 0.0f, lanes.load(dy + i), cpu::V{}));
    });
}

template <class T> void scale(const T* x, T* y, std::int64_t count, float factor, Stream) {
    cpu::elementwise(
        count, [=](std::int64_t i, auto lanes) { lanes.store(y + i, factor * lanes.load(x + i)); });
}

template <class T> void tanh_fprop(const T* x, T* y, std::int64_t count, Stream) {
    cpu::elementwise(count, [=](std::int64_t i, auto lanes) {
        lanes.store(y + i, cpu::activate(lanes.load(x + i), Activation::tanh));
    });
}

// The product, unlike 1 - y^2, keeps its digits where y is near 1.
template <class T> void tanh_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream) {
    cpu::elementwise(count, [=](std::int64_t i, auto lanes) {
        const cpu::V out = lanes.load(y + i);
        lanes.store(dx + i, lanes.load(dy + i) * ((1.0f - out) * (1.0f + out)));
    });
}

PYALEXNET_FOR_ELEMENTS(relu_fprop);
PYALEXNET_FOR_ELEMENTS(relu_dgrad);
PYALEXNET_FOR_ELEMENTS(scale);
PYALEXNET_FOR_ELEMENTS(tanh_fprop);
PYALEXNET_FOR_ELEMENTS(tanh_dgrad);

} // namespace pyalexnet

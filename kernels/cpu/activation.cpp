// ReLU and tanh with their gradients, and the product with a number, as activation.cu has them.
// Bound by bytes, tanh by its instructions.
#include "cpu/functions.hpp"
#include "cpu/lanes.hpp"

namespace pyalexnet {
using namespace cpu;

template <class T> void relu_fprop(const T* x, T* y, std::int64_t count, Stream) {
    elementwise(count, [=](std::int64_t i, auto n) {
        const V value = load(x + i, n);
        store(y + i, select(value <= 0.0f, V{}, value), n);
    });
}

template <class T> void relu_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream) {
    elementwise(count, [=](std::int64_t i, auto n) {
        store(dx + i, select(load(y + i, n) > 0.0f, load(dy + i, n), V{}), n);
    });
}

template <class T> void scale(const T* x, T* y, std::int64_t count, float factor, Stream) {
    elementwise(count, [=](std::int64_t i, auto n) { store(y + i, factor * load(x + i, n), n); });
}

template <class T> void tanh_fprop(const T* x, T* y, std::int64_t count, Stream) {
    elementwise(count, [=](std::int64_t i, auto n) { store(y + i, tanh(load(x + i, n)), n); });
}

// The product, unlike 1 - y^2, keeps its digits where y is near 1.
template <class T> void tanh_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream) {
    elementwise(count, [=](std::int64_t i, auto n) {
        const V out = load(y + i, n);
        store(dx + i, load(dy + i, n) * ((1.0f - out) * (1.0f + out)), n);
    });
}

PYALEXNET_FOR_ELEMENTS(relu_fprop);
PYALEXNET_FOR_ELEMENTS(relu_dgrad);
PYALEXNET_FOR_ELEMENTS(scale);
PYALEXNET_FOR_ELEMENTS(tanh_fprop);
PYALEXNET_FOR_ELEMENTS(tanh_dgrad);

} // namespace pyalexnet

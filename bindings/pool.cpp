#include "pool_shape.hpp"
#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

void maxpool_fprop_op(const py::object& x_, const py::object& y_, const py::object& where_,
                      std::int64_t size, std::int64_t stride, int device, const Target& target) {
    Call call("maxpool_fprop", device, target);
    with_types(call, x_, size, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const auto where = call.output<Where>("where", where_, 4);
        expect_same_shape(call, "y", y, "where", where);
        const PoolShape shape = pool_shape(call, x, y, size, stride);
        call.launch([=](Stream s) { maxpool_fprop(x.data(), y.data(), where.data(), shape, s); });
    });
}

void maxpool_dgrad_op(const py::object& dy_, const py::object& where_, const py::object& gate_,
                      const py::object& dx_, std::int64_t size, std::int64_t stride, int device,
                      const Target& target) {
    Call call("maxpool_dgrad", device, target);
    with_types(call, dy_, size, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto where = call.input<const Where>("where", where_, 4);
        const auto gate = call.optional_input<const T>("gate", gate_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "dy", dy, "where", where);
        if (gate) expect_same_shape(call, "dx", dx, "gate", gate);
        const PoolShape shape = pool_shape(call, dx, dy, size, stride);
        call.launch([=](Stream s) {
            maxpool_dgrad(dy.data(), where.data(), gate.data(), dx.data(), shape, s);
        });
    });
}

void avgpool_fprop_op(const py::object& x_, const py::object& y_, std::int64_t size,
                      std::int64_t stride, int device, const Target& target) {
    Call call("avgpool_fprop", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const PoolShape shape = pool_shape(call, x, y, size, stride);
        call.launch([=](Stream s) { avgpool_fprop(x.data(), y.data(), shape, s); });
    });
}

void avgpool_dgrad_op(const py::object& dy_, const py::object& dx_, std::int64_t size,
                      std::int64_t stride, int device, const Target& target) {
    Call call("avgpool_dgrad", device, target);
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        const PoolShape shape = pool_shape(call, dx, dy, size, stride);
        call.launch([=](Stream s) { avgpool_dgrad(dy.data(), dx.data(), shape, s); });
    });
}

} // namespace

void register_pool(py::module_& m) {
    m.def("maxpool_fprop", &maxpool_fprop_op);
    m.def("maxpool_dgrad", &maxpool_dgrad_op);
    m.def("avgpool_fprop", &avgpool_fprop_op);
    m.def("avgpool_dgrad", &avgpool_dgrad_op);
}

} // namespace pyalexnet

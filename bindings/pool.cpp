#include "maps.hpp"
#include "pool_shape.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

void maxpool_fprop_op(const py::object& x_, const py::object& y_, const py::object& where_,
                      const PoolGiven& pool, const Place& place) {
    Call call("maxpool_fprop", place);
    with_types(call, x_, pool, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const auto where = call.output<Where>("where", where_, 4);
        expect_same_shape(call, "y", y, "where", where);
        const PoolShape shape = pool_shape(call, x, y, pool);
        call.launch([=](Stream s) { maxpool_fprop(x.data(), y.data(), where.data(), shape, s); });
    });
}

void maxpool_dgrad_op(const py::object& dy_, const py::object& where_, const py::object& gate_,
                      const py::object& dx_, const PoolGiven& pool, const Place& place) {
    Call call("maxpool_dgrad", place);
    with_types(call, dy_, pool, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto where = call.input<const Where>("where", where_, 4);
        const auto gate = call.optional_input<const T>("gate", gate_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "dy", dy, "where", where);
        if (gate) expect_same_shape(call, "dx", dx, "gate", gate);
        const PoolShape shape = pool_shape(call, dx, dy, pool);
        call.launch([=](Stream s) {
            maxpool_dgrad(dy.data(), where.data(), gate.data(), dx.data(), shape, s);
        });
    });
}

void avgpool_fprop_op(const py::object& x_, const py::object& y_, const PoolGiven& pool,
                      const Place& place) {
    Call call("avgpool_fprop", place);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const PoolShape shape = pool_shape(call, x, y, pool);
        call.launch([=](Stream s) { avgpool_fprop(x.data(), y.data(), shape, s); });
    });
}

void avgpool_dgrad_op(const py::object& dy_, const py::object& dx_, const PoolGiven& pool,
                      const Place& place) {
    Call call("avgpool_dgrad", place);
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        const PoolShape shape = pool_shape(call, dx, dy, pool);
        call.launch([=](Stream s) { avgpool_dgrad(dy.data(), dx.data(), shape, s); });
    });
}

} // namespace

void register_pool(py::module_& m) {
    m.def("maxpool_fprop", &maxpool_fprop_op, "x"_a, "y"_a, "where"_a, "pool"_a, "place"_a);
    m.def("maxpool_dgrad", &maxpool_dgrad_op, "dy"_a, "where"_a, "gate"_a, "dx"_a, "pool"_a,
          "place"_a);
    m.def("avgpool_fprop", &avgpool_fprop_op, "x"_a, "y"_a, "pool"_a, "place"_a);
    m.def("avgpool_dgrad", &avgpool_dgrad_op, "dy"_a, "dx"_a, "pool"_a, "place"_a);
}

} // namespace pyalexnet

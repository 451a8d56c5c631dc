#include "pool_shape.hpp"
#include "records.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

void lrn_maxpool_fprop_op(const py::object& x_, const py::object& y_, const py::object& where_,
                          const NormGiven& norm_, const PoolGiven& pool, bool relu,
                          const Place& place) {
    Call call("lrn_maxpool_fprop", place);
    with_types(call, x_, pool, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const auto where = call.output<Where>("where", where_, 4);
        expect_same_shape(call, "y", y, "where", where);
        const PoolShape shape = pool_shape(call, x, y, pool);
        const NormArgument norm(call, norm_, shape.channels);
        call.launch([=](Stream s) {
            lrn_maxpool_fprop(x.data(), y.data(), where.data(), shape, norm.groups, norm.norm, relu,
                              s);
        });
    });
}

void lrn_maxpool_dgrad_op(const py::object& x_, const py::object& y_, const py::object& dy_,
                          const py::object& where_, const py::object& dx_, const NormGiven& norm_,
                          const PoolGiven& pool, bool gated, const Place& place) {
    Call call("lrn_maxpool_dgrad", place);
    with_types(call, x_, pool, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.optional_input<const T>("y", y_, 4);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto where = call.input<const Where>("where", where_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "x", x, "dx", dx);
        expect_same_shape(call, "dy", dy, "where", where);
        if (y) expect_same_shape(call, "dy", dy, "y", y);
        const PoolShape shape = pool_shape(call, x, dy, pool);
        const NormArgument norm(call, norm_, shape.channels);
        call.launch([=](Stream s) {
            lrn_maxpool_dgrad(x.data(), y.data(), dy.data(), where.data(), dx.data(), shape,
                              norm.groups, norm.norm, gated, s);
        });
    });
}

} // namespace

void register_lrn_pool(py::module_& m) {
    m.def("lrn_maxpool_fprop", &lrn_maxpool_fprop_op, "x"_a, "y"_a, "where"_a, "norm"_a, "pool"_a,
          "relu"_a, "place"_a);
    m.def("lrn_maxpool_dgrad", &lrn_maxpool_dgrad_op, "x"_a, "y"_a, "dy"_a, "where"_a, "dx"_a,
          "norm"_a, "pool"_a, "gated"_a, "place"_a);
}

} // namespace pyalexnet

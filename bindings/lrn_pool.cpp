#include "pool_shape.hpp"
#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

int groups_of(const Call& call, std::int64_t groups_, int channels) {
    const int groups = call.extent("groups", groups_);
    call.expect(channels % groups == 0, "groups is " + std::to_string(groups) +
                                            "; a divisor of the " + std::to_string(channels) +
                                            " channels was expected");
    return groups;
}

void lrn_maxpool_fprop_op(const py::object& x_, const py::object& y_, const py::object& where_,
                          std::int64_t size, float alpha, float beta, float k, std::int64_t groups_,
                          std::int64_t pool_size, std::int64_t pool_stride, bool relu, int device,
                          const Target& target) {
    Call call("lrn_maxpool_fprop", device, target);
    with_types(call, x_, pool_size, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const auto where = call.output<Where>("where", where_, 4);
        expect_same_shape(call, "y", y, "where", where);
        const PoolShape shape = pool_shape(call, x, y, pool_size, pool_stride);
        const int groups = groups_of(call, groups_, shape.channels);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        call.launch([=](Stream s) {
            lrn_maxpool_fprop(x.data(), y.data(), where.data(), shape, groups, norm, relu, s);
        });
    });
}

void lrn_maxpool_dgrad_op(const py::object& x_, const py::object& y_, const py::object& dy_,
                          const py::object& where_, const py::object& dx_, std::int64_t size,
                          float alpha, float beta, float k, std::int64_t groups_,
                          std::int64_t pool_size, std::int64_t pool_stride, bool gated, int device,
                          const Target& target) {
    Call call("lrn_maxpool_dgrad", device, target);
    with_types(call, x_, pool_size, [&](auto element, auto code) {
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
        const PoolShape shape = pool_shape(call, x, dy, pool_size, pool_stride);
        const int groups = groups_of(call, groups_, shape.channels);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        call.launch([=](Stream s) {
            lrn_maxpool_dgrad(x.data(), y.data(), dy.data(), where.data(), dx.data(), shape, groups,
                              norm, gated, s);
        });
    });
}

} // namespace

void register_lrn_pool(py::module_& m) {
    m.def("lrn_maxpool_fprop", &lrn_maxpool_fprop_op);
    m.def("lrn_maxpool_dgrad", &lrn_maxpool_dgrad_op);
}

} // namespace pyalexnet

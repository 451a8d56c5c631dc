#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

// A launcher's arguments for maps whose last axis is the channels.
struct Maps {
    std::int64_t pixels;
    int channels, groups;
};

template <class X> Maps maps_of(const Call& call, const X& x, std::int64_t groups) {
    const Maps maps{x.size() / x.dim(-1), call.extent("channels", x.dim(-1)),
                    call.extent("groups", groups)};
    call.expect(maps.channels % maps.groups == 0,
                "groups is " + std::to_string(maps.groups) + "; a divisor of the " +
                    std::to_string(maps.channels) + " channels was expected");
    return maps;
}

void lrn_fprop_op(const py::object& x_, const py::object& y_, std::int64_t size, float alpha,
                  float beta, float k, std::int64_t groups, int device, const Target& target) {
    Call call("lrn_fprop", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        expect_same_shape(call, "x", x, "y", y);
        const Maps maps = maps_of(call, x, groups);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        call.launch([=](Stream s) {
            lrn_fprop(x.data(), y.data(), maps.pixels, maps.channels, maps.groups, norm, s);
        });
    });
}

void lrn_dgrad_op(const py::object& x_, const py::object& dy_, const py::object& dx_,
                  std::int64_t size, float alpha, float beta, float k, std::int64_t groups,
                  int device, const Target& target) {
    Call call("lrn_dgrad", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "x", x, "dy", dy);
        expect_same_shape(call, "x", x, "dx", dx);
        const Maps maps = maps_of(call, x, groups);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        call.launch([=](Stream s) {
            lrn_dgrad(x.data(), dy.data(), dx.data(), maps.pixels, maps.channels, maps.groups, norm,
                      s);
        });
    });
}

} // namespace

void register_lrn(py::module_& m) {
    m.def("lrn_fprop", &lrn_fprop_op);
    m.def("lrn_dgrad", &lrn_dgrad_op);
}

} // namespace pyalexnet

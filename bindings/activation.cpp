#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

template <class Launcher> void fprop(const char* op, Launcher launcher, const py::object& x_,
                                     const py::object& y_, int device, const Target& target) {
    Call call(op, device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_);
        const auto y = call.output<T>("y", y_, Alias::allowed);
        expect_same_shape(call, "x", x, "y", y);
        call.launch([=](Stream s) { launcher(x.data(), y.data(), x.size(), s); });
    });
}

template <class Launcher> void dgrad(const char* op, Launcher launcher, const py::object& y_,
                                     const py::object& dy_, const py::object& dx_, int device,
                                     const Target& target) {
    Call call(op, device, target);
    with_element(y_, [&](auto element) {
        using T = decltype(element);
        const auto y = call.input<const T>("y", y_);
        const auto dy = call.input<const T>("dy", dy_);
        const auto dx = call.output<T>("dx", dx_, Alias::allowed);
        expect_same_shape(call, "y", y, "dy", dy);
        expect_same_shape(call, "y", y, "dx", dx);
        call.launch([=](Stream s) { launcher(y.data(), dy.data(), dx.data(), y.size(), s); });
    });
}

void relu_fprop_op(const py::object& x, const py::object& y, int device, const Target& target) {
    fprop("relu_fprop", [](auto... each) { relu_fprop(each...); }, x, y, device, target);
}

void relu_dgrad_op(const py::object& y, const py::object& dy, const py::object& dx, int device,
                   const Target& target) {
    dgrad("relu_dgrad", [](auto... each) { relu_dgrad(each...); }, y, dy, dx, device, target);
}

void tanh_fprop_op(const py::object& x, const py::object& y, int device, const Target& target) {
    fprop("tanh_fprop", [](auto... each) { tanh_fprop(each...); }, x, y, device, target);
}

void tanh_dgrad_op(const py::object& y, const py::object& dy, const py::object& dx, int device,
                   const Target& target) {
    dgrad("tanh_dgrad", [](auto... each) { tanh_dgrad(each...); }, y, dy, dx, device, target);
}

void scale_op(const py::object& x, const py::object& y, float factor, int device,
              const Target& target) {
    const auto launcher = [factor](auto* from, auto* to, std::int64_t count, Stream s) {
        scale(from, to, count, factor, s);
    };
    fprop("scale", launcher, x, y, device, target);
}

} // namespace

void register_activation(py::module_& m) {
    m.def("relu_fprop", &relu_fprop_op);
    m.def("relu_dgrad", &relu_dgrad_op);
    m.def("scale", &scale_op);
    m.def("tanh_fprop", &tanh_fprop_op);
    m.def("tanh_dgrad", &tanh_dgrad_op);
}

} // namespace pyalexnet

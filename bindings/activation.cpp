#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

using Unary = void (*)(const float*, float*, std::int64_t, Stream);
using Binary = void (*)(const float*, const float*, float*, std::int64_t, Stream);

void fprop(const char* op, Unary launcher, const py::object& x_, const py::object& y_, int device,
           const Target& target) {
    Call call(op, device, target);
    const auto x = call.input<const float>("x", x_);
    const auto y = call.output<float>("y", y_, Alias::allowed);
    expect_same_shape(call, "x", x, "y", y);
    call.launch([=](Stream s) { launcher(x.data(), y.data(), x.size(), s); });
}

void dgrad(const char* op, Binary launcher, const py::object& y_, const py::object& dy_,
           const py::object& dx_, int device, const Target& target) {
    Call call(op, device, target);
    const auto y = call.input<const float>("y", y_);
    const auto dy = call.input<const float>("dy", dy_);
    const auto dx = call.output<float>("dx", dx_, Alias::allowed);
    expect_same_shape(call, "y", y, "dy", dy);
    expect_same_shape(call, "y", y, "dx", dx);
    call.launch([=](Stream s) { launcher(y.data(), dy.data(), dx.data(), y.size(), s); });
}

void relu_fprop_op(const py::object& x, const py::object& y, int device, const Target& target) {
    fprop("relu_fprop", &relu_fprop, x, y, device, target);
}

void relu_dgrad_op(const py::object& y, const py::object& dy, const py::object& dx, int device,
                   const Target& target) {
    dgrad("relu_dgrad", &relu_dgrad, y, dy, dx, device, target);
}

void tanh_fprop_op(const py::object& x, const py::object& y, int device, const Target& target) {
    fprop("tanh_fprop", &tanh_fprop, x, y, device, target);
}

void tanh_dgrad_op(const py::object& y, const py::object& dy, const py::object& dx, int device,
                   const Target& target) {
    dgrad("tanh_dgrad", &tanh_dgrad, y, dy, dx, device, target);
}

void scale_op(const py::object& x_, const py::object& y_, float factor, int device,
              const Target& target) {
    Call call("scale", device, target);
    const auto x = call.input<const float>("x", x_);
    const auto y = call.output<float>("y", y_, Alias::allowed);
    expect_same_shape(call, "x", x, "y", y);
    call.launch([=](Stream s) { scale(x.data(), y.data(), x.size(), factor, s); });
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

#include "maps.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

template <class Launcher> auto fprop(const char* op, Launcher launcher) {
    return [=](const py::object& x_, const py::object& y_, const Place& place) {
        Call call(op, place);
        with_map(call, x_, y_, Alias::allowed, Call::kAnyRank, [&](auto x, auto y) {
            call.launch([=](Stream s) { launcher(x.data(), y.data(), x.size(), s); });
        });
    };
}

template <class Launcher> auto dgrad(const char* op, Launcher launcher) {
    return [=](const py::object& y_, const py::object& dy_, const py::object& dx_,
               const Place& place) {
        Call call(op, place);
        const auto use = [&](auto y, auto dy, auto dx) {
            call.launch([=](Stream s) { launcher(y.data(), dy.data(), dx.data(), y.size(), s); });
        };
        with_gradient(call, "y", y_, dy_, dx_, Alias::allowed, Call::kAnyRank, use);
    };
}

void scale_op(const py::object& x_, const py::object& y_, float factor, const Place& place) {
    const auto launcher = [factor](auto* from, auto* to, std::int64_t count, Stream s) {
        scale(from, to, count, factor, s);
    };
    fprop("scale", launcher)(x_, y_, place);
}

} // namespace

void register_activation(py::module_& m) {
    const auto relu = fprop("relu_fprop", [](auto... each) { relu_fprop(each...); });
    const auto drelu = dgrad("relu_dgrad", [](auto... each) { relu_dgrad(each...); });
    const auto tanh = fprop("tanh_fprop", [](auto... each) { tanh_fprop(each...); });
    const auto dtanh = dgrad("tanh_dgrad", [](auto... each) { tanh_dgrad(each...); });
    m.def("relu_fprop", relu, "x"_a, "y"_a, "place"_a);
    m.def("relu_dgrad", drelu, "y"_a, "dy"_a, "dx"_a, "place"_a);
    m.def("scale", &scale_op, "x"_a, "y"_a, "factor"_a, "place"_a);
    m.def("tanh_fprop", tanh, "x"_a, "y"_a, "place"_a);
    m.def("tanh_dgrad", dtanh, "y"_a, "dy"_a, "dx"_a, "place"_a);
}

} // namespace pyalexnet

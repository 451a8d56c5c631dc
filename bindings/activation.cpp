#include "array.hpp"

namespace pyalexnet {
namespace {

template <class Launcher> auto fprop(Launcher launcher) {
    return [=](Call& call, handle x_, handle y_) {
        with_map(call, x_, y_, {}, Access::in_place,
                 [&](auto, auto x, auto y) { call.launch(launcher, x, y, x.size()); });
    };
}

template <class Launcher> auto dgrad(Launcher launcher) {
    return [=](Call& call, handle y_, handle dy_, handle dx_) {
        with_gradient(
            call, "y", y_, dy_, dx_, {}, Access::in_place,
            [&](auto, auto y, auto dy, auto dx) { call.launch(launcher, y, dy, dx, y.size()); });
    };
}

void scale_op(Call& call, handle x_, handle y_, float factor) {
    with_map(call, x_, y_, {}, Access::in_place, [&](auto element, auto x, auto y) {
        call.launch(scale<decltype(element)>, x, y, x.size(), factor);
    });
}

const Ops activation_ops([](py::module_& m) {
    const auto relu = fprop([](auto... each) { relu_fprop(each...); });
    const auto drelu = dgrad([](auto... each) { relu_dgrad(each...); });
    const auto tanh = fprop([](auto... each) { tanh_fprop(each...); });
    const auto dtanh = dgrad([](auto... each) { tanh_dgrad(each...); });
    define(m, "relu_fprop", relu, "x"_a, "y"_a);
    define(m, "relu_dgrad", drelu, "y"_a, "dy"_a, "dx"_a);
    define(m, "tanh_fprop", tanh, "x"_a, "y"_a);
    define(m, "tanh_dgrad", dtanh, "y"_a, "dy"_a, "dx"_a);
    define(m, "scale", scale_op, "x"_a, "y"_a, "factor"_a);
});

} // namespace
} // namespace pyalexnet

#include "array.hpp"

namespace pyalexnet {
namespace {

// Activations and their gradients by launchers for either type.
template <auto for_float, auto for_bf16> void fprop(Call& call, handle x_, handle y_) {
    with_map(call, x_, y_, {}, Access::in_place, [&](auto element, auto x, auto y) {
        if constexpr (std::is_same_v<decltype(element), float>)
            call.launch(for_float, x, y, x.size());
        else
            call.launch(for_bf16, x, y, x.size());
    });
}

template <auto for_float, auto for_bf16> void dgrad(Call& call, handle y_, handle dy_, handle dx_) {
    with_gradient(call, "y", y_, dy_, dx_, {}, Access::in_place,
                  [&](auto element, auto y, auto dy, auto dx) {
                      if constexpr (std::is_same_v<decltype(element), float>)
                          call.launch(for_float, y, dy, dx, y.size());
                      else
                          call.launch(for_bf16, y, dy, dx, y.size());
                  });
}

void scale_op(Call& call, handle x_, handle y_, float factor) {
    with_map(call, x_, y_, {}, Access::in_place, [&](auto element, auto x, auto y) {
        call.launch(scale<decltype(element)>, x, y, x.size(), factor);
    });
}

const Ops activation_ops([](py::module_& m) {
    define(m, "relu_fprop", fprop<relu_fprop<float>, relu_fprop<bf16>>, "x"_a, "y"_a);
    define(m, "relu_dgrad", dgrad<relu_dgrad<float>, relu_dgrad<bf16>>, "y"_a, "dy"_a, "dx"_a);
    define(m, "tanh_fprop", fprop<tanh_fprop<float>, tanh_fprop<bf16>>, "x"_a, "y"_a);
    define(m, "tanh_dgrad", dgrad<tanh_dgrad<float>, tanh_dgrad<bf16>>, "y"_a, "dy"_a, "dx"_a);
    define(m, "scale", scale_op, "x"_a, "y"_a, "factor"_a);
});

} // namespace
} // namespace pyalexnet

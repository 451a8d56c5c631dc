#include "records.hpp"

namespace pyalexnet {
namespace {

void rnorm_fprop_op(Call& call, handle x_, handle y_, const NormTuple& tuple) {
    with_map(call, x_, y_, 4, Access::write, [&](auto element, auto x, auto y) {
        const auto [n, h, w, c] = call.maps(x);
        call.launch(rnorm_fprop<decltype(element)>, x, y, n, h, w, c, norm_of(call, tuple, c).norm);
    });
}

void rnorm_dgrad_op(Call& call, handle x_, handle dy_, handle dx_, const NormTuple& tuple) {
    with_gradient(call, "x", x_, dy_, dx_, 4, Access::write,
                  [&](auto element, auto x, auto dy, auto dx) {
                      const auto [n, h, w, c] = call.maps(x);
                      const auto scratch = call.scratch(rnorm_dgrad_workspace(n, h, w, c));
                      call.launch(rnorm_dgrad<decltype(element)>, x, dy, dx, n, h, w, c,
                                  norm_of(call, tuple, c).norm, scratch);
                  });
}

const Ops rnorm_ops([](py::module_& m) {
    define(m, "rnorm_fprop", rnorm_fprop_op, "x"_a, "y"_a, "norm"_a);
    define(m, "rnorm_dgrad", rnorm_dgrad_op, "x"_a, "dy"_a, "dx"_a, "norm"_a);
});

} // namespace
} // namespace pyalexnet

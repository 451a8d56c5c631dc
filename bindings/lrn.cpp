#include "records.hpp"

namespace pyalexnet {
namespace {

void lrn_fprop_op(Call& call, handle x_, handle y_, const NormTuple& tuple) {
    with_map(call, x_, y_, 4, Access::write, [&](auto element, auto x, auto y) {
        const auto [norm, channels, groups] = norm_of(call, tuple, x.dim(3));
        call.launch(lrn_fprop<decltype(element)>, x, y, x.size() / channels, channels, groups,
                    norm);
    });
}

void lrn_dgrad_op(Call& call, handle x_, handle dy_, handle dx_, const NormTuple& tuple) {
    with_gradient(call, "x", x_, dy_, dx_, 4, Access::write,
                  [&](auto element, auto x, auto dy, auto dx) {
                      const auto [norm, channels, groups] = norm_of(call, tuple, x.dim(3));
                      call.launch(lrn_dgrad<decltype(element)>, x, dy, dx, x.size() / channels,
                                  channels, groups, norm);
                  });
}

const Ops lrn_ops([](py::module_& m) {
    define(m, "lrn_fprop", lrn_fprop_op, "x"_a, "y"_a, "norm"_a);
    define(m, "lrn_dgrad", lrn_dgrad_op, "x"_a, "dy"_a, "dx"_a, "norm"_a);
});

} // namespace
} // namespace pyalexnet

#include "product.hpp"

namespace pyalexnet {
namespace {

struct Linear {
    static constexpr int kRank = 2;

    // For x (rows, inputs) and w (outputs, inputs), or their gradients.
    template <class X, class W> static ConvShape shape(const Call& call, const X& x, const W& w,
                                                       Unit unit, std::int64_t towers) {
        call.expect_shape(w, {w.dim(0), x.dim(1)});
        const auto [outputs, inputs] = call.extents<2>(w);
        const ConvShape shape = linear_shape(call.extent("rows", x.dim(0)), inputs, outputs,
                                             call.extent("towers", towers), unit);
        call.expect_countable("rows", shape.images);
        call.expect_countable("inputs", shape.channels);
        call.expect_countable("outputs of all towers", std::int64_t{shape.filters} * shape.towers);
        return shape;
    }
};

const Ops linear_ops([](py::module_& m) { Product<Linear>::define_all(m, "linear"); });

} // namespace
} // namespace pyalexnet

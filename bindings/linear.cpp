#include "product.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

struct Linear {
    static constexpr const char* kFprop = "linear_fprop";
    static constexpr const char* kDgrad = "linear_dgrad";
    static constexpr const char* kWgrad = "linear_wgrad";
    static constexpr const char* kWgradSgd = "linear_wgrad_sgd";
    static constexpr int kRank = 2;
    static constexpr const char* kOutputs = "outputs";

    // For x (rows, inputs), w (outputs, inputs) and y (rows, outputs).
    template <class X, class W, class Y> static ConvShape
    shape(const Call& call, const X& x, const W& w, const Y& y, Unit unit, std::int64_t towers) {
        call.expect(w.dim(1) == x.dim(1) && y.dim(0) == x.dim(0) && y.dim(1) == w.dim(0),
                    "inputs of shape " + x.shape_text() + ", weights of shape " + w.shape_text() +
                        " and outputs of shape " + y.shape_text() + " do not fit");
        const ConvShape shape =
            linear_shape(call.extent("rows", x.dim(0)), call.extent("inputs", x.dim(1)),
                         call.extent("outputs", w.dim(0)), call.extent("towers", towers), unit);
        call.expect_countable("rows", shape.images);
        call.expect_countable("inputs", shape.channels);
        call.expect_countable("outputs of all towers", std::int64_t{shape.filters} * shape.towers);
        return shape;
    }
};

} // namespace

void register_linear(py::module_& m) { Product<Linear>::define(m); }

} // namespace pyalexnet

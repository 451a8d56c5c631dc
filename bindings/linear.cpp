#include "product.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

ConvShape countable(const Call& call, std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                    Unit unit, std::int64_t towers) {
    const ConvShape shape =
        linear_shape(call.extent("rows", rows), call.extent("inputs", inputs),
                     call.extent("outputs", outputs), call.extent("towers", towers), unit);
    call.expect_countable("rows", rows);
    call.expect_countable("inputs", inputs);
    call.expect_countable("outputs of all towers", std::int64_t{shape.filters} * shape.towers);
    return shape;
}

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
        return countable(call, x.dim(0), x.dim(1), w.dim(0), unit, towers);
    }
};

// Bytes of scratch for one pass.
template <auto bytes> std::size_t workspace_in(std::int64_t rows, std::int64_t inputs,
                                               std::int64_t outputs, std::int64_t towers,
                                               bool bfloat16, const std::string& unit) {
    const Call call("linear_workspace", 0, Target{});
    return bytes(countable(call, rows, inputs, outputs, unit_of(call, unit), towers), bfloat16);
}

// The same for a pass that is alike in every tower.
template <auto bytes> std::size_t workspace_of_one(std::int64_t rows, std::int64_t inputs,
                                                   std::int64_t outputs, bool bfloat16,
                                                   const std::string& unit) {
    return workspace_in<bytes>(rows, inputs, outputs, 1, bfloat16, unit);
}

} // namespace

void register_linear(py::module_& m) {
    m.def("linear_fprop", &Product<Linear>::fprop);
    m.def("linear_dgrad", &Product<Linear>::dgrad);
    m.def("linear_wgrad", &Product<Linear>::wgrad);
    m.def("linear_wgrad_sgd", &Product<Linear>::wgrad_sgd);
    // From rows, inputs, outputs, for fprop the towers, whether x is bfloat16, and what multiplies.
    m.def("linear_fprop_workspace", &workspace_in<fprop_workspace>);
    m.def("linear_dgrad_workspace", &workspace_of_one<dgrad_workspace>);
    m.def("linear_wgrad_workspace", &workspace_of_one<wgrad_workspace>);
}

} // namespace pyalexnet

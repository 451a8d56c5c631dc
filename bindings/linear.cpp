#include "epilogue.hpp"
#include "names.hpp"
#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

LinearShape countable(const Call& call, std::int64_t rows, std::int64_t inputs,
                      std::int64_t outputs, const std::string& unit, std::int64_t towers = 1) {
    const LinearShape shape{call.extent("rows", rows), call.extent("inputs", inputs),
                            call.extent("outputs", outputs), call.extent("towers", towers),
                            unit_of(call, unit)};
    call.expect_countable("rows", rows);
    call.expect_countable("inputs", inputs);
    call.expect_countable("outputs of all towers", std::int64_t{shape.outputs} * shape.towers);
    return shape;
}

// Shapes of x (rows, inputs), w (outputs, inputs) and y (rows, outputs), whichever arrays they came
// from.
template <class X, class W, class Y>
LinearShape linear_shape(const Call& call, const X& x, const W& w, const Y& y,
                         const std::string& unit, std::int64_t towers = 1) {
    call.expect(w.dim(1) == x.dim(1) && y.dim(0) == x.dim(0) && y.dim(1) == w.dim(0),
                "inputs of shape " + x.shape_text() + ", weights of shape " + w.shape_text() +
                    " and outputs of shape " + y.shape_text() + " do not fit");
    return countable(call, x.dim(0), x.dim(1), w.dim(0), unit, towers);
}

using WorkspaceOf = std::size_t (*)(LinearShape);

// Bytes of scratch for one pass.
template <WorkspaceOf of_float, WorkspaceOf of_bf16>
std::size_t workspace(std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                      std::int64_t towers, bool bfloat16, const std::string& unit) {
    const Call call("linear_workspace", 0, Target{});
    const LinearShape shape = countable(call, rows, inputs, outputs, unit, towers);
    return bfloat16 ? of_bf16(shape) : of_float(shape);
}

// The same for a pass that does the same in every tower.
template <WorkspaceOf of_float, WorkspaceOf of_bf16>
std::size_t workspace_of_one(std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                             bool bfloat16, const std::string& unit) {
    return workspace<of_float, of_bf16>(rows, inputs, outputs, 1, bfloat16, unit);
}

void fprop(const py::object& x_, const py::object& w_, const py::object& b_, const py::object& y_,
           const py::object& workspace_, const std::string& unit, std::int64_t towers,
           const py::object& activation_, const DropoutGiven& dropout_, int device,
           const Target& target) {
    with_elements(x_, y_, [&](auto of_x, auto of_y) {
        using T = decltype(of_x);
        using Y = decltype(of_y);
        Call call("linear_fprop", device, target);
        const auto x = call.input<const T>("x", x_, 2);
        const auto w = call.input<const T>("w", w_, 2);
        const auto b = call.optional_input<const float>("b", b_, 1);
        const auto y = call.output<Y>("y", y_, 2);
        const LinearShape shape = linear_shape(call, x, w, y, unit, towers);
        call.expect(!b || b.dim(0) == shape.outputs,
                    "b has " + std::to_string(b.size()) + " elements; w has " +
                        std::to_string(shape.outputs) + " outputs");
        const auto scratch =
            call.scratch("workspace", workspace_, linear_fprop_workspace<T>(shape));
        const Activation activation = activation_of(call, activation_);
        const DroppedArgument dropped(call, dropout_, y.dim(0), y.dim(1));
        call.launch([=](Stream s) {
            linear_fprop<T, Y>(x.data(), w.data(), b.data(), y.data(), shape, activation,
                               dropped.get(), scratch.data(), s);
        });
    });
}

void dgrad(const py::object& dy_, const py::object& w_, const py::object& gate_,
           const py::object& dx_, const py::object& workspace_, const std::string& unit,
           float factor, int device, const Target& target) {
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        Call call("linear_dgrad", device, target);
        const auto dy = call.input<const T>("dy", dy_, 2);
        const auto w = call.input<const T>("w", w_, 2);
        const auto gate = call.optional_input<const T>("gate", gate_, 2);
        const auto dx = call.output<T>("dx", dx_, 2);
        const LinearShape shape = linear_shape(call, dx, w, dy, unit);
        if (gate) expect_same_shape(call, "gate", gate, "dx", dx);
        const auto scratch =
            call.scratch("workspace", workspace_, linear_dgrad_workspace<T>(shape));
        call.launch([=](Stream s) {
            linear_dgrad<T>(dy.data(), w.data(), gate.data(), factor, dx.data(), shape,
                            scratch.data(), s);
        });
    });
}

void wgrad(const py::object& x_, const py::object& dy_, const py::object& dw_,
           const py::object& db_, const py::object& workspace_, const std::string& unit, int device,
           const Target& target) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        Call call("linear_wgrad", device, target);
        const auto x = call.input<const T>("x", x_, 2);
        const auto dy = call.input<const T>("dy", dy_, 2);
        const auto dw = call.output<float>("dw", dw_, 2);
        const auto db = call.output<float>("db", db_, 1);
        const LinearShape shape = linear_shape(call, x, dw, dy, unit);
        call.expect(db.dim(0) == shape.outputs, "db has " + std::to_string(db.size()) +
                                                    " elements; dw has " +
                                                    std::to_string(shape.outputs) + " outputs");
        const auto scratch =
            call.scratch("workspace", workspace_, linear_wgrad_workspace<T>(shape));
        call.launch([=](Stream s) {
            linear_wgrad<T>(x.data(), dy.data(), dw.data(), db.data(), shape, scratch.data(), s);
        });
    });
}

void wgrad_sgd(const py::object& x_, const py::object& dy_, const py::object& w_,
               const py::object& low_, const py::object& v_, const py::object& b_,
               const py::object& bv_, const py::object& workspace_, const std::string& unit,
               const RuleGiven& w_rule_, const RuleGiven& b_rule_, int device,
               const Target& target) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        Call call("linear_wgrad_sgd", device, target);
        const auto x = call.input<const T>("x", x_, 2);
        const auto dy = call.input<const T>("dy", dy_, 2);
        const LearnedArgument<T> w(call, kWeights, w_, low_, v_, 2);
        const LearnedArgument<float> b(call, kBiases, b_, py::none(), bv_, 1);
        const LinearShape shape = linear_shape(call, x, w.array(), dy, unit);
        call.expect(b.array().dim(0) == shape.outputs,
                    "b.w has " + std::to_string(b.array().size()) + " elements; w.w has " +
                        std::to_string(shape.outputs) + " outputs");
        const RuleArgument w_rule(call, "w.lr", w_rule_), b_rule(call, "b.lr", b_rule_);
        const auto scratch =
            call.scratch("workspace", workspace_, linear_wgrad_workspace<T>(shape));
        call.launch([=](Stream s) {
            linear_wgrad_sgd<T>(x.data(), dy.data(), w.get(), w_rule.get(), b.get(), b_rule.get(),
                                shape, scratch.data(), s);
        });
    });
}

} // namespace

void register_linear(py::module_& m) {
    m.def("linear_fprop", &fprop);
    m.def("linear_dgrad", &dgrad);
    m.def("linear_wgrad", &wgrad);
    m.def("linear_wgrad_sgd", &wgrad_sgd);
    // Of rows, inputs, outputs, for fprop the towers, whether x is bfloat16, and what multiplies.
    m.def("linear_fprop_workspace",
          &workspace<&linear_fprop_workspace<float>, &linear_fprop_workspace<bf16>>);
    m.def("linear_dgrad_workspace",
          &workspace_of_one<&linear_dgrad_workspace<float>, &linear_dgrad_workspace<bf16>>);
    m.def("linear_wgrad_workspace",
          &workspace_of_one<&linear_wgrad_workspace<float>, &linear_wgrad_workspace<bf16>>);
}

} // namespace pyalexnet

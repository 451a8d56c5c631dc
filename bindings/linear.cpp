#include "activation_name.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

LinearShape countable(const Call& call, std::int64_t rows, std::int64_t inputs,
                      std::int64_t outputs, std::int64_t towers = 1) {
    const LinearShape shape{call.extent("rows", rows), call.extent("inputs", inputs),
                            call.extent("outputs", outputs), call.extent("towers", towers)};
    call.expect_countable("rows", rows);
    call.expect_countable("inputs", inputs);
    call.expect_countable("outputs of all towers", std::int64_t{shape.outputs} * shape.towers);
    return shape;
}

// Shapes of x (rows, inputs), w (outputs, inputs) and y (rows, outputs), whichever arrays they came
// from.
template <class X, class W, class Y> LinearShape
linear_shape(const Call& call, const X& x, const W& w, const Y& y, std::int64_t towers = 1) {
    call.expect(w.dim(1) == x.dim(1) && y.dim(0) == x.dim(0) && y.dim(1) == w.dim(0),
                "inputs of shape " + x.shape_text() + ", weights of shape " + w.shape_text() +
                    " and outputs of shape " + y.shape_text() + " do not fit");
    return countable(call, x.dim(0), x.dim(1), w.dim(0), towers);
}

using WorkspaceOf = std::size_t (*)(LinearShape);

// Bytes of scratch for one pass.
template <WorkspaceOf workspace>
std::size_t linear_workspace(std::int64_t rows, std::int64_t inputs, std::int64_t outputs) {
    const Call call("linear_workspace", 0, Target{});
    return workspace(countable(call, rows, inputs, outputs));
}

std::size_t linear_fprop_workspace_of(std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
                                      std::int64_t towers) {
    const Call call("linear_workspace", 0, Target{});
    return linear_fprop_workspace<float>(countable(call, rows, inputs, outputs, towers));
}

void fprop(const py::object& x_, const py::object& w_, const py::object& b_, const py::object& y_,
           const py::object& workspace_, std::int64_t towers, const py::object& activation_,
           int device, const Target& target) {
    Call call("linear_fprop", device, target);
    const auto x = call.input<const float>("x", x_, 2);
    const auto w = call.input<const float>("w", w_, 2);
    const auto b = call.optional_input<const float>("b", b_, 1);
    const auto y = call.output<float>("y", y_, 2);
    const LinearShape shape = linear_shape(call, x, w, y, towers);
    call.expect(!b || b.dim(0) == shape.outputs, "b has " + std::to_string(b.size()) +
                                                     " elements; w has " +
                                                     std::to_string(shape.outputs) + " outputs");
    const auto scratch =
        call.scratch("workspace", workspace_, linear_fprop_workspace<float>(shape));
    const Activation activation = activation_of(call, activation_);
    call.launch([=](Stream s) {
        linear_fprop(x.data(), w.data(), b.data(), y.data(), shape, activation, Dropped{},
                     scratch.data(), s);
    });
}

void dgrad(const py::object& dy_, const py::object& w_, const py::object& dx_,
           const py::object& workspace_, int device, const Target& target) {
    Call call("linear_dgrad", device, target);
    const auto dy = call.input<const float>("dy", dy_, 2);
    const auto w = call.input<const float>("w", w_, 2);
    const auto dx = call.output<float>("dx", dx_, 2);
    const LinearShape shape = linear_shape(call, dx, w, dy);
    const auto scratch =
        call.scratch("workspace", workspace_, linear_dgrad_workspace<float>(shape));
    call.launch([=](Stream s) {
        linear_dgrad<float>(dy.data(), w.data(), nullptr, 1.0f, dx.data(), shape, scratch.data(),
                            s);
    });
}

void wgrad(const py::object& x_, const py::object& dy_, const py::object& dw_,
           const py::object& db_, const py::object& workspace_, int device, const Target& target) {
    Call call("linear_wgrad", device, target);
    const auto x = call.input<const float>("x", x_, 2);
    const auto dy = call.input<const float>("dy", dy_, 2);
    const auto dw = call.output<float>("dw", dw_, 2);
    const auto db = call.output<float>("db", db_, 1);
    const LinearShape shape = linear_shape(call, x, dw, dy);
    call.expect(db.dim(0) == shape.outputs, "db has " + std::to_string(db.size()) +
                                                " elements; dw has " +
                                                std::to_string(shape.outputs) + " outputs");
    const auto scratch =
        call.scratch("workspace", workspace_, linear_wgrad_workspace<float>(shape));
    call.launch([=](Stream s) {
        linear_wgrad(x.data(), dy.data(), dw.data(), db.data(), shape, scratch.data(), s);
    });
}

} // namespace

void register_linear(py::module_& m) {
    m.def("linear_fprop", &fprop);
    m.def("linear_dgrad", &dgrad);
    m.def("linear_wgrad", &wgrad);
    // Of rows, inputs, outputs and, for fprop, the towers.
    m.def("linear_fprop_workspace", &linear_fprop_workspace_of);
    m.def("linear_dgrad_workspace", &linear_workspace<&linear_dgrad_workspace<float>>);
    m.def("linear_wgrad_workspace", &linear_workspace<&linear_wgrad_workspace<float>>);
}

} // namespace pyalexnet

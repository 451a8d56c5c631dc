// Convolutions and linear layers, from Python's arguments: the same passes, by the same launchers,
// over arrays of other shapes.
//
// A Family provides what is specific to it:
//
//   kFprop, kDgrad, kWgrad, kWgradSgd  their names, for what is refused
//   kRank, kOutputs                    dimensions of x, w and y; what rows of w are called
//   shape(call, x, w, y, unit, towers, geometry...)
//                                      the launchers' shape of these arrays; refused where they do
//                                      not fit
//
// Geometry is the record, if any, that Python passes for it before `unit`.
#pragma once

#include "records.hpp"

namespace pyalexnet {

// The neuron that Python names: None, "relu" or "tanh".
inline Activation activation_of(const Call& call, const py::object& name) {
    if (name.is_none()) return Activation::none;
    if (name.equal(py::str("relu"))) return Activation::relu;
    if (name.equal(py::str("tanh"))) return Activation::tanh;
    call.refuse("activation is " + std::string(py::repr(name)) +
                "; None, 'relu' or 'tanh' was expected");
}

// What multiplies, by its name in Python; checked against the device, which kernels do too late.
inline Unit unit_of(const Call& call, const std::string& name) {
    constexpr std::pair<const char*, Unit> units[] = {{"fma", Unit::fma},
                                                      {"mma", Unit::mma},
                                                      {"wgmma", Unit::wgmma},
                                                      {"winograd", Unit::winograd}};
    for (const auto& [own, unit] : units) {
        if (name != own) continue;
        call.expect(multiplies(call.device(), unit),
                    "unit is '" + name + "'; device " + std::to_string(call.device()) +
                        " has none, or the module was built without it");
        return unit;
    }
    call.refuse("unit is '" + name + "'; 'fma', 'mma', 'wgmma' or 'winograd' was expected");
}

// Calls `use` with values of the types of x's and of y's elements, which are x's or float.
template <class Use> void with_elements(py::handle x, py::handle y, Use use) {
    with_element(x, [&](auto of_x) {
        if constexpr (std::is_same_v<decltype(of_x), float>)
            use(of_x, float{});
        else
            with_element(y, [&](auto of_y) { use(of_x, of_y); });
    });
}

template <class Family, class... Geometry> struct Product {
    static void fprop(const py::object& x_, const py::object& w_, const py::object& b_,
                      const py::object& y_, const Geometry&... geometry, const std::string& unit,
                      std::int64_t towers, const py::object& activation_,
                      const std::optional<MaskGiven>& dropout_, const Place& place) {
        with_elements(x_, y_, [&](auto of_x, auto of_y) {
            using T = decltype(of_x);
            using Y = decltype(of_y);
            Call call(Family::kFprop, place);
            const auto x = call.input<const T>("x", x_, Family::kRank);
            const auto w = call.input<const T>("w", w_, Family::kRank);
            const auto b = call.optional_input<const float>("b", b_, 1);
            const auto y = call.output<Y>("y", y_, Family::kRank);
            const ConvShape shape =
                Family::shape(call, x, w, y, unit_of(call, unit), towers, geometry...);
            if (b) expect_one_each(call, "b", b, "w", shape);
            const auto scratch = call.scratch(conv_fprop_workspace<T>(shape));
            const Activation activation = activation_of(call, activation_);
            const DroppedArgument dropped(call, dropout_, y.dim(0), y.size() / y.dim(0));
            call.launch([=](Stream s) {
                conv_fprop<T, Y>(x.data(), w.data(), b.data(), y.data(), shape, activation,
                                 dropped.get(), scratch.data(), s);
            });
        });
    }

    static void dgrad(const py::object& dy_, const py::object& w_, const py::object& gate_,
                      const py::object& dx_, const Geometry&... geometry, const std::string& unit,
                      float factor, const Place& place) {
        with_element(dy_, [&](auto element) {
            using T = decltype(element);
            Call call(Family::kDgrad, place);
            const auto dy = call.input<const T>("dy", dy_, Family::kRank);
            const auto w = call.input<const T>("w", w_, Family::kRank);
            const auto gate = call.optional_input<const T>("gate", gate_, Family::kRank);
            const auto dx = call.output<T>("dx", dx_, Family::kRank);
            const ConvShape shape =
                Family::shape(call, dx, w, dy, unit_of(call, unit), 1, geometry...);
            if (gate) expect_same_shape(call, "gate", gate, "dx", dx);
            const auto scratch = call.scratch(conv_dgrad_workspace<T>(shape));
            call.launch([=](Stream s) {
                conv_dgrad<T>(dy.data(), w.data(), gate.data(), factor, dx.data(), shape,
                              scratch.data(), s);
            });
        });
    }

    static void wgrad(const py::object& x_, const py::object& dy_, const py::object& dw_,
                      const py::object& db_, const Geometry&... geometry, const std::string& unit,
                      const Place& place) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            Call call(Family::kWgrad, place);
            const auto x = call.input<const T>("x", x_, Family::kRank);
            const auto dy = call.input<const T>("dy", dy_, Family::kRank);
            const auto dw = call.output<float>("dw", dw_, Family::kRank);
            const auto db = call.output<float>("db", db_, 1);
            const ConvShape shape =
                Family::shape(call, x, dw, dy, unit_of(call, unit), 1, geometry...);
            expect_one_each(call, "db", db, "dw", shape);
            const auto scratch = call.scratch(conv_wgrad_workspace<T>(shape));
            call.launch([=](Stream s) {
                conv_wgrad<T>(x.data(), dy.data(), dw.data(), db.data(), shape, scratch.data(), s);
            });
        });
    }

    static void wgrad_sgd(const py::object& x_, const py::object& dy_, const py::object& w_,
                          const py::object& low_, const py::object& v_, const py::object& b_,
                          const py::object& bv_, const Geometry&... geometry,
                          const std::string& unit, const RuleGiven& w_rule_,
                          const RuleGiven& b_rule_, const Place& place) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            Call call(Family::kWgradSgd, place);
            const auto x = call.input<const T>("x", x_, Family::kRank);
            const auto dy = call.input<const T>("dy", dy_, Family::kRank);
            const LearnedArgument<T> w(call, {"w.w", "w.low", "w.v"}, w_, low_, v_, Family::kRank);
            const LearnedArgument<float> b(call, {"b.w", "b.low", "b.v"}, b_, py::none(), bv_, 1);
            const ConvShape shape =
                Family::shape(call, x, w.array(), dy, unit_of(call, unit), 1, geometry...);
            expect_one_each(call, "b.w", b.array(), "w.w", shape);
            const RuleArgument w_rule(call, "w.lr", w_rule_), b_rule(call, "b.lr", b_rule_);
            const auto scratch = call.scratch(conv_wgrad_workspace<T>(shape));
            call.launch([=](Stream s) {
                conv_wgrad_sgd<T>(x.data(), dy.data(), w.get(), w_rule.get(), b.get(), b_rule.get(),
                                  shape, scratch.data(), s);
            });
        });
    }

    // `geometry` names its arguments.
    template <class... Names> static void define(py::module_& m, const Names&... geometry) {
        m.def(Family::kFprop, &fprop, "x"_a, "w"_a, "b"_a, "y"_a, geometry..., "unit"_a, "towers"_a,
              "activation"_a, "dropout"_a, "place"_a);
        m.def(Family::kDgrad, &dgrad, "dy"_a, "w"_a, "gate"_a, "dx"_a, geometry..., "unit"_a,
              "factor"_a, "place"_a);
        m.def(Family::kWgrad, &wgrad, "x"_a, "dy"_a, "dw"_a, "db"_a, geometry..., "unit"_a,
              "place"_a);
        m.def(Family::kWgradSgd, &wgrad_sgd, "x"_a, "dy"_a, "w"_a, "low"_a, "v"_a, "b"_a, "bv"_a,
              geometry..., "unit"_a, "w_rule"_a, "b_rule"_a, "place"_a);
    }

  private:
    // Biases, or their gradients: as many as w has rows.
    template <class Biases> static void expect_one_each(const Call& call, const char* b_name,
                                                        const Biases& b, const char* w_name,
                                                        const ConvShape& shape) {
        call.expect(b.dim(0) == shape.filters,
                    std::string(b_name) + " has " + std::to_string(b.size()) + " elements; " +
                        w_name + " has " + std::to_string(shape.filters) + " " + Family::kOutputs);
    }
};

} // namespace pyalexnet

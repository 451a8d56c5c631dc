// Convolutions and linear layers, from Python's arguments: the same passes, by the same launchers,
// over arrays of other shapes.
//
// A Family provides what is specific to it:
//
//   kRank                                     dimensions of x, w and y
//   shape(call, x, w, unit, towers, geometry...)
//                                             the launchers' shape of these arrays; refused where
//                                             they do not fit
//
// Geometry is the record, if any, that Python passes for it before `unit`.
#pragma once

#include "records.hpp"

namespace pyalexnet {

// The neuron that Python names: None, "relu" or "tanh".
inline Activation activation_of(const Call& call, handle name) {
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
template <class Use> void with_elements(handle x, handle y, Use use) {
    with_element(x, [&](auto of_x) {
        if constexpr (std::is_same_v<decltype(of_x), float>)
            use(of_x, float{});
        else
            with_element(y, [&](auto of_y) { use(of_x, of_y); });
    });
}

template <class Family, class... Geometry> struct Product {
    static constexpr int kRank = Family::kRank;

    static void fprop(Call& call, handle x_, handle w_, handle b_, handle y_,
                      const Geometry&... geometry, const std::string& unit, std::int64_t towers,
                      handle activation, const std::optional<MaskGiven>& dropout) {
        with_elements(x_, y_, [&](auto of_x, auto of_y) {
            using T = decltype(of_x);
            using Y = decltype(of_y);
            const auto x = call.input<T>("x", x_, kRank);
            const auto w = call.input<T>("w", w_, kRank);
            const auto shape = Family::shape(call, x, w, unit_of(call, unit), towers, geometry...);
            const auto b = call.optional_input<float>("b", b_, Extents{shape.filters});
            const auto y = call.output<Y>("y", y_, outputs(shape));
            const auto scratch = call.scratch(conv_fprop_workspace<T>(shape));
            const MaskArgument dropped(call, dropout, y.dim(0), y.size() / y.dim(0));
            call.launch(conv_fprop<T, Y>, x, w, b, y, shape, activation_of(call, activation),
                        dropped, scratch);
        });
    }

    static void dgrad(Call& call, handle dy_, handle w_, handle gate_, handle dx_,
                      const Geometry&... geometry, const std::string& unit, float factor) {
        with_element(dy_, [&](auto element) {
            using T = decltype(element);
            const auto w = call.input<T>("w", w_, kRank);
            const auto dx = call.output<T>("dx", dx_, kRank);
            const auto shape = Family::shape(call, dx, w, unit_of(call, unit), 1, geometry...);
            const auto dy = call.input<T>("dy", dy_, outputs(shape));
            const auto gate = call.optional_input<T>("gate", gate_, dx.shape());
            const auto scratch = call.scratch(conv_dgrad_workspace<T>(shape));
            call.launch(conv_dgrad<T>, dy, w, gate, factor, dx, shape, scratch);
        });
    }

    static void wgrad(Call& call, handle x_, handle dy_, handle dw_, handle db_,
                      const Geometry&... geometry, const std::string& unit) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            const auto x = call.input<T>("x", x_, kRank);
            const auto dw = call.output<float>("dw", dw_, kRank);
            const auto shape = Family::shape(call, x, dw, unit_of(call, unit), 1, geometry...);
            const auto dy = call.input<T>("dy", dy_, outputs(shape));
            const auto db = call.output<float>("db", db_, Extents{shape.filters});
            const auto scratch = call.scratch(conv_wgrad_workspace<T>(shape));
            call.launch(conv_wgrad<T>, x, dy, dw, db, shape, scratch);
        });
    }

    static void wgrad_sgd(Call& call, handle x_, handle dy_, handle w_, handle low_, handle v_,
                          handle b_, handle bv_, const Geometry&... geometry,
                          const std::string& unit, const RuleGiven& w_rule_,
                          const RuleGiven& b_rule_) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            const auto x = call.input<T>("x", x_, kRank);
            const LearnedArgument<T> w(call, "w.", w_, low_, v_, kRank);
            const auto shape =
                Family::shape(call, x, w.array(), unit_of(call, unit), 1, geometry...);
            const auto dy = call.input<T>("dy", dy_, outputs(shape));
            const LearnedArgument<float> b(call, "b.", b_, py::none(), bv_, Extents{shape.filters});
            const auto w_rule = rule_of(call, "w.lr", w_rule_),
                       b_rule = rule_of(call, "b.lr", b_rule_);
            const auto scratch = call.scratch(conv_wgrad_workspace<T>(shape));
            call.launch(conv_wgrad_sgd<T>, x, dy, w, w_rule, b, b_rule, shape, scratch);
        });
    }

    // `geometry` names its arguments.
    template <class... Names>
    static void define_all(py::module_& m, const std::string& name, const Names&... geometry) {
        define(m, name + "_fprop", fprop, "x"_a, "w"_a, "b"_a, "y"_a, geometry..., "unit"_a,
               "towers"_a, "activation"_a, "dropout"_a);
        define(m, name + "_dgrad", dgrad, "dy"_a, "w"_a, "gate"_a, "dx"_a, geometry..., "unit"_a,
               "factor"_a);
        define(m, name + "_wgrad", wgrad, "x"_a, "dy"_a, "dw"_a, "db"_a, geometry..., "unit"_a);
        define(m, name + "_wgrad_sgd", wgrad_sgd, "x"_a, "dy"_a, "w"_a, "low"_a, "v"_a, "b"_a,
               "bv"_a, geometry..., "unit"_a, "w_rule"_a, "b_rule"_a);
    }

  private:
    // The shape of y, or of its gradient.
    static Extents outputs(const ConvShape& s) {
        if (kRank == 2) return {s.images, s.filters};
        return {s.images, s.out_height, s.out_width, s.filters};
    }
};

} // namespace pyalexnet

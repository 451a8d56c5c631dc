// Convolutions and linear layers, from Python's arguments: the same passes, by the same launchers,
// over arrays of other shapes.
//
// A Family provides what is specific to it:
//
//   kFprop, kDgrad, kWgrad, kWgradSgd  their names, for what is refused
//   kRank, kOutputs                    dimensions of x, w and y; what rows of w are called
//   shape(call, x, w, y, unit, towers, sizes...)
//                                      the launchers' shape of these arrays, whichever they came
//                                      from; refused where they do not fit
//
// Sizes are the plain numbers that Python passes for it before `unit`.
#pragma once

#include "epilogue.hpp"
#include "names.hpp"
#include "same_shape.hpp"

namespace pyalexnet {

template <class Family, class... Sizes> struct Product {
    static void fprop(const py::object& x_, const py::object& w_, const py::object& b_,
                      const py::object& y_, const py::object& workspace_, Sizes... sizes,
                      const std::string& unit, std::int64_t towers, const py::object& activation_,
                      const DropoutGiven& dropout_, int device, const Target& target) {
        with_elements(x_, y_, [&](auto of_x, auto of_y) {
            using T = decltype(of_x);
            using Y = decltype(of_y);
            Call call(Family::kFprop, device, target);
            const auto x = call.input<const T>("x", x_, Family::kRank);
            const auto w = call.input<const T>("w", w_, Family::kRank);
            const auto b = call.optional_input<const float>("b", b_, 1);
            const auto y = call.output<Y>("y", y_, Family::kRank);
            const ConvShape shape =
                Family::shape(call, x, w, y, unit_of(call, unit, device), towers, sizes...);
            if (b) expect_one_each(call, "b", b, "w", shape);
            const auto scratch =
                call.scratch("workspace", workspace_, conv_fprop_workspace<T>(shape));
            const Activation activation = activation_of(call, activation_);
            const DroppedArgument dropped(call, dropout_, y.dim(0), y.size() / y.dim(0));
            call.launch([=](Stream s) {
                conv_fprop<T, Y>(x.data(), w.data(), b.data(), y.data(), shape, activation,
                                 dropped.get(), scratch.data(), s);
            });
        });
    }

    static void dgrad(const py::object& dy_, const py::object& w_, const py::object& gate_,
                      const py::object& dx_, const py::object& workspace_, Sizes... sizes,
                      const std::string& unit, float factor, int device, const Target& target) {
        with_element(dy_, [&](auto element) {
            using T = decltype(element);
            Call call(Family::kDgrad, device, target);
            const auto dy = call.input<const T>("dy", dy_, Family::kRank);
            const auto w = call.input<const T>("w", w_, Family::kRank);
            const auto gate = call.optional_input<const T>("gate", gate_, Family::kRank);
            const auto dx = call.output<T>("dx", dx_, Family::kRank);
            const ConvShape shape =
                Family::shape(call, dx, w, dy, unit_of(call, unit, device), 1, sizes...);
            if (gate) expect_same_shape(call, "gate", gate, "dx", dx);
            const auto scratch =
                call.scratch("workspace", workspace_, conv_dgrad_workspace<T>(shape));
            call.launch([=](Stream s) {
                conv_dgrad<T>(dy.data(), w.data(), gate.data(), factor, dx.data(), shape,
                              scratch.data(), s);
            });
        });
    }

    static void wgrad(const py::object& x_, const py::object& dy_, const py::object& dw_,
                      const py::object& db_, const py::object& workspace_, Sizes... sizes,
                      const std::string& unit, int device, const Target& target) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            Call call(Family::kWgrad, device, target);
            const auto x = call.input<const T>("x", x_, Family::kRank);
            const auto dy = call.input<const T>("dy", dy_, Family::kRank);
            const auto dw = call.output<float>("dw", dw_, Family::kRank);
            const auto db = call.output<float>("db", db_, 1);
            const ConvShape shape =
                Family::shape(call, x, dw, dy, unit_of(call, unit, device), 1, sizes...);
            expect_one_each(call, "db", db, "dw", shape);
            const auto scratch =
                call.scratch("workspace", workspace_, conv_wgrad_workspace<T>(shape));
            call.launch([=](Stream s) {
                conv_wgrad<T>(x.data(), dy.data(), dw.data(), db.data(), shape, scratch.data(), s);
            });
        });
    }

    static void wgrad_sgd(const py::object& x_, const py::object& dy_, const py::object& w_,
                          const py::object& low_, const py::object& v_, const py::object& b_,
                          const py::object& bv_, const py::object& workspace_, Sizes... sizes,
                          const std::string& unit, const RuleGiven& w_rule_,
                          const RuleGiven& b_rule_, int device, const Target& target) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            Call call(Family::kWgradSgd, device, target);
            const auto x = call.input<const T>("x", x_, Family::kRank);
            const auto dy = call.input<const T>("dy", dy_, Family::kRank);
            const LearnedArgument<T> w(call, kWeights, w_, low_, v_, Family::kRank);
            const LearnedArgument<float> b(call, kBiases, b_, py::none(), bv_, 1);
            const ConvShape shape =
                Family::shape(call, x, w.array(), dy, unit_of(call, unit, device), 1, sizes...);
            expect_one_each(call, "b.w", b.array(), "w.w", shape);
            const RuleArgument w_rule(call, "w.lr", w_rule_), b_rule(call, "b.lr", b_rule_);
            const auto scratch =
                call.scratch("workspace", workspace_, conv_wgrad_workspace<T>(shape));
            call.launch([=](Stream s) {
                conv_wgrad_sgd<T>(x.data(), dy.data(), w.get(), w_rule.get(), b.get(), b_rule.get(),
                                  shape, scratch.data(), s);
            });
        });
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

// A launcher's bytes of scratch for operands of either type.
using WorkspaceOf = std::size_t (*)(const ConvShape&);
template <WorkspaceOf of_float, WorkspaceOf of_bf16>
std::size_t workspace(const ConvShape& shape, bool bfloat16) {
    return bfloat16 ? of_bf16(shape) : of_float(shape);
}
constexpr auto fprop_workspace =
    &workspace<&conv_fprop_workspace<float>, &conv_fprop_workspace<bf16>>;
constexpr auto dgrad_workspace =
    &workspace<&conv_dgrad_workspace<float>, &conv_dgrad_workspace<bf16>>;
constexpr auto wgrad_workspace =
    &workspace<&conv_wgrad_workspace<float>, &conv_wgrad_workspace<bf16>>;

} // namespace pyalexnet

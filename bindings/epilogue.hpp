// What conv and linear do with their sums, from Python's arguments: dropout, and the update of
// parameters.
#pragma once

#include "draw.hpp"
#include "same_shape.hpp"

#include <optional>
#include <tuple>

namespace pyalexnet {

// (keep, seed, step, layer, offset, total, factor), or None.
using DropoutGiven = std::optional<std::tuple<double, std::uint64_t, py::object, std::uint32_t,
                                              std::int64_t, std::int64_t, float>>;

class DroppedArgument {
  public:
    // For maps (images, features).
    DroppedArgument(Call& call, const DropoutGiven& given, std::int64_t images,
                    std::int64_t features) {
        if (!given) return;
        const auto& [keep, seed, step, layer, offset, total, factor] = *given;
        draw_.emplace(call, keep, seed, step, layer, offset, total, images, features);
        factor_ = factor;
    }
    Dropped get() const {
        return draw_ ? Dropped{true, draw_->get(), factor_} : Dropped{false, {}, 1.0f};
    }

  private:
    std::optional<DrawArgument> draw_;
    float factor_ = 1.0f;
};

// (lr, momentum, weight_decay)
using RuleGiven = std::tuple<py::object, float, float>;

class RuleArgument {
  public:
    RuleArgument(Call& call, const char* lr, const RuleGiven& given)
        : lr_(call.scalar(lr, std::get<0>(given))), momentum_(std::get<1>(given)),
          weight_decay_(std::get<2>(given)) {}
    Rule get() const { return {lr_.get(), momentum_, weight_decay_}; }

  private:
    NumberArgument<float, Scalar> lr_;
    float momentum_, weight_decay_;
};

// The names of the arrays of one kind of parameters.
struct LearnedNames {
    const char *w, *low, *v;
};
constexpr LearnedNames kWeights{"w.w", "w.low", "w.v"};
constexpr LearnedNames kBiases{"b.w", "b.low", "b.v"};

// Parameters, and what their update changes besides them.
template <class T> class LearnedArgument {
  public:
    LearnedArgument(Call& call, const LearnedNames& names, const py::object& w,
                    const py::object& low, const py::object& v, int rank)
        : w_(call.inout<T>(names.w, w, rank)), low_(low_of(call, names.low, low)),
          v_(call.inout<float>(names.v, v)) {
        expect_same_shape(call, names.w, w_, names.v, v_);
        if (low_) expect_same_shape(call, names.w, w_, names.low, low_);
    }
    const Array<T>& array() const { return w_; }
    Learned<T> get() const { return {w_.data(), low_.data(), v_.data()}; }

  private:
    // Only bfloat16 has a lower half.
    static Array<std::uint16_t> low_of(Call& call, const char* name, const py::object& low) {
        if constexpr (std::is_same_v<T, bf16>) {
            return call.inout<std::uint16_t>(name, low);
        } else {
            call.expect(low.is_none(), std::string(name) + " was given; None was expected");
            return Array<std::uint16_t>(nullptr);
        }
    }

    Array<T> w_;
    Array<std::uint16_t> low_;
    Array<float> v_;
};

// Calls `use` with values of the types of x's and of y's elements, which are x's or float.
template <class Use> void with_elements(py::handle x, py::handle y, Use use) {
    with_element(x, [&](auto of_x) {
        if constexpr (std::is_same_v<decltype(of_x), float>)
            use(of_x, float{});
        else
            with_element(y, [&](auto of_y) { use(of_x, of_y); });
    });
}

} // namespace pyalexnet

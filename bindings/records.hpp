// The records of Python (pyalexnet/ops/records.py), which come as tuples of the same fields, and
// what launchers take in their place.
#pragma once

#include "maps.hpp"

#include <limits>
#include <optional>
#include <tuple>

namespace pyalexnet {

// ---------------------------------------------------------------------- Norm

// (size, alpha, beta, k, groups)
using NormGiven = std::tuple<std::int64_t, float, float, float, std::int64_t>;

// A norm of maps with this many channels.
struct NormArgument {
    ResponseNorm norm;
    int groups;

    NormArgument(const Call& call, const NormGiven& given, int channels)
        : norm{call.extent("size", std::get<0>(given)), std::get<1>(given), std::get<2>(given),
               std::get<3>(given)},
          groups(call.extent("groups", std::get<4>(given))) {
        call.expect(channels % groups == 0, "groups is " + std::to_string(groups) +
                                                "; a divisor of the " + std::to_string(channels) +
                                                " channels was expected");
    }
};

// ---------------------------------------------------------------------- Mask

// (keep, seed, step, layer, offset, total, factor)
using MaskGiven =
    std::tuple<double, std::uint64_t, py::object, std::uint32_t, std::int64_t, std::int64_t, float>;

// A mask of maps (images, features).
class MaskArgument {
  public:
    MaskArgument(Call& call, const MaskGiven& given, std::int64_t images, std::int64_t features)
        : step_(call.counter("step", std::get<2>(given))) {
        const auto& [keep, seed, step, layer, offset, total, factor] = given;
        draw_ = {keep, seed, {}, layer, offset, total};
        factor_ = factor;
        call.expect(0.0 <= keep && keep <= 1.0,
                    "keep is " + std::to_string(keep) + "; 0 to 1 was expected");
        call.expect(offset >= 0 && total >= features && offset <= total - features,
                    "offset is " + std::to_string(offset) + "; the " + std::to_string(features) +
                        " features of an image were expected to lie within total, " +
                        std::to_string(total));
        call.expect(total <= std::numeric_limits<std::int64_t>::max() / images,
                    "total is " + std::to_string(total) + "; times " + std::to_string(images) +
                        " images it does not fit 63 bits");
    }
    float factor() const { return factor_; }
    DropoutDraw get() const {
        DropoutDraw draw = draw_;
        draw.step = step_.get();
        return draw;
    }

  private:
    DropoutDraw draw_{};
    float factor_ = 1.0f;
    NumberArgument<std::uint32_t, Counter> step_;
};

// A mask, or None, as what follows a product.
class DroppedArgument {
  public:
    DroppedArgument(Call& call, const std::optional<MaskGiven>& given, std::int64_t images,
                    std::int64_t features) {
        if (given) mask_.emplace(call, *given, images, features);
    }
    Dropped get() const {
        return mask_ ? Dropped{true, mask_->get(), mask_->factor()} : Dropped{false, {}, 1.0f};
    }

  private:
    std::optional<MaskArgument> mask_;
};

// ---------------------------------------------------------------------- Learned

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

// Parameters, and what their update changes besides them.
template <class T> class LearnedArgument {
  public:
    LearnedArgument(Call& call, const LearnedNames& names, const py::object& w,
                    const py::object& low, const py::object& v, int rank = Call::kAnyRank)
        : w_(call.inout<T>(names.w, w, rank)), low_(low_of(call, names, low)),
          v_(call.inout<float>(names.v, v)) {
        expect_same_shape(call, names.w, w_, names.v, v_);
        if (low_) expect_same_shape(call, names.w, w_, names.low, low_);
    }
    const Array<T>& array() const { return w_; }
    Learned<T> get() const { return {w_.data(), low_.data(), v_.data()}; }

  private:
    static Array<std::uint16_t> low_of(Call& call, const LearnedNames& names,
                                       const py::object& low) {
        if constexpr (std::is_same_v<T, bf16>) {
            return call.inout<std::uint16_t>(names.low, low);
        } else {
            call.expect(low.is_none(), std::string(names.low) + " is given; " + names.w +
                                           " is float32, which has no other half");
            return Array<std::uint16_t>(nullptr);
        }
    }

    Array<T> w_;
    Array<std::uint16_t> low_;
    Array<float> v_;
};

} // namespace pyalexnet

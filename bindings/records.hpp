// The records of Python (pyalexnet/ops/records.py), which arrive as tuples of the same fields, and
// the launchers' own types for them.
#pragma once

#include "array.hpp"

#include <limits>

namespace pyalexnet {

// ---------------------------------------------------------------------- Norm

// (size, alpha, beta, k, groups)
using NormTuple = std::tuple<std::int64_t, float, float, float, std::int64_t>;

struct GroupedNorm {
    ResponseNorm norm;
    int channels, groups;
};

// A norm of maps with this many channels.
inline GroupedNorm norm_of(const Call& call, const NormTuple& tuple, std::int64_t channels_) {
    const auto& [size, alpha, beta, k, groups_] = tuple;
    const int channels = call.extent("channels", channels_),
              groups = call.extent("groups", groups_);
    if (channels % groups != 0)
        call.refuse("groups is " + std::to_string(groups) + "; a divisor of x's " +
                    std::to_string(channels) + " channels was expected");
    return {{call.extent("size", size), alpha, beta, k}, channels, groups};
}

// ---------------------------------------------------------------------- Mask

// (keep, seed, step, layer, offset, total, factor, first)
using MaskTuple = std::tuple<double, std::uint64_t, py::object, std::uint32_t, std::int64_t,
                             std::int64_t, float, std::int64_t>;

// A mask, or None, of maps (images, features).
class MaskArgument {
  public:
    MaskArgument(Call& call, const std::optional<MaskTuple>& tuple, std::int64_t images,
                 std::int64_t features) {
        if (!tuple) return;
        const auto& [keep, seed, step, layer, offset, total, factor, first] = *tuple;
        call.expect(0.0 <= keep && keep <= 1.0,
                    "keep is " + std::to_string(keep) + "; 0 to 1 was expected");
        call.expect(offset >= 0 && total >= features && offset <= total - features,
                    "offset is " + std::to_string(offset) + "; the " + std::to_string(features) +
                        " features of an image were expected to lie within total, " +
                        std::to_string(total));
        const std::int64_t most = std::numeric_limits<std::int64_t>::max() / total;
        call.expect(images <= most, "total is " + std::to_string(total) + "; times " +
                                        std::to_string(images) + " images it does not fit 63 bits");
        call.expect(first >= 0 && first <= most - images,
                    "first is " + std::to_string(first) + "; 0 to " +
                        std::to_string(most - images) +
                        " was expected, as element numbers have "
                        "63 bits");
        dropped_ = {true, {keep, seed, {}, layer, first * total + offset, total}, factor};
        step_ = call.number<std::uint32_t>("step", step);
    }
    Dropped for_kernel() const {
        Dropped dropped = dropped_;
        if (step_) dropped.draw.step = step_->for_kernel();
        return dropped;
    }

  private:
    Dropped dropped_{false, {}, 1.0f};
    std::optional<NumberArgument<std::uint32_t>> step_;
};

// ---------------------------------------------------------------------- Learned

// (lr, momentum, weight_decay)
using RuleTuple = std::tuple<py::object, float, float>;

struct RuleArgument {
    NumberArgument<float> lr;
    float momentum, weight_decay;
    Rule for_kernel() const { return {lr.for_kernel(), momentum, weight_decay}; }
};

inline RuleArgument rule_of(Call& call, const std::string& name, const RuleTuple& tuple) {
    const auto& [lr, momentum, weight_decay] = tuple;
    return {call.number<float>(name, lr), momentum, weight_decay};
}

// Parameters, and the other arrays that their update changes; `prefix` comes before their names.
template <class T> class LearnedArgument {
  public:
    LearnedArgument(Call& call, const std::string& prefix, handle w, handle low, handle v,
                    const Expected& shape = {})
        : w_(call.inout<T>(prefix + "w", w, shape)),
          v_(call.inout<float>(prefix + "v", v, w_.shape())) {
        if constexpr (std::is_same_v<T, bf16>) {
            call.expect(!low.is_none(), prefix + "low is None; " + prefix +
                                            "w is bfloat16, so the other half of the weights was "
                                            "expected");
            low_ = call.inout<std::uint16_t>(prefix + "low", low, w_.shape());
        } else {
            call.expect(low.is_none(), prefix + "low is given; None was expected, for " + prefix +
                                           "w is float32 and whole");
        }
    }
    const Array<T>& array() const { return w_; }
    Learned<T> for_kernel() const { return {w_.for_kernel(), low_.for_kernel(), v_.for_kernel()}; }

  private:
    Array<T> w_;
    Array<float> v_;
    Array<std::uint16_t> low_{nullptr};
};

} // namespace pyalexnet

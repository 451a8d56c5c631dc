#include "records.hpp"

namespace pyalexnet {
namespace {

void sgd_update_op(Call& call, handle w_, handle low_, handle v_, handle dw_,
                   const RuleTuple& rule_) {
    with_element(w_, [&](auto element) {
        using T = decltype(element);
        const LearnedArgument<T> w(call, "", w_, low_, v_);
        const auto dw = call.input<float>("dw", dw_, w.array().shape());
        call.launch(sgd_update<T>, w, dw, dw.size(), rule_of(call, "lr", rule_));
    });
}

void split_weights_op(Call& call, handle w_, handle high_, handle low_) {
    const auto w = call.input<float>("w", w_);
    const auto high = call.output<bf16>("high", high_, w.shape());
    const auto low = call.output<std::uint16_t>("low", low_, w.shape());
    call.launch(split_weights, w, high, low, w.size());
}

void join_weights_op(Call& call, handle high_, handle low_, handle w_) {
    const auto high = call.input<bf16>("high", high_);
    const auto low = call.input<std::uint16_t>("low", low_, high.shape());
    const auto w = call.output<float>("w", w_, high.shape());
    call.launch(join_weights, high, low, w, w.size());
}

const Ops sgd_ops([](py::module_& m) {
    define(m, "sgd_update", sgd_update_op, "w"_a, "low"_a, "v"_a, "dw"_a, "rule"_a);
    define(m, "split_weights", split_weights_op, "w"_a, "high"_a, "low"_a);
    define(m, "join_weights", join_weights_op, "high"_a, "low"_a, "w"_a);
});

} // namespace
} // namespace pyalexnet

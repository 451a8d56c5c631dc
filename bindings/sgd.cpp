#include "records.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

void sgd_update_op(const py::object& w_, const py::object& low_, const py::object& v_,
                   const py::object& dw_, const RuleGiven& rule_, const Place& place) {
    Call call("sgd_update", place);
    with_element(w_, [&](auto element) {
        const LearnedArgument<decltype(element)> w(call, {"w", "low", "v"}, w_, low_, v_);
        const auto dw = call.input<const float>("dw", dw_);
        expect_same_shape(call, "w", w.array(), "dw", dw);
        const RuleArgument rule(call, "lr", rule_);
        call.launch([=](Stream s) { sgd_update(w.get(), dw.data(), dw.size(), rule.get(), s); });
    });
}

void split_weights_op(const py::object& w_, const py::object& high_, const py::object& low_,
                      const Place& place) {
    Call call("split_weights", place);
    const auto w = call.input<const float>("w", w_);
    const auto high = call.output<bf16>("high", high_);
    const auto low = call.output<std::uint16_t>("low", low_);
    expect_same_shape(call, "w", w, "high", high);
    expect_same_shape(call, "w", w, "low", low);
    call.launch([=](Stream s) { split_weights(w.data(), high.data(), low.data(), w.size(), s); });
}

void join_weights_op(const py::object& high_, const py::object& low_, const py::object& w_,
                     const Place& place) {
    Call call("join_weights", place);
    const auto high = call.input<const bf16>("high", high_);
    const auto low = call.input<const std::uint16_t>("low", low_);
    const auto w = call.output<float>("w", w_);
    expect_same_shape(call, "high", high, "low", low);
    expect_same_shape(call, "high", high, "w", w);
    call.launch([=](Stream s) { join_weights(high.data(), low.data(), w.data(), w.size(), s); });
}

} // namespace

void register_sgd(py::module_& m) {
    m.def("sgd_update", &sgd_update_op, "w"_a, "low"_a, "v"_a, "dw"_a, "rule"_a, "place"_a);
    m.def("split_weights", &split_weights_op, "w"_a, "high"_a, "low"_a, "place"_a);
    m.def("join_weights", &join_weights_op, "high"_a, "low"_a, "w"_a, "place"_a);
}

} // namespace pyalexnet

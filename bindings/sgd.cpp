#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

void sgd_update_op(const py::object& w_, const py::object& low_, const py::object& v_,
                   const py::object& dw_, const py::object& lr_, float momentum, float weight_decay,
                   int device, const Target& target) {
    Call call("sgd_update", device, target);
    with_element(w_, [&](auto element) {
        using T = decltype(element);
        const auto w = call.inout<T>("w", w_);
        Array<std::uint16_t> low(nullptr);
        if constexpr (std::is_same_v<T, bf16>) {
            low = call.inout<std::uint16_t>("low", low_);
            expect_same_shape(call, "w", w, "low", low);
        } else {
            call.expect(low_.is_none(), "low is given; w is float32, which has no other half");
        }
        const auto v = call.inout<float>("v", v_);
        const auto dw = call.input<const float>("dw", dw_);
        expect_same_shape(call, "w", w, "v", v);
        expect_same_shape(call, "w", w, "dw", dw);
        const auto lr = call.scalar("lr", lr_);
        call.launch([=](Stream s) {
            const Learned<T> learned{w.data(), low.data(), v.data()};
            sgd_update(learned, dw.data(), w.size(), {lr.get(), momentum, weight_decay}, s);
        });
    });
}

void split_weights_op(const py::object& w_, const py::object& high_, const py::object& low_,
                      int device, const Target& target) {
    Call call("split_weights", device, target);
    const auto w = call.input<const float>("w", w_);
    const auto high = call.output<bf16>("high", high_);
    const auto low = call.output<std::uint16_t>("low", low_);
    expect_same_shape(call, "w", w, "high", high);
    expect_same_shape(call, "w", w, "low", low);
    call.launch([=](Stream s) { split_weights(w.data(), high.data(), low.data(), w.size(), s); });
}

void join_weights_op(const py::object& high_, const py::object& low_, const py::object& w_,
                     int device, const Target& target) {
    Call call("join_weights", device, target);
    const auto high = call.input<const bf16>("high", high_);
    const auto low = call.input<const std::uint16_t>("low", low_);
    const auto w = call.output<float>("w", w_);
    expect_same_shape(call, "high", high, "low", low);
    expect_same_shape(call, "high", high, "w", w);
    call.launch([=](Stream s) { join_weights(high.data(), low.data(), w.data(), w.size(), s); });
}

} // namespace

void register_sgd(py::module_& m) {
    m.def("sgd_update", &sgd_update_op);
    m.def("split_weights", &split_weights_op);
    m.def("join_weights", &join_weights_op);
}

} // namespace pyalexnet

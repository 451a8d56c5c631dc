#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

void sgd_update_op(const py::object& w_, const py::object& v_, const py::object& dw_,
                   const py::object& lr_, float momentum, float weight_decay, int device,
                   const Target& target) {
    Call call("sgd_update", device, target);
    const auto w = call.inout<float>("w", w_);
    const auto v = call.inout<float>("v", v_);
    const auto dw = call.input<const float>("dw", dw_);
    expect_same_shape(call, "w", w, "v", v);
    expect_same_shape(call, "w", w, "dw", dw);
    const auto lr = call.scalar("lr", lr_);
    call.launch([=](Stream s) {
        sgd_update(w.data(), v.data(), dw.data(), w.size(), lr.get(), momentum, weight_decay, s);
    });
}

} // namespace

void register_sgd(py::module_& m) { m.def("sgd_update", &sgd_update_op); }

} // namespace pyalexnet

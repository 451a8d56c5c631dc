#include "records.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

void lrn_fprop_op(const py::object& x_, const py::object& y_, const NormGiven& norm_,
                  const Place& place) {
    Call call("lrn_fprop", place);
    with_map(call, x_, y_, Alias::refused, 4, [&](auto x, auto y) {
        const int channels = call.extent("channels", x.dim(3));
        const NormArgument norm(call, norm_, channels);
        call.launch([=](Stream s) {
            lrn_fprop(x.data(), y.data(), x.size() / channels, channels, norm.groups, norm.norm, s);
        });
    });
}

void lrn_dgrad_op(const py::object& x_, const py::object& dy_, const py::object& dx_,
                  const NormGiven& norm_, const Place& place) {
    Call call("lrn_dgrad", place);
    with_gradient(call, "x", x_, dy_, dx_, Alias::refused, 4, [&](auto x, auto dy, auto dx) {
        const int channels = call.extent("channels", x.dim(3));
        const NormArgument norm(call, norm_, channels);
        call.launch([=](Stream s) {
            lrn_dgrad(x.data(), dy.data(), dx.data(), x.size() / channels, channels, norm.groups,
                      norm.norm, s);
        });
    });
}

} // namespace

void register_lrn(py::module_& m) {
    m.def("lrn_fprop", &lrn_fprop_op, "x"_a, "y"_a, "norm"_a, "place"_a);
    m.def("lrn_dgrad", &lrn_dgrad_op, "x"_a, "dy"_a, "dx"_a, "norm"_a, "place"_a);
}

} // namespace pyalexnet

#include "records.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

// A launcher's arguments for maps x (images, height, width, channels), which are not in groups.
struct NormedMaps {
    std::int64_t images;
    int height, width, channels;
    ResponseNorm norm;
};

template <class X> NormedMaps maps_of(const Call& call, const X& x, const NormGiven& norm_) {
    const int channels = call.extent("channels", x.dim(3));
    const NormArgument norm(call, norm_, channels);
    call.expect(norm.groups == 1,
                "groups is " + std::to_string(norm.groups) + "; 1 was expected, within a map");
    // Kernels count rows, and places within one, in 32 bits.
    call.extent("rows of pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of pixels", x.dim(2) * x.dim(3));
    return {x.dim(0), call.extent("height", x.dim(1)), call.extent("width", x.dim(2)), channels,
            norm.norm};
}

void rnorm_fprop_op(const py::object& x_, const py::object& y_, const NormGiven& norm,
                    const Place& place) {
    Call call("rnorm_fprop", place);
    with_map(call, x_, y_, Alias::refused, 4, [&](auto x, auto y) {
        const NormedMaps of = maps_of(call, x, norm);
        call.launch([=](Stream s) {
            rnorm_fprop(x.data(), y.data(), of.images, of.height, of.width, of.channels, of.norm,
                        s);
        });
    });
}

void rnorm_dgrad_op(const py::object& x_, const py::object& dy_, const py::object& dx_,
                    const NormGiven& norm, const Place& place) {
    Call call("rnorm_dgrad", place);
    with_gradient(call, "x", x_, dy_, dx_, Alias::refused, 4, [&](auto x, auto dy, auto dx) {
        const NormedMaps of = maps_of(call, x, norm);
        const auto scratch =
            call.scratch(rnorm_dgrad_workspace(of.images, of.height, of.width, of.channels));
        call.launch([=](Stream s) {
            rnorm_dgrad(x.data(), dy.data(), dx.data(), of.images, of.height, of.width, of.channels,
                        of.norm, scratch.data(), s);
        });
    });
}

} // namespace

void register_rnorm(py::module_& m) {
    m.def("rnorm_fprop", &rnorm_fprop_op, "x"_a, "y"_a, "norm"_a, "place"_a);
    m.def("rnorm_dgrad", &rnorm_dgrad_op, "x"_a, "dy"_a, "dx"_a, "norm"_a, "place"_a);
}

} // namespace pyalexnet

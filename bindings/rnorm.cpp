#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

// What a launcher takes of maps (images, height, width, channels).
struct Maps {
    std::int64_t images;
    int height, width, channels;
};

template <class X> Maps maps_of(const Call& call, const X& x) {
    // Kernels count rows, and places within one, in 32 bits.
    call.extent("rows of pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of pixels", x.dim(2) * x.dim(3));
    return {x.dim(0), call.extent("height", x.dim(1)), call.extent("width", x.dim(2)),
            call.extent("channels", x.dim(3))};
}

std::size_t dgrad_workspace(int images, int height, int width, int channels) {
    if (images < 1 || height < 1 || width < 1 || channels < 1)
        throw py::value_error("rnorm_dgrad_workspace: every size was expected to be positive");
    return rnorm_dgrad_workspace(images, height, width, channels);
}

void fprop(const py::object& x_, const py::object& y_, std::int64_t size, float alpha, float beta,
           float k, int device, std::uintptr_t stream) {
    Call call("rnorm_fprop", device, stream);
    const auto x = call.input<const float>("x", x_, 4);
    const auto y = call.output<float>("y", y_, 4);
    expect_same_shape(call, "x", x, "y", y);
    const Maps maps = maps_of(call, x);
    const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
    call.launch([&](Stream s) {
        rnorm_fprop(x.data(), y.data(), maps.images, maps.height, maps.width, maps.channels, norm,
                    s);
    });
}

void dgrad(const py::object& x_, const py::object& dy_, const py::object& dx_,
           const py::object& workspace_, std::int64_t size, float alpha, float beta, float k,
           int device, std::uintptr_t stream) {
    Call call("rnorm_dgrad", device, stream);
    const auto x = call.input<const float>("x", x_, 4);
    const auto dy = call.input<const float>("dy", dy_, 4);
    const auto dx = call.output<float>("dx", dx_, 4);
    expect_same_shape(call, "x", x, "dy", dy);
    expect_same_shape(call, "x", x, "dx", dx);
    const Maps maps = maps_of(call, x);
    const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
    const auto scratch =
        call.scratch("workspace", workspace_,
                     rnorm_dgrad_workspace(maps.images, maps.height, maps.width, maps.channels));
    call.launch([&](Stream s) {
        rnorm_dgrad(x.data(), dy.data(), dx.data(), maps.images, maps.height, maps.width,
                    maps.channels, norm, scratch.data(), s);
    });
}

} // namespace

void register_rnorm(py::module_& m) {
    m.def("rnorm_fprop", &fprop);
    m.def("rnorm_dgrad", &dgrad);
    // Of images, height, width, channels.
    m.def("rnorm_dgrad_workspace", &dgrad_workspace);
}

} // namespace pyalexnet

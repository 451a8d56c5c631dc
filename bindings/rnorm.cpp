#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

// A launcher's arguments for maps (images, height, width, channels).
struct Maps {
    std::int64_t images;
    int height, width, channels;
};

Maps countable(const Call& call, std::int64_t images, std::int64_t height, std::int64_t width,
               std::int64_t channels) {
    const Maps maps{call.extent("images", images), call.extent("height", height),
                    call.extent("width", width), call.extent("channels", channels)};
    // Kernels count rows, and places within one, in 32 bits.
    call.extent("rows of pixels", images * height);
    call.extent("elements of a row of pixels", width * channels);
    return maps;
}

template <class X> Maps maps_of(const Call& call, const X& x) {
    return countable(call, x.dim(0), x.dim(1), x.dim(2), x.dim(3));
}

std::size_t rnorm_dgrad_workspace_op(std::int64_t images, std::int64_t height, std::int64_t width,
                                     std::int64_t channels) {
    const Call call("rnorm_dgrad_workspace", 0, Target{});
    const Maps maps = countable(call, images, height, width, channels);
    return rnorm_dgrad_workspace(maps.images, maps.height, maps.width, maps.channels);
}

void rnorm_fprop_op(const py::object& x_, const py::object& y_, std::int64_t size, float alpha,
                    float beta, float k, int device, const Target& target) {
    Call call("rnorm_fprop", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        expect_same_shape(call, "x", x, "y", y);
        const Maps maps = maps_of(call, x);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        call.launch([=](Stream s) {
            rnorm_fprop(x.data(), y.data(), maps.images, maps.height, maps.width, maps.channels,
                        norm, s);
        });
    });
}

void rnorm_dgrad_op(const py::object& x_, const py::object& dy_, const py::object& dx_,
                    const py::object& workspace_, std::int64_t size, float alpha, float beta,
                    float k, int device, const Target& target) {
    Call call("rnorm_dgrad", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "x", x, "dy", dy);
        expect_same_shape(call, "x", x, "dx", dx);
        const Maps maps = maps_of(call, x);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        const auto scratch = call.scratch(
            "workspace", workspace_,
            rnorm_dgrad_workspace(maps.images, maps.height, maps.width, maps.channels));
        call.launch([=](Stream s) {
            rnorm_dgrad(x.data(), dy.data(), dx.data(), maps.images, maps.height, maps.width,
                        maps.channels, norm, scratch.data(), s);
        });
    });
}

} // namespace

void register_rnorm(py::module_& m) {
    m.def("rnorm_fprop", &rnorm_fprop_op);
    m.def("rnorm_dgrad", &rnorm_dgrad_op);
    // From images, height, width, channels.
    m.def("rnorm_dgrad_workspace", &rnorm_dgrad_workspace_op);
}

} // namespace pyalexnet

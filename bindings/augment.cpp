#include "register.hpp"

#include "array.hpp"

namespace pyalexnet {
namespace {

// Shapes of stored images x (N, stored height, stored width, C) and crops y (N, H, W, C).
template <class X, class Y> CropShape crop_shape(const Call& call, const X& x, const Y& y) {
    CropShape shape{};
    shape.images = x.dim(0);
    shape.stored_height = call.extent("stored height", x.dim(1));
    shape.stored_width = call.extent("stored width", x.dim(2));
    shape.height = call.extent("height", y.dim(1));
    shape.width = call.extent("width", y.dim(2));
    shape.channels = call.extent("channels", x.dim(3));
    call.expect(y.dim(0) == x.dim(0) && y.dim(3) == x.dim(3) && y.dim(1) <= x.dim(1) &&
                    y.dim(2) <= x.dim(2),
                "crops of shape " + y.shape_text() + " do not come from images of shape " +
                    x.shape_text());
    // Kernels count rows, and places within one, in 32 bits.
    call.extent("rows of pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of pixels", x.dim(2) * x.dim(3));
    return shape;
}

template <class A> void expect_shape(const Call& call, const char* name, const A& array,
                                     const std::vector<std::int64_t>& shape) {
    call.expect(array.shape() == shape, std::string(name) + " has shape " + array.shape_text() +
                                            "; " + shape_text(shape) + " was expected");
}

void augment_op(const py::object& x_, const py::object& mean_, const py::object& corners_,
                const py::object& flips_, const py::object& shifts_, const py::object& y_,
                float scale, bool mean_at_pixel, int device, const Target& target) {
    Call call("augment", device, target);
    const auto x = call.input<const std::uint8_t>("x", x_, 4);
    const auto mean = call.input<const float>("mean", mean_);
    const auto corners = call.input<const std::int32_t>("corners", corners_);
    const auto flips = call.input<const std::uint8_t>("flips", flips_);
    const auto shifts = call.input<const float>("shifts", shifts_);
    const auto y = call.output<float>("y", y_, 4);
    const CropShape shape = crop_shape(call, x, y);
    expect_shape(call, "mean", mean, {x.dim(1), x.dim(2), x.dim(3)});
    expect_shape(call, "corners", corners, {x.dim(0), 2});
    expect_shape(call, "flips", flips, {x.dim(0)});
    expect_shape(call, "shifts", shifts, {x.dim(0), x.dim(3)});
    call.launch([=](Stream s) {
        augment(x.data(), mean.data(), corners.data(), flips.data(), shifts.data(), y.data(), shape,
                scale, mean_at_pixel, s);
    });
}

} // namespace

void register_augment(py::module_& m) { m.def("augment", &augment_op); }

} // namespace pyalexnet

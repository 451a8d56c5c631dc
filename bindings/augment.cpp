#include "register.hpp"

#include "blocks.hpp"

namespace pyalexnet {
namespace {

using Size = std::pair<std::int64_t, std::int64_t>; // height and width of a crop

// Shapes of stored images x (N, stored height, stored width, C) and of crops in blocks, y.
template <class X, class Y> CropShape crop_shape(const Call& call, const X& x, const Y& y,
                                                 const Size& size, const BlockGiven& blocks) {
    const auto [height, width] = size;
    const std::string crops =
        "crops of " + std::to_string(height) + " x " + std::to_string(width) + " pixels ";
    auto shape = in_blocks<CropShape>(call, crops + "of images of shape " + x.shape_text(),
                                      x.dim(0), height, width, x.dim(3), blocks, y);
    shape.stored_height = call.extent("stored height", x.dim(1));
    shape.stored_width = call.extent("stored width", x.dim(2));
    call.expect(height <= x.dim(1) && width <= x.dim(2),
                crops + "do not come from images of shape " + x.shape_text());
    // Kernels count rows, up to a band beyond the last, and places within one, in 32 bits.
    call.extent("rows of stored pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of stored pixels", x.dim(2) * x.dim(3));
    call.extent("elements of a row of pixels", y.dim(2) * shape.block * x.dim(3));
    return shape;
}

template <class A> void expect_shape(const Call& call, const char* name, const A& array,
                                     const std::vector<std::int64_t>& shape) {
    call.expect(array.shape() == shape, std::string(name) + " has shape " + array.shape_text() +
                                            "; " + shape_text(shape) + " was expected");
}

void augment_op(const py::object& x_, const py::object& mean_, const py::object& corners_,
                const py::object& flips_, const py::object& shifts_, const py::object& y_,
                const Size& size, const BlockGiven& blocks, float scale, bool mean_at_pixel,
                const Place& place) {
    Call call("augment", place);
    const auto x = call.input<const std::uint8_t>("x", x_, 4);
    const auto mean = call.input<const float>("mean", mean_);
    const auto corners = call.input<const std::int32_t>("corners", corners_);
    const auto flips = call.input<const std::uint8_t>("flips", flips_);
    const auto shifts = call.input<const float>("shifts", shifts_);
    expect_shape(call, "mean", mean, {x.dim(1), x.dim(2), x.dim(3)});
    expect_shape(call, "corners", corners, {x.dim(0), 2});
    expect_shape(call, "flips", flips, {x.dim(0)});
    expect_shape(call, "shifts", shifts, {x.dim(0), x.dim(3)});
    with_element(y_, [&](auto element) {
        using T = decltype(element);
        const auto y = call.output<T>("y", y_, 4);
        const CropShape shape = crop_shape(call, x, y, size, blocks);
        call.launch([=](Stream s) {
            augment<T>(x.data(), mean.data(), corners.data(), flips.data(), shifts.data(), y.data(),
                       shape, scale, mean_at_pixel, s);
        });
    });
}

} // namespace

void register_augment(py::module_& m) {
    m.def("augment", &augment_op, "x"_a, "mean"_a, "corners"_a, "flips"_a, "shifts"_a, "y"_a,
          "size"_a, "blocks"_a, "scale"_a, "mean_at_pixel"_a, "place"_a);
}

} // namespace pyalexnet

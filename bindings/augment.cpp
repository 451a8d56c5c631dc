#include "register.hpp"

#include "array.hpp"

namespace pyalexnet {
namespace {

// How crops of H x W pixels are put into blocks, in the order of Python's arguments.
struct Places {
    std::int64_t height, width, block, pad_top, pad_left;
};

// Shapes of stored images x (N, stored height, stored width, C) and of crops in blocks, y.
template <class X, class Y>
CropShape crop_shape(const Call& call, const X& x, const Y& y, const Places& places) {
    CropShape shape{};
    shape.images = x.dim(0);
    shape.stored_height = call.extent("stored height", x.dim(1));
    shape.stored_width = call.extent("stored width", x.dim(2));
    shape.height = call.extent("height", places.height);
    shape.width = call.extent("width", places.width);
    shape.channels = call.extent("channels", x.dim(3));
    shape.block = call.extent("block", places.block);
    shape.pad_top = call.extent("pad_top", places.pad_top, 0);
    shape.pad_left = call.extent("pad_left", places.pad_left, 0);
    shape.rows = call.extent("rows", y.dim(1));
    shape.columns = call.extent("columns", y.dim(2));
    call.expect(places.height <= x.dim(1) && places.width <= x.dim(2),
                "crops of " + std::to_string(shape.height) + " x " + std::to_string(shape.width) +
                    " pixels do not come from images of shape " + x.shape_text());
    const std::int64_t square = places.block * places.block; // below 2^62
    call.expect_countable("channels of a block", square);
    const std::int64_t rows = y.dim(1) * places.block, columns = y.dim(2) * places.block;
    call.expect(
        y.dim(0) == x.dim(0) && y.dim(3) == square * x.dim(3) &&
            rows >= places.pad_top + places.height && columns >= places.pad_left + places.width,
        "y of shape " + y.shape_text() + " does not hold crops of " + std::to_string(shape.height) +
            " x " + std::to_string(shape.width) + " pixels of images of shape " + x.shape_text() +
            " in blocks of " + std::to_string(shape.block));
    // Kernels count rows, up to a band beyond the last, and places within one, in 32 bits.
    call.extent("rows of stored pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of stored pixels", x.dim(2) * x.dim(3));
    call.expect_countable("rows of pixels", x.dim(0) * rows);
    call.extent("elements of a row of pixels", columns * x.dim(3));
    return shape;
}

template <class A> void expect_shape(const Call& call, const char* name, const A& array,
                                     const std::vector<std::int64_t>& shape) {
    call.expect(array.shape() == shape, std::string(name) + " has shape " + array.shape_text() +
                                            "; " + shape_text(shape) + " was expected");
}

void augment_op(const py::object& x_, const py::object& mean_, const py::object& corners_,
                const py::object& flips_, const py::object& shifts_, const py::object& y_,
                std::int64_t height, std::int64_t width, std::int64_t block, std::int64_t pad_top,
                std::int64_t pad_left, float scale, bool mean_at_pixel, int device,
                const Target& target) {
    Call call("augment", device, target);
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
        const CropShape shape = crop_shape(call, x, y, {height, width, block, pad_top, pad_left});
        call.launch([=](Stream s) {
            augment<T>(x.data(), mean.data(), corners.data(), flips.data(), shifts.data(), y.data(),
                       shape, scale, mean_at_pixel, s);
        });
    });
}

} // namespace

void register_augment(py::module_& m) { m.def("augment", &augment_op); }

} // namespace pyalexnet

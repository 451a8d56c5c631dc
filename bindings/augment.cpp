#include "blocks.hpp"

namespace pyalexnet {
namespace {

using Size = std::pair<std::int64_t, std::int64_t>; // height and width of a crop

void augment_op(Call& call, handle x_, handle mean_, handle corners_, handle flips_, handle shifts_,
                handle y_, const Size& size, const BlockTuple& blocks, float scale,
                bool mean_at_pixel) {
    const auto x = call.input<std::uint8_t>("x", x_, 4);
    const auto [n, h, w, c] = call.maps(x);
    const auto mean = call.input<float>("mean", mean_, Extents{h, w, c});
    const auto corners = call.input<std::int32_t>("corners", corners_, Extents{n, 2});
    const auto flips = call.input<std::uint8_t>("flips", flips_, Extents{n});
    const auto shifts = call.input<float>("shifts", shifts_, Extents{n, c});
    const auto [height, width] = size;
    call.expect(1 <= height && height <= h && 1 <= width && width <= w,
                "size is not that of crops of x, which has shape " + shape_text(x.shape()));
    const BlockShape seen =
        in_blocks(call, n, static_cast<int>(height), static_cast<int>(width), c, blocks);
    const CropShape shape{seen, h, w};
    with_element(y_, [&](auto element) {
        using T = decltype(element);
        const auto y = call.output<T>("y", y_, blocked(shape));
        call.launch(augment<T>, x, mean, corners, flips, shifts, y, shape, scale, mean_at_pixel);
    });
}

const Ops augment_ops([](py::module_& m) {
    define(m, "augment", augment_op, "x"_a, "mean"_a, "corners"_a, "flips"_a, "shifts"_a, "y"_a,
           "size"_a, "blocks"_a, "scale"_a, "mean_at_pixel"_a);
});

} // namespace
} // namespace pyalexnet

#include "product.hpp"

namespace pyalexnet {
namespace {

// How a pass is computed: (loop, rows and columns of a tile, parts of the depth), from the shapes
// of x and w.
auto choice(const std::string& pass_name, const Extents& x_, const Extents& w_,
            const ConvTuple& geometry, const std::string& unit, std::int64_t towers, bool half,
            int device) {
    const Call call("choice", {device, std::uintptr_t{0}, py::none()});
    call.expect(x_.size() == w_.size() && (x_.size() == 4 || x_.size() == 2),
                "x and w are of 2 or 4 dimensions; as many of each were expected");
    ArrayInfo x, w;
    x.name = "x";
    x.shape = x_;
    w.name = "w";
    w.shape = w_;
    const ConvShape shape =
        conv_shape(call, Array<float>(&x), Array<float>(&w), unit, towers, geometry);
    const Pass pass = pass_name == "fprop"   ? Pass::fprop
                      : pass_name == "dgrad" ? Pass::dgrad
                                             : Pass::wgrad;
    const Choice found = half ? choice_of<bf16>(pass, shape) : choice_of<float>(pass, shape);
    return std::make_tuple(found.loop, found.tile_rows, found.tile_columns, found.parts);
}

const Ops conv_ops([](py::module_& m) {
    Product<4, ConvTuple>::define_all(m, "conv", "geometry"_a);
    m.def("choice", &choice, "pass_name"_a, "x"_a, "w"_a, "geometry"_a, "unit"_a, "towers"_a,
          "half"_a, "device"_a,
          "How a pass over arrays of these shapes is computed, if they are aligned: the loop, rows "
          "and columns of its tile, parts of its depth.");
});

} // namespace
} // namespace pyalexnet

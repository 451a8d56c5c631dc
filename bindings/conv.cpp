#include "product.hpp"

namespace pyalexnet {
namespace {

// (stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, groups)
using ConvGiven = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                             std::int64_t, std::int64_t>;

struct Conv {
    static constexpr int kRank = 4;

    // For x (N, H, W, C) and w (K, R, S, C / groups), or their gradients.
    template <class X, class W> static ConvShape shape(const Call& call, const X& x, const W& w,
                                                       Unit unit, std::int64_t towers_,
                                                       const ConvGiven& geometry) {
        const auto& [down, across, top, bottom, left, right, parts] = geometry;
        const auto [images, height, width, channels] = call.extents<4>(x);
        const auto [filters, filter_h, filter_w, depth] = call.extents<4>(w);
        const int groups = call.extent("groups", parts);
        call.expect(channels % groups == 0 && filters % groups == 0,
                    "x has " + std::to_string(channels) + " channels, w has " +
                        std::to_string(filters) + " filters; multiples of the " +
                        std::to_string(groups) + " groups were expected");
        call.expect(depth == channels / groups, w.shown() + "; " +
                                                    std::to_string(channels / groups) +
                                                    " channels per group were expected");
        const int stride_h = call.extent("stride_h", down),
                  stride_w = call.extent("stride_w", across);
        const int pad_top = call.extent("pad_top", top, 0),
                  pad_left = call.extent("pad_left", left, 0);
        const auto rows = std::int64_t{height} + pad_top + call.extent("pad_bottom", bottom, 0);
        const auto columns = std::int64_t{width} + pad_left + call.extent("pad_right", right, 0);
        call.expect_countable("rows with padding", rows);
        call.expect_countable("columns with padding", columns);
        call.expect(rows >= filter_h && columns >= filter_w,
                    "the filter is " + std::to_string(filter_h) + " x " + std::to_string(filter_w) +
                        "; the padded image is only " + std::to_string(rows) + " x " +
                        std::to_string(columns));
        const int out_h = static_cast<int>((rows - filter_h) / stride_h + 1);
        const int out_w = static_cast<int>((columns - filter_w) / stride_w + 1);
        const int towers = call.extent("towers", towers_);
        // No access is out of bounds, whatever the sizes: kernels read zeros outside. But they
        // count pixels, taps and coordinates in int.
        const auto count = [&](const char* what, std::int64_t one, std::int64_t other,
                               std::int64_t more = 0) {
            call.expect_countable(what, one * other + more);
            return one * other;
        };
        count("input pixels", count("input rows", images, height), width);
        count("output pixels", count("output rows", images, out_h), out_w);
        const std::int64_t filter_pixels = count("pixels of a filter", filter_h, filter_w);
        count("taps of a filter", filter_pixels, depth);
        count("taps of a channel", filter_pixels, filters / groups);
        count("filters of all towers", filters, towers);
        count("rows that filters reach", out_h, stride_h, filter_h);
        count("columns that filters reach", out_w, stride_w, filter_w);
        return {images, height,   width,    channels, filters,  filter_h, filter_w, out_h,
                out_w,  stride_h, stride_w, pad_top,  pad_left, groups,   towers,   unit};
    }
};

// How a pass is computed: (loop, rows and columns of a tile, parts of the depth), from the shapes
// of x and w; linear layers have images of one pixel.
auto choice(const std::string& pass_name, const Extents& x_, const Extents& w_,
            const ConvGiven& geometry, const std::string& unit, std::int64_t towers, bool half,
            int device) {
    const Call call("choice", {device, std::uintptr_t{0}, py::none()});
    call.expect(x_.size() == 4 && w_.size() == 4, "4 extents of x and of w were expected");
    Given x, w;
    x.name = "x";
    x.shape = x_;
    w.name = "w";
    w.shape = w_;
    const ConvShape shape = Conv::shape(call, Array<float>(&x), Array<float>(&w),
                                        unit_of(call, unit), towers, geometry);
    const Pass pass = pass_name == "fprop"   ? Pass::fprop
                      : pass_name == "dgrad" ? Pass::dgrad
                                             : Pass::wgrad;
    const Choice found = half ? choice_of<bf16>(pass, shape) : choice_of<float>(pass, shape);
    return std::make_tuple(found.loop, found.tile_rows, found.tile_columns, found.parts);
}

const Ops conv_ops([](py::module_& m) {
    Product<Conv, ConvGiven>::define_all(m, "conv", "geometry"_a);
    m.def("choice", &choice, "pass_name"_a, "x"_a, "w"_a, "geometry"_a, "unit"_a, "towers"_a,
          "half"_a, "device"_a,
          "How a pass over arrays of these shapes is computed, if they are aligned: the loop, rows "
          "and columns of its tile, parts of its depth.");
});

} // namespace
} // namespace pyalexnet

#include "product.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

// (stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, groups); padding below and on the
// right follows from y.
using ConvGiven = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                             std::int64_t, std::int64_t>;

struct Conv {
    static constexpr const char* kFprop = "conv_fprop";
    static constexpr const char* kDgrad = "conv_dgrad";
    static constexpr const char* kWgrad = "conv_wgrad";
    static constexpr const char* kWgradSgd = "conv_wgrad_sgd";
    static constexpr int kRank = 4;
    static constexpr const char* kOutputs = "filters";

    // For x (N, H, W, C), w (K, R, S, C / groups) and y (N, P, Q, K), or their gradients.
    template <class X, class W, class Y>
    static ConvShape shape(const Call& call, const X& x, const W& w, const Y& y, Unit unit,
                           std::int64_t towers, const ConvGiven& geometry) {
        const auto& [stride_h, stride_w, pad_top, bottom, pad_left, right, groups] = geometry;
        ConvShape shape{};
        shape.images = call.extent("images", x.dim(0));
        shape.height = call.extent("height", x.dim(1));
        shape.width = call.extent("width", x.dim(2));
        shape.channels = call.extent("channels", x.dim(3));
        shape.filters = call.extent("filters", w.dim(0));
        shape.filter_h = call.extent("filter height", w.dim(1));
        shape.filter_w = call.extent("filter width", w.dim(2));
        shape.out_height = call.extent("output height", y.dim(1));
        shape.out_width = call.extent("output width", y.dim(2));
        shape.stride_h = call.extent("stride_h", stride_h);
        shape.stride_w = call.extent("stride_w", stride_w);
        shape.pad_top = call.extent("pad_top", pad_top, 0);
        shape.pad_left = call.extent("pad_left", pad_left, 0);
        shape.groups = call.extent("groups", groups);
        shape.towers = call.extent("towers", towers);
        shape.unit = unit;
        call.expect(shape.channels % shape.groups == 0 && shape.filters % shape.groups == 0,
                    std::to_string(shape.groups) + " groups divide neither or only one of " +
                        std::to_string(shape.channels) + " channels and " +
                        std::to_string(shape.filters) + " filters");
        call.expect(w.dim(3) == shape.channels / shape.groups,
                    "filters have shape " + w.shape_text() + "; " +
                        std::to_string(shape.channels / shape.groups) +
                        " channels per group were expected");
        call.expect(y.dim(0) == x.dim(0) && y.dim(3) == w.dim(0),
                    "maps of shape " + y.shape_text() + " do not come from images of shape " +
                        x.shape_text() + " and filters of shape " + w.shape_text());
        // No access is out of bounds, whatever the sizes: kernels read zeros outside. But they
        // count pixels, taps and coordinates in int.
        const std::int64_t filter_pixels = std::int64_t{shape.filter_h} * shape.filter_w;
        call.expect_countable("input rows", std::int64_t{shape.images} * shape.height);
        call.expect_countable("input pixels", shape.in_pixels());
        call.expect_countable("output rows", std::int64_t{shape.images} * shape.out_height);
        call.expect_countable("output pixels", shape.out_pixels());
        call.expect_countable("pixels of a filter", filter_pixels);
        call.expect_countable("taps of a filter", shape.taps());
        call.expect_countable("filters of all towers", std::int64_t{shape.filters} * shape.towers);
        call.expect_countable("taps of a channel", filter_pixels * (shape.filters / shape.groups));
        call.expect_countable("rows that filters reach",
                              std::int64_t{shape.out_height} * shape.stride_h + shape.filter_h);
        call.expect_countable("columns that filters reach",
                              std::int64_t{shape.out_width} * shape.stride_w + shape.filter_w);
        call.expect_countable("rows with padding", std::int64_t{shape.height} + shape.pad_top);
        call.expect_countable("columns with padding", std::int64_t{shape.width} + shape.pad_left);
        return shape;
    }
};

} // namespace

void register_conv(py::module_& m) { Product<Conv, ConvGiven>::define(m, "geometry"_a); }

} // namespace pyalexnet

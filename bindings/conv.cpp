#include "epilogue.hpp"
#include "names.hpp"
#include "register.hpp"
#include "same_shape.hpp"

#include <array>

namespace pyalexnet {
namespace {

// The plain numbers of a convolution, in the order in which Python passes them.
struct Settings {
    std::int64_t stride_h, stride_w, pad_top, pad_left, groups;
    Unit unit;
    std::int64_t towers = 1;
};

// Shapes of x (N, H, W, C), w (K, R, S, C / groups) and y (N, P, Q, K), whichever arrays they came
// from.
template <class X, class W, class Y>
ConvShape conv_shape(const Call& call, const X& x, const W& w, const Y& y, const Settings& s) {
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
    shape.stride_h = call.extent("stride_h", s.stride_h);
    shape.stride_w = call.extent("stride_w", s.stride_w);
    shape.pad_top = call.extent("pad_top", s.pad_top, 0);
    shape.pad_left = call.extent("pad_left", s.pad_left, 0);
    shape.groups = call.extent("groups", s.groups);
    shape.towers = call.extent("towers", s.towers);
    shape.unit = s.unit;
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
    // Nothing is out of bounds whatever the sizes: kernels read zeros outside. But they count
    // pixels, taps and coordinates in int.
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

// A shape without an array.
struct Extents {
    std::array<std::int64_t, 4> extents;

    std::int64_t dim(int i) const { return extents[static_cast<std::size_t>(i)]; }
    std::string shape_text() const {
        return pyalexnet::shape_text({extents.begin(), extents.end()});
    }
};

using Sizes = const std::array<std::int64_t, 4>&;
using WorkspaceOf = std::size_t (*)(const ConvShape&);

// Bytes of scratch for one pass, which shapes and element type alone decide.
template <WorkspaceOf of_float, WorkspaceOf of_bf16>
std::size_t workspace(Sizes x, Sizes w, Sizes y, std::int64_t groups, std::int64_t towers,
                      bool bfloat16, const std::string& unit) {
    const Call call("conv_workspace", 0, Target{});
    const ConvShape shape = conv_shape(call, Extents{x}, Extents{w}, Extents{y},
                                       {1, 1, 0, 0, groups, unit_of(call, unit), towers});
    return bfloat16 ? of_bf16(shape) : of_float(shape);
}

// The same for a pass that does the same in every tower.
template <WorkspaceOf of_float, WorkspaceOf of_bf16>
std::size_t workspace_of_one(Sizes x, Sizes w, Sizes y, std::int64_t groups, bool bfloat16,
                             const std::string& unit) {
    return workspace<of_float, of_bf16>(x, w, y, groups, 1, bfloat16, unit);
}

void fprop(const py::object& x_, const py::object& w_, const py::object& b_, const py::object& y_,
           const py::object& workspace_, std::int64_t stride_h, std::int64_t stride_w,
           std::int64_t pad_top, std::int64_t pad_left, std::int64_t groups,
           const std::string& unit, std::int64_t towers, const py::object& activation_,
           const DropoutGiven& dropout_, int device, const Target& target) {
    with_elements(x_, y_, [&](auto of_x, auto of_y) {
        using T = decltype(of_x);
        using Y = decltype(of_y);
        Call call("conv_fprop", device, target);
        const auto x = call.input<const T>("x", x_, 4);
        const auto w = call.input<const T>("w", w_, 4);
        const auto b = call.optional_input<const float>("b", b_, 1);
        const auto y = call.output<Y>("y", y_, 4);
        const ConvShape shape = conv_shape(
            call, x, w, y,
            {stride_h, stride_w, pad_top, pad_left, groups, unit_of(call, unit), towers});
        call.expect(!b || b.dim(0) == shape.filters,
                    "b has " + std::to_string(b.size()) + " elements; w has " +
                        std::to_string(shape.filters) + " filters");
        const auto scratch = call.scratch("workspace", workspace_, conv_fprop_workspace<T>(shape));
        const Activation activation = activation_of(call, activation_);
        const DroppedArgument dropped(call, dropout_, y.dim(0), y.size() / y.dim(0));
        call.launch([=](Stream s) {
            conv_fprop<T, Y>(x.data(), w.data(), b.data(), y.data(), shape, activation,
                             dropped.get(), scratch.data(), s);
        });
    });
}

void dgrad(const py::object& dy_, const py::object& w_, const py::object& gate_,
           const py::object& dx_, const py::object& workspace_, std::int64_t stride_h,
           std::int64_t stride_w, std::int64_t pad_top, std::int64_t pad_left, std::int64_t groups,
           const std::string& unit, float factor, int device, const Target& target) {
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        Call call("conv_dgrad", device, target);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto w = call.input<const T>("w", w_, 4);
        const auto gate = call.optional_input<const T>("gate", gate_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        const ConvShape shape = conv_shape(
            call, dx, w, dy, {stride_h, stride_w, pad_top, pad_left, groups, unit_of(call, unit)});
        if (gate) expect_same_shape(call, "gate", gate, "dx", dx);
        const auto scratch = call.scratch("workspace", workspace_, conv_dgrad_workspace<T>(shape));
        call.launch([=](Stream s) {
            conv_dgrad<T>(dy.data(), w.data(), gate.data(), factor, dx.data(), shape,
                          scratch.data(), s);
        });
    });
}

void wgrad(const py::object& x_, const py::object& dy_, const py::object& dw_,
           const py::object& db_, const py::object& workspace_, std::int64_t stride_h,
           std::int64_t stride_w, std::int64_t pad_top, std::int64_t pad_left, std::int64_t groups,
           const std::string& unit, int device, const Target& target) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        Call call("conv_wgrad", device, target);
        const auto x = call.input<const T>("x", x_, 4);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto dw = call.output<float>("dw", dw_, 4);
        const auto db = call.output<float>("db", db_, 1);
        const ConvShape shape = conv_shape(
            call, x, dw, dy, {stride_h, stride_w, pad_top, pad_left, groups, unit_of(call, unit)});
        call.expect(db.dim(0) == shape.filters, "db has " + std::to_string(db.size()) +
                                                    " elements; dw has " +
                                                    std::to_string(shape.filters) + " filters");
        const auto scratch = call.scratch("workspace", workspace_, conv_wgrad_workspace<T>(shape));
        call.launch([=](Stream s) {
            conv_wgrad<T>(x.data(), dy.data(), dw.data(), db.data(), shape, scratch.data(), s);
        });
    });
}

void wgrad_sgd(const py::object& x_, const py::object& dy_, const py::object& w_,
               const py::object& low_, const py::object& v_, const py::object& b_,
               const py::object& bv_, const py::object& workspace_, std::int64_t stride_h,
               std::int64_t stride_w, std::int64_t pad_top, std::int64_t pad_left,
               std::int64_t groups, const std::string& unit, const RuleGiven& w_rule_,
               const RuleGiven& b_rule_, int device, const Target& target) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        Call call("conv_wgrad_sgd", device, target);
        const auto x = call.input<const T>("x", x_, 4);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const LearnedArgument<T> w(call, kWeights, w_, low_, v_, 4);
        const LearnedArgument<float> b(call, kBiases, b_, py::none(), bv_, 1);
        const ConvShape shape =
            conv_shape(call, x, w.array(), dy,
                       {stride_h, stride_w, pad_top, pad_left, groups, unit_of(call, unit)});
        call.expect(b.array().dim(0) == shape.filters,
                    "b.w has " + std::to_string(b.array().size()) + " elements; w.w has " +
                        std::to_string(shape.filters) + " filters");
        const RuleArgument w_rule(call, "w.lr", w_rule_), b_rule(call, "b.lr", b_rule_);
        const auto scratch = call.scratch("workspace", workspace_, conv_wgrad_workspace<T>(shape));
        call.launch([=](Stream s) {
            conv_wgrad_sgd<T>(x.data(), dy.data(), w.get(), w_rule.get(), b.get(), b_rule.get(),
                              shape, scratch.data(), s);
        });
    });
}

} // namespace

void register_conv(py::module_& m) {
    m.def("conv_fprop", &fprop);
    m.def("conv_dgrad", &dgrad);
    m.def("conv_wgrad", &wgrad);
    m.def("conv_wgrad_sgd", &wgrad_sgd);
    // Of the shapes of x, w and y (images, filters, maps), the groups, for fprop the towers,
    // whether x is bfloat16, and what multiplies.
    m.def("conv_fprop_workspace",
          &workspace<&conv_fprop_workspace<float>, &conv_fprop_workspace<bf16>>);
    m.def("conv_dgrad_workspace",
          &workspace_of_one<&conv_dgrad_workspace<float>, &conv_dgrad_workspace<bf16>>);
    m.def("conv_wgrad_workspace",
          &workspace_of_one<&conv_wgrad_workspace<float>, &conv_wgrad_workspace<bf16>>);
}

} // namespace pyalexnet

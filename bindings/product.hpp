// Convolutions and linear layers, from Python's arguments: the same passes, by the same launchers.
// A linear layer is a convolution of maps of one pixel, x (N, C) and w (K, C), and has no geometry.
#pragma once

#include "records.hpp"

namespace pyalexnet {

// The neuron that Python names: None, "relu" or "tanh".
inline Activation activation_of(const Call& call, handle name) {
    if (name.is_none()) return Activation::none;
    if (name.equal(py::str("relu"))) return Activation::relu;
    if (name.equal(py::str("tanh"))) return Activation::tanh;
    call.refuse("activation is " + std::string(py::repr(name)) +
                "; None, 'relu' or 'tanh' was expected");
}

// The unit that multiplies, by its name in Python; checked here, as kernels would fail too late.
inline Unit unit_of(const Call& call, const std::string& name) {
    constexpr std::pair<const char*, Unit> units[] = {{"fma", Unit::fma},
                                                      {"mma", Unit::mma},
                                                      {"wgmma", Unit::wgmma},
                                                      {"winograd", Unit::winograd}};
    for (const auto& [own, unit] : units) {
        if (name != own) continue;
        call.expect(multiplies(call.device(), unit),
                    "unit is '" + name + "'; device " + std::to_string(call.device()) +
                        " has none, or the module was built without it");
        return unit;
    }
    call.refuse("unit is '" + name + "'; 'fma', 'mma', 'wgmma' or 'winograd' was expected");
}

// Calls `use` with values of the types of x's and of y's elements, which are x's or float.
template <class Use> void with_elements(handle x, handle y, Use use) {
    with_element(x, [&](auto of_x) {
        if constexpr (std::is_same_v<decltype(of_x), float>)
            use(of_x, float{});
        else
            with_element(y, [&](auto of_y) { use(of_x, of_y); });
    });
}

// (stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, groups)
using ConvTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                             std::int64_t, std::int64_t>;
inline ConvTuple geometry_of(const ConvTuple& tuple) { return tuple; }
inline ConvTuple geometry_of() { return {1, 1, 0, 0, 0, 0, 1}; }

// The extents of maps or filters, of one pixel where they have none.
template <class X> std::array<int, 4> extents_of(const Call& call, const X& x) {
    if (x.shape().size() == 4) return call.extents<4>(x);
    const auto [rows, columns] = call.extents<2>(x);
    return {rows, 1, 1, columns};
}

// The shape of y, or of its gradient.
inline Extents outputs(const ConvShape& s, std::size_t rank) {
    if (rank == 2) return {s.images, s.filters};
    return {s.images, s.out_height, s.out_width, s.filters};
}

// For x (N, H, W, C) and w (K, R, S, C / groups), or their gradients.
template <class X, class W> ConvShape conv_shape(const Call& call, const X& x, const W& w,
                                                 const std::string& unit, std::int64_t towers_,
                                                 const ConvTuple& geometry) {
    const auto& [down, across, top, bottom, left, right, parts] = geometry;
    const auto [images, height, width, channels] = extents_of(call, x);
    const auto [filters, filter_h, filter_w, depth] = extents_of(call, w);
    const int groups = call.extent("groups", parts);
    if (channels % groups != 0 || filters % groups != 0)
        call.refuse("x has " + std::to_string(channels) + " channels, w has " +
                    std::to_string(filters) + " filters; multiples of the " +
                    std::to_string(groups) + " groups were expected");
    Extents due = w.shape();
    due.back() = channels / groups;
    call.expect_shape(w, due);
    const int stride_h = call.extent("stride_h", down), stride_w = call.extent("stride_w", across);
    const int pad_top = call.extent("pad_top", top, 0), pad_left = call.extent("pad_left", left, 0);
    const auto rows = std::int64_t{height} + pad_top + call.extent("pad_bottom", bottom, 0);
    const auto columns = std::int64_t{width} + pad_left + call.extent("pad_right", right, 0);
    call.expect_countable("rows with padding", rows);
    call.expect_countable("columns with padding", columns);
    if (rows < filter_h || columns < filter_w)
        call.refuse("the filter is " + std::to_string(filter_h) + " x " + std::to_string(filter_w) +
                    "; the padded image is only " + std::to_string(rows) + " x " +
                    std::to_string(columns));
    const int out_h = static_cast<int>((rows - filter_h) / stride_h + 1);
    const int out_w = static_cast<int>((columns - filter_w) / stride_w + 1);
    const int towers = call.extent("towers", towers_);
    // No access is out of bounds, whatever the sizes: kernels read zeros outside. But they count
    // pixels, taps and coordinates in int.
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
    return {images,   height, width,  channels,           filters,  filter_h,
            filter_w, out_h,  out_w,  stride_h,           stride_w, pad_top,
            pad_left, groups, towers, unit_of(call, unit)};
}

// The passes on arrays of this rank, with the record of their geometry, if any.
template <int rank, class... Geometry> struct Product {
    static void fprop(Call& call, handle x_, handle w_, handle b_, handle y_,
                      const Geometry&... geometry, const std::string& unit, std::int64_t towers,
                      handle activation, const std::optional<MaskTuple>& dropout) {
        with_elements(x_, y_, [&](auto of_x, auto of_y) {
            using T = decltype(of_x);
            using Y = decltype(of_y);
            const auto x = call.input<T>("x", x_, rank);
            const auto w = call.input<T>("w", w_, rank);
            const auto shape = conv_shape(call, x, w, unit, towers, geometry_of(geometry...));
            const auto b = call.optional_input<float>("b", b_, Extents{shape.filters});
            const auto y = call.output<Y>("y", y_, outputs(shape, rank));
            const auto scratch = call.scratch(conv_workspace<T>(Pass::fprop, shape));
            const MaskArgument dropped(call, dropout, y.dim(0), y.size() / y.dim(0));
            call.launch(conv_fprop<T, Y>, x, w, b, y, shape, activation_of(call, activation),
                        dropped, scratch);
        });
    }

    static void dgrad(Call& call, handle dy_, handle w_, handle gate_, handle dx_,
                      const Geometry&... geometry, const std::string& unit, float factor) {
        with_element(dy_, [&](auto element) {
            using T = decltype(element);
            const auto w = call.input<T>("w", w_, rank);
            const auto dx = call.output<T>("dx", dx_, rank);
            const auto shape = conv_shape(call, dx, w, unit, 1, geometry_of(geometry...));
            const auto dy = call.input<T>("dy", dy_, outputs(shape, rank));
            const auto gate = call.optional_input<T>("gate", gate_, dx.shape());
            const auto scratch = call.scratch(conv_workspace<T>(Pass::dgrad, shape));
            call.launch(conv_dgrad<T>, dy, w, gate, factor, dx, shape, scratch);
        });
    }

    static void wgrad(Call& call, handle x_, handle dy_, handle dw_, handle db_,
                      const Geometry&... geometry, const std::string& unit) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            const auto x = call.input<T>("x", x_, rank);
            const auto dw = call.output<float>("dw", dw_, rank);
            const auto shape = conv_shape(call, x, dw, unit, 1, geometry_of(geometry...));
            const auto dy = call.input<T>("dy", dy_, outputs(shape, rank));
            const auto db = call.output<float>("db", db_, Extents{shape.filters});
            const auto scratch = call.scratch(conv_workspace<T>(Pass::wgrad, shape));
            call.launch(conv_wgrad<T>, x, dy, dw, db, shape, scratch);
        });
    }

    static void wgrad_sgd(Call& call, handle x_, handle dy_, handle w_, handle low_, handle v_,
                          handle b_, handle bv_, const Geometry&... geometry,
                          const std::string& unit, const RuleTuple& w_rule_,
                          const RuleTuple& b_rule_) {
        with_element(x_, [&](auto element) {
            using T = decltype(element);
            const auto x = call.input<T>("x", x_, rank);
            const LearnedArgument<T> w(call, "w.", w_, low_, v_, rank);
            const auto shape = conv_shape(call, x, w.array(), unit, 1, geometry_of(geometry...));
            const auto dy = call.input<T>("dy", dy_, outputs(shape, rank));
            const LearnedArgument<float> b(call, "b.", b_, py::none(), bv_, Extents{shape.filters});
            const auto w_rule = rule_of(call, "w.lr", w_rule_),
                       b_rule = rule_of(call, "b.lr", b_rule_);
            const auto scratch = call.scratch(conv_workspace<T>(Pass::wgrad, shape));
            call.launch(conv_wgrad_sgd<T>, x, dy, w, w_rule, b, b_rule, shape, scratch);
        });
    }

    // `geometry` names its arguments.
    template <class... Names>
    static void define_all(py::module_& m, const std::string& name, const Names&... geometry) {
        define(m, name + "_fprop", fprop, "x"_a, "w"_a, "b"_a, "y"_a, geometry..., "unit"_a,
               "towers"_a, "activation"_a, "dropout"_a);
        define(m, name + "_dgrad", dgrad, "dy"_a, "w"_a, "gate"_a, "dx"_a, geometry..., "unit"_a,
               "factor"_a);
        define(m, name + "_wgrad", wgrad, "x"_a, "dy"_a, "dw"_a, "db"_a, geometry..., "unit"_a);
        define(m, name + "_wgrad_sgd", wgrad_sgd, "x"_a, "dy"_a, "w"_a, "low"_a, "v"_a, "b"_a,
               "bv"_a, geometry..., "unit"_a, "w_rule"_a, "b_rule"_a);
    }
};

} // namespace pyalexnet

// Convolution and linear layers: which algorithm multiplies, and the launchers (ops.h).
#include "cpu/direct.hpp"
#include "cpu/epilogue.hpp"
#include "cpu/linear.hpp"
#include "cpu/winograd_wgrad.hpp"

namespace pyalexnet {
namespace cpu {
namespace {

constexpr int kLeastDepth = 16; // channels

// Products that Winograd's algorithm F takes for a map of outputs, for each pair of channels.
template <class F> std::int64_t products(int rows, int columns) {
    return quotient_up(rows, F::m) * quotient_up(columns, F::m) * F::n * F::n;
}

// Calls use(F) with Winograd's algorithm for a pass with so many outputs (in wgrad, gradients) in a
// map, or `otherwise`. It has to be requested and to exist, and enough channels must be summed over
// to be worth its transforms, which cost as much however many come out. Of the two for 3 x 3
// filters the one with fewer products is taken: tiles of 4 outputs cover 13 of them as 16, tiles of
// 5 as 15. Nothing else matters: in a tower and in the whole layer, for one image and for many, the
// choice is the same, and so are the bits of fprop.
template <class Use, class Otherwise> auto
with_algorithm(const ConvShape& s, int depth, int rows, int columns, Use use, Otherwise otherwise) {
    const bool suits = s.unit == Unit::winograd && s.stride_h == 1 && s.stride_w == 1 &&
                       s.filter_h == s.filter_w && depth >= kLeastDepth;
    using Small = Winograd<4, 3>;
    using Large = Winograd<5, 3>;
    if (suits && s.filter_h == 3)
        return products<Large>(rows, columns) < products<Small>(rows, columns) ? use(Large{})
                                                                               : use(Small{});
    if (suits && s.filter_h == 5) return use(Winograd<4, 5>{});
    return otherwise();
}

template <class T, class Epilogue>
void correlate(const T* map, const ConvShape& shape, const Correlation& correlation,
               const Filters<T>& filters, const Epilogue& epilogue, Scratch scratch) {
    with_algorithm(
        shape, correlation.depth, correlation.rows, correlation.columns,
        [&](auto f) {
            correlate_by_winograd<decltype(f)>(map, correlation, filters, epilogue, scratch);
        },
        [&] { correlate_directly(map, correlation, filters, epilogue, scratch); });
}

template <class T, class Epilogue> void fprop(const T* x, const T* w, const ConvShape& shape,
                                              const Epilogue& epilogue, Scratch scratch) {
    if (LinearSize::is_linear(shape)) return LinearFprop(scratch, shape).run(x, w, epilogue);
    correlate(x, shape, fprop_correlation(shape), fprop_filters(w, shape), epilogue, scratch);
}

template <class T, class Epilogue> void dgrad(const T* dy, const T* w, const ConvShape& shape,
                                              const Epilogue& epilogue, Scratch scratch) {
    if (LinearSize::is_linear(shape))
        return LinearDgrad(scratch, shape, std::is_same_v<T, bf16>).run(dy, w, epilogue);
    for_each_phase(shape, [&](int row, int column) {
        correlate(dy, shape, dgrad_correlation(shape, row, column),
                  dgrad_filters(w, shape, row, column), epilogue, scratch);
    });
}

template <class T, class Epilogue> void wgrad(const T* x, const T* dy, const ConvShape& shape,
                                              const Epilogue& epilogue, Scratch scratch) {
    if (LinearSize::is_linear(shape)) return LinearWgrad(scratch, shape).run(x, dy, epilogue);
    with_algorithm(
        shape, shape.channels / shape.groups, shape.out_height, shape.out_width,
        [&](auto f) { wgrad_by_winograd<decltype(f)>(x, dy, shape, epilogue, scratch); },
        [&] { wgrad_directly(x, dy, shape, epilogue, scratch); });
}

// Bytes that a plan's room takes.
template <class Room, class... Given> std::size_t bytes_of(const Given&... given) {
    Scratch counted(nullptr);
    const Room room(counted, given...);
    return counted.bytes();
}

std::size_t correlation_bytes(const ConvShape& shape, const Correlation& correlation) {
    return with_algorithm(
        shape, correlation.depth, correlation.rows, correlation.columns,
        [&](auto f) {
            return bytes_of<WinogradScratch<decltype(f)>>(WinogradPlan<decltype(f)>(correlation));
        },
        [&] { return bytes_of<DirectScratch>(correlation, bands_of(correlation)); });
}

} // namespace
} // namespace cpu

template <class T> Choice choice_of(Pass pass, const ConvShape& given) {
    using namespace cpu;
    const ConvShape shape = pass == Pass::fprop ? LinearSize::as_one_image(given) : given;
    if (LinearSize::is_linear(shape)) return {"linear", 0, 0, 1};
    const auto chosen = [&](int depth, int rows, int columns) {
        return with_algorithm(
            shape, depth, rows, columns,
            [](auto f) { return Choice{"winograd", decltype(f)::m, decltype(f)::m, 1}; },
            [] { return Choice{"direct", 0, 0, 1}; });
    };
    if (pass == Pass::wgrad)
        return chosen(shape.channels / shape.groups, shape.out_height, shape.out_width);
    const Correlation correlation =
        pass == Pass::fprop ? fprop_correlation(shape) : dgrad_correlation(shape, 0, 0);
    return chosen(correlation.depth, correlation.rows, correlation.columns);
}

template <class T> std::size_t conv_fprop_workspace(const ConvShape& given) {
    using namespace cpu;
    const ConvShape shape = LinearSize::as_one_image(given);
    if (LinearSize::is_linear(shape)) return bytes_of<LinearFprop>(shape);
    return correlation_bytes(shape, fprop_correlation(shape));
}

template <class T> std::size_t conv_dgrad_workspace(const ConvShape& shape) {
    using namespace cpu;
    if (LinearSize::is_linear(shape)) return bytes_of<LinearDgrad>(shape, std::is_same_v<T, bf16>);
    std::size_t bytes = 0;
    for_each_phase(shape, [&](int row, int column) {
        bytes = std::max(bytes, correlation_bytes(shape, dgrad_correlation(shape, row, column)));
    });
    return bytes;
}

template <class T> std::size_t conv_wgrad_workspace(const ConvShape& shape) {
    using namespace cpu;
    if (LinearSize::is_linear(shape)) return bytes_of<LinearWgrad>(shape);
    return with_algorithm(
        shape, shape.channels / shape.groups, shape.out_height, shape.out_width,
        [&](auto f) {
            return bytes_of<WinogradWgradScratch<decltype(f)>>(
                WinogradWgradPlan<decltype(f)>(shape));
        },
        [&] { return bytes_of<WgradScratch>(WgradPlan(shape)); });
}

template <class T, class Y> void conv_fprop(const T* x, const T* w, const float* b, Y* y,
                                            const ConvShape& shape, Activation activation,
                                            const Dropped& dropped, void* workspace, Stream) {
    const std::int64_t pixels = std::int64_t{shape.out_height} * shape.out_width;
    const cpu::FpropEpilogue<Y> epilogue{
        b,
        {y, shape.images * pixels * shape.filters, shape.filters / shape.groups},
        shape.filters,
        pixels,
        activation,
        dropped};
    cpu::fprop(x, w, cpu::LinearSize::as_one_image(shape), epilogue, cpu::Scratch(workspace));
}

template <class T> void conv_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                   const ConvShape& shape, void* workspace, Stream) {
    const std::int64_t pixels = std::int64_t{shape.images} * shape.height * shape.width;
    const cpu::DgradEpilogue<T> epilogue{
        gate, factor, {dx, pixels * shape.channels, shape.channels / shape.groups}, shape.channels};
    cpu::dgrad(dy, w, shape, epilogue, cpu::Scratch(workspace));
}

template <class T> void conv_wgrad(const T* x, const T* dy, float* dw, float* db,
                                   const ConvShape& shape, void* workspace, Stream) {
    cpu::WgradEpilogue<T> epilogue{};
    epilogue.dw = dw;
    epilogue.db = db;
    cpu::wgrad(x, dy, shape, epilogue, cpu::Scratch(workspace));
}

template <class T> void conv_wgrad_sgd(const T* x, const T* dy, Learned<T> w, Rule w_rule,
                                       Learned<float> b, Rule b_rule, const ConvShape& shape,
                                       void* workspace, Stream) {
    const cpu::WgradEpilogue<T> epilogue{nullptr, nullptr,           w,
                                         b,       read_rule(w_rule), read_rule(b_rule)};
    cpu::wgrad(x, dy, shape, epilogue, cpu::Scratch(workspace));
}

PYALEXNET_FOR_ELEMENTS(choice_of);
PYALEXNET_FOR_ELEMENTS(conv_fprop_workspace);
PYALEXNET_FOR_ELEMENTS(conv_dgrad_workspace);
PYALEXNET_FOR_ELEMENTS(conv_wgrad_workspace);
template decltype(conv_fprop<float, float>) conv_fprop<float, float>;
template decltype(conv_fprop<bf16, bf16>) conv_fprop<bf16, bf16>;
template decltype(conv_fprop<bf16, float>) conv_fprop<bf16, float>;
PYALEXNET_FOR_ELEMENTS(conv_dgrad);
PYALEXNET_FOR_ELEMENTS(conv_wgrad);
PYALEXNET_FOR_ELEMENTS(conv_wgrad_sgd);

} // namespace pyalexnet

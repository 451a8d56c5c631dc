// Convolution and linear layers: which algorithm multiplies, and the launchers (ops.h).
//
// An algorithm is constructed with the scratch from which it takes what it needs, and then run: a
// workspace is as large as what it takes from a scratch that only counts.
#include "cpu/direct.hpp"
#include "cpu/epilogue.hpp"
#include "cpu/linear.hpp"
#include "cpu/winograd_wgrad.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

constexpr int kLeastDepth = 16; // channels

constexpr auto ignore = [](const auto&...) {};

// Products that Winograd's algorithm F takes for a map of outputs, for each pair of channels.
template <class F> std::int64_t products(const Correlation& c) {
    const std::int64_t tiles_down = quotient_up(c.down.outputs, F::m);
    return tiles_down * quotient_up(c.across.outputs, F::m) * F::n * F::n;
}

// Calls use(algorithm) with the one for a correlation, in wgrad that of fprop; returns the bytes
// that it takes of the workspace. Winograd's has to be requested and to exist, and enough channels
// must be summed over to be worth its transforms, which cost as much however many come out. Of the
// two for 3 x 3 filters the one with fewer products is taken: tiles of 4 outputs cover 13 of them
// as 16, tiles of 5 as 15. Nothing else matters: in a tower and in the whole layer, for one image
// and for many, the choice is the same, and so are the bits of fprop.
template <class Linear, template <class> class ByWinograd, class Direct, class Use>
std::size_t with_algorithm(const ConvShape& s, const Correlation& c, void* workspace, Use use) {
    Scratch scratch(workspace);
    using Small = Winograd<4, 3>;
    using Large = Winograd<5, 3>;
    const bool suits = s.unit == Unit::winograd && s.stride_h == 1 && s.stride_w == 1 &&
                       s.filter_h == s.filter_w && c.depth >= kLeastDepth;
    if (is_linear(s))
        use(Linear(scratch, c));
    else if (suits && s.filter_h == 3 && products<Large>(c) < products<Small>(c))
        use(ByWinograd<Large>(scratch, c));
    else if (suits && s.filter_h == 3)
        use(ByWinograd<Small>(scratch, c));
    else if (suits && s.filter_h == 5)
        use(ByWinograd<Winograd<4, 5>>(scratch, c));
    else
        use(Direct(scratch, c));
    return scratch.bytes();
}

template <class Use> std::size_t with_fprop(const ConvShape& s, void* workspace, Use use) {
    return with_algorithm<LinearFprop, WinogradCorrelation, DirectCorrelation>(
        s, fprop_correlation(s), workspace, use);
}

// Calls use(algorithm, phase) for one phase after another, all in the same memory.
template <class T, class Use> std::size_t with_dgrad(const ConvShape& s, void* workspace, Use use) {
    std::size_t bytes = 0;
    for_each_phase(s, [&](const Correlation& phase) {
        bytes = std::max(
            bytes, with_algorithm<LinearDgrad<T>, WinogradCorrelation, DirectCorrelation>(
                       s, phase, workspace, [&](const auto& algorithm) { use(algorithm, phase); }));
    });
    return bytes;
}

template <class Use> std::size_t with_wgrad(const ConvShape& s, void* workspace, Use use) {
    return with_algorithm<LinearWgrad, WinogradWgrad, DirectWgrad>(s, fprop_correlation(s),
                                                                   workspace, use);
}

template <class T, class Use> std::size_t with_pass(Pass pass, const ConvShape& s, Use use) {
    if (pass == Pass::fprop) return with_fprop(as_one_image(s), nullptr, use);
    if (pass == Pass::dgrad) return with_dgrad<T>(s, nullptr, use);
    return with_wgrad(s, nullptr, use);
}

} // namespace

template <class T> Choice choice_of(Pass pass, const ConvShape& shape) {
    Choice choice{};
    with_pass<T>(pass, shape, [&](const auto& found, const auto&...) { choice = found.kChoice; });
    return choice;
}

template <class T> std::size_t conv_workspace(Pass pass, const ConvShape& shape) {
    return with_pass<T>(pass, shape, ignore);
}

template <class T, class Y> void conv_fprop(const T* x, const T* w, const float* b, Y* y,
                                            const ConvShape& given, Activation activation,
                                            const Dropped& dropped, void* workspace, Stream) {
    const std::int64_t pixels = std::int64_t{given.out_height} * given.out_width;
    const Outputs<Y> outputs(y, given.images * pixels * given.filters,
                             given.filters / given.groups);
    const FpropEpilogue<Y> epilogue{b, outputs, given.filters, pixels, activation, dropped};
    const ConvShape shape = as_one_image(given);
    with_fprop(shape, workspace,
               [&](const auto& algorithm) { algorithm.run(x, fprop_filters(w, shape), epilogue); });
}

template <class T> void conv_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                   const ConvShape& shape, void* workspace, Stream) {
    const Outputs<T> outputs(dx, shape.in_pixels() * shape.channels, shape.channels / shape.groups);
    const DgradEpilogue<T> epilogue{gate, factor, outputs, shape.channels};
    with_dgrad<T>(shape, workspace, [&](const auto& algorithm, const Correlation& phase) {
        algorithm.run(dy, dgrad_filters(w, shape, phase), epilogue);
    });
}

template <class T> void conv_wgrad(const T* x, const T* dy, float* dw, float* db,
                                   const ConvShape& shape, void* workspace, Stream) {
    const WgradEpilogue<T> epilogue{{dw}, {db}};
    with_wgrad(shape, workspace, [&](const auto& algorithm) { algorithm.run(x, dy, epilogue); });
}

template <class T> void conv_wgrad_sgd(const T* x, const T* dy, Learned<T> w, Rule w_rule,
                                       Learned<float> b, Rule b_rule, const ConvShape& shape,
                                       void* workspace, Stream) {
    const WgradEpilogue<T> epilogue{{nullptr, w, read_rule(w_rule)},
                                    {nullptr, b, read_rule(b_rule)}};
    with_wgrad(shape, workspace, [&](const auto& algorithm) { algorithm.run(x, dy, epilogue); });
}

PYALEXNET_FOR_ELEMENTS(choice_of);
PYALEXNET_FOR_ELEMENTS(conv_workspace);
template decltype(conv_fprop<float, float>) conv_fprop<float, float>;
template decltype(conv_fprop<bf16, bf16>) conv_fprop<bf16, bf16>;
template decltype(conv_fprop<bf16, float>) conv_fprop<bf16, float>;
PYALEXNET_FOR_ELEMENTS(conv_dgrad);
PYALEXNET_FOR_ELEMENTS(conv_wgrad);
PYALEXNET_FOR_ELEMENTS(conv_wgrad_sgd);

} // namespace pyalexnet

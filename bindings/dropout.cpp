#include "records.hpp"

namespace pyalexnet {
namespace {

// The mask on maps (images, ...): on x forward, on dy backward.
void mask_maps(Call& call, const char* x_name, handle x_, const char* y_name, handle y_,
               const MaskTuple& tuple) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<T>(x_name, x_);
        call.expect(!x.shape().empty(), x.title() + " has no dimensions; (N, ...) was expected");
        const auto y = call.output<T>(y_name, y_, x.shape(), Access::in_place);
        const std::int64_t images = x.dim(0), features = x.size() / images;
        const MaskArgument mask(call, tuple, images, features);
        call.launch([=](const T* from, T* to, const Dropped& dropped,
                        Stream s) { dropout(from, to, images, features, dropped.draw, s); },
                    x, y, mask);
    });
}

void dropout_fprop_op(Call& call, handle x, handle y, const MaskTuple& mask) {
    mask_maps(call, "x", x, "y", y, mask);
}

void dropout_dgrad_op(Call& call, handle dy, handle dx, const MaskTuple& mask) {
    mask_maps(call, "dy", dy, "dx", dx, mask);
}

const Ops dropout_ops([](py::module_& m) {
    define(m, "dropout_fprop", dropout_fprop_op, "x"_a, "y"_a, "mask"_a);
    define(m, "dropout_dgrad", dropout_dgrad_op, "dy"_a, "dx"_a, "mask"_a);
});

} // namespace
} // namespace pyalexnet

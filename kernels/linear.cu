// A linear layer is a convolution of images of one pixel: x (rows, 1, 1, inputs), w (outputs, 1, 1,
// inputs). Same main loops, same kernels.
#include "ops.h"

namespace pyalexnet {
namespace {

ConvShape as_convolution(LinearShape shape) {
    ConvShape conv{};
    conv.images = shape.rows;
    conv.channels = shape.inputs;
    conv.filters = shape.outputs;
    conv.height = conv.width = conv.filter_h = conv.filter_w = conv.out_height = conv.out_width = 1;
    conv.stride_h = conv.stride_w = conv.groups = 1;
    conv.towers = shape.towers;
    conv.unit = shape.unit;
    return conv;
}

} // namespace

template <class T> std::size_t linear_fprop_workspace(LinearShape shape) {
    return conv_fprop_workspace<T>(as_convolution(shape));
}
template <class T> std::size_t linear_dgrad_workspace(LinearShape shape) {
    return conv_dgrad_workspace<T>(as_convolution(shape));
}
template <class T> std::size_t linear_wgrad_workspace(LinearShape shape) {
    return conv_wgrad_workspace<T>(as_convolution(shape));
}

template <class T, class Y>
void linear_fprop(const T* x, const T* w, const float* b, Y* y, LinearShape shape,
                  Activation activation, const Dropped& dropped, void* workspace, Stream stream) {
    conv_fprop(x, w, b, y, as_convolution(shape), activation, dropped, workspace, stream);
}

template <class T> void linear_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                     LinearShape shape, void* workspace, Stream stream) {
    conv_dgrad(dy, w, gate, factor, dx, as_convolution(shape), workspace, stream);
}

template <class T> void linear_wgrad(const T* x, const T* dy, float* dw, float* db,
                                     LinearShape shape, void* workspace, Stream stream) {
    conv_wgrad(x, dy, dw, db, as_convolution(shape), workspace, stream);
}

template <class T> void linear_wgrad_sgd(const T* x, const T* dy, Learned<T> w, Rule w_rule,
                                         Learned<float> b, Rule b_rule, LinearShape shape,
                                         void* workspace, Stream stream) {
    conv_wgrad_sgd(x, dy, w, w_rule, b, b_rule, as_convolution(shape), workspace, stream);
}

template std::size_t linear_fprop_workspace<float>(LinearShape);
template std::size_t linear_dgrad_workspace<float>(LinearShape);
template std::size_t linear_wgrad_workspace<float>(LinearShape);
template void linear_fprop(const float*, const float*, const float*, float*, LinearShape,
                           Activation, const Dropped&, void*, Stream);
template void linear_dgrad(const float*, const float*, const float*, float, float*, LinearShape,
                           void*, Stream);
template void linear_wgrad(const float*, const float*, float*, float*, LinearShape, void*, Stream);
template void linear_wgrad_sgd(const float*, const float*, Learned<float>, Rule, Learned<float>,
                               Rule, LinearShape, void*, Stream);

template std::size_t linear_fprop_workspace<bf16>(LinearShape);
template std::size_t linear_dgrad_workspace<bf16>(LinearShape);
template std::size_t linear_wgrad_workspace<bf16>(LinearShape);
template void linear_fprop(const bf16*, const bf16*, const float*, bf16*, LinearShape, Activation,
                           const Dropped&, void*, Stream);
template void linear_fprop(const bf16*, const bf16*, const float*, float*, LinearShape, Activation,
                           const Dropped&, void*, Stream);
template void linear_dgrad(const bf16*, const bf16*, const bf16*, float, bf16*, LinearShape, void*,
                           Stream);
template void linear_wgrad(const bf16*, const bf16*, float*, float*, LinearShape, void*, Stream);
template void linear_wgrad_sgd(const bf16*, const bf16*, Learned<bf16>, Rule, Learned<float>, Rule,
                               LinearShape, void*, Stream);

} // namespace pyalexnet

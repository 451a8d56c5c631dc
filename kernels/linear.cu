// A linear layer is a convolution of images of one pixel: x (rows, 1, 1, inputs), w (outputs, 1, 1,
// inputs). Same main loop, same kernels; with one pixel and one tap the gather costs two compares.
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
    return conv;
}

} // namespace

std::size_t linear_fprop_workspace(LinearShape shape) {
    return conv_fprop_workspace(as_convolution(shape));
}

void linear_fprop(const float* x, const float* w, const float* b, float* y, LinearShape shape,
                  Activation activation, void* workspace, Stream stream) {
    conv_fprop(x, w, b, y, as_convolution(shape), activation, workspace, stream);
}

std::size_t linear_dgrad_workspace(LinearShape shape) {
    return conv_dgrad_workspace(as_convolution(shape));
}

void linear_dgrad(const float* dy, const float* w, float* dx, LinearShape shape, void* workspace,
                  Stream stream) {
    conv_dgrad(dy, w, dx, as_convolution(shape), workspace, stream);
}

std::size_t linear_wgrad_workspace(LinearShape shape) {
    return conv_wgrad_workspace(as_convolution(shape));
}

void linear_wgrad(const float* x, const float* dy, float* dw, float* db, LinearShape shape,
                  void* workspace, Stream stream) {
    conv_wgrad(x, dy, dw, db, as_convolution(shape), workspace, stream);
}

} // namespace pyalexnet

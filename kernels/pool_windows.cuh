// Which pixels a pooling window holds, and which windows a pixel lies in, along one axis.
#pragma once

#include "simt/simt.hpp"

namespace pyalexnet {

// Pixels, or windows, [first, end).
struct Span {
    int first, end;

    __device__ __forceinline__ int length() const { return end - first; }
};

// The pixels of window p, clipped to the image.
__device__ __forceinline__ Span window_pixels(int p, int size, int stride, int length) {
    const int first = p * stride;
    return {first, first + min(size, length - first)};
}

// The windows that hold pixel h, of `windows` in all.
__device__ __forceinline__ Span windows_of_pixel(int h, int size, int stride, int windows) {
    return {h < size ? 0 : (h - size) / stride + 1, min(h / stride + 1, windows)};
}

} // namespace pyalexnet

// Which convolutions compute their dx in patches; test_patch_dgrad.py compares this with what is
// intended. Reads lines of images, height, width, channels, filters, filter height and width,
// stride, padding, groups; answers each with 1 or 0.
#include "patch_dgrad.cuh"

#include <cstdio>

using namespace pyalexnet;

int main() {
    ConvShape s{};
    int stride, pad;
    while (std::scanf("%d%d%d%d%d%d%d%d%d%d", &s.images, &s.height, &s.width, &s.channels,
                      &s.filters, &s.filter_h, &s.filter_w, &stride, &pad, &s.groups) == 10) {
        s.stride_h = s.stride_w = stride;
        s.pad_top = s.pad_left = pad;
        s.out_height = (s.height + 2 * pad - s.filter_h) / stride + 1;
        s.out_width = (s.width + 2 * pad - s.filter_w) / stride + 1;
        const GemmSize gemm =
            gemm_size<Bf16Tiles>(s.groups, static_cast<int>(s.in_pixels()), s.channels / s.groups,
                                 s.filter_h * s.filter_w * (s.filters / s.groups));
        std::printf("%d\n", suits_patches(s, gemm));
    }
}

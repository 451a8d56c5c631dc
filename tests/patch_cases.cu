// By which loop convolutions of bfloat16 compute their dx; test_patch_dgrad.py compares this with
// what is intended. Reads lines of images, height, width, channels, filters, filter height and
// width, stride, padding, groups; answers each with a line of what choice_of says.
#include "choice.cuh"

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
        s.unit = Unit::mma;
        const Choice made = choice_of<bf16>(Pass::dgrad, s);
        std::printf("%s, tile %d x %d, %d parts\n", made.loop, made.tile_rows, made.tile_columns,
                    made.parts);
    }
}

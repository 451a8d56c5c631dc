// By which loop convolutions of bfloat16 compute their dx; test_patch_dgrad.py compares this with
// what is intended, as "patch_cases wgmma" on a Hopper. Reads lines of images, height, width,
// channels, filters, filter height and width, stride, padding (top, left, bottom, right), groups;
// answers each with a line of what choice_of says.
#include "choice.cuh"

#include <cstdio>
#include <cstring>

using namespace pyalexnet;

int main(int count, char** arguments) {
    ConvShape s{};
    s.unit = count > 1 && std::strcmp(arguments[1], "wgmma") == 0 ? Unit::wgmma : Unit::mma;
    int stride, bottom, right;
    while (std::scanf("%d%d%d%d%d%d%d%d%d%d%d%d%d", &s.images, &s.height, &s.width, &s.channels,
                      &s.filters, &s.filter_h, &s.filter_w, &stride, &s.pad_top, &s.pad_left,
                      &bottom, &right, &s.groups) == 13) {
        s.stride_h = s.stride_w = stride;
        s.out_height = (s.height + s.pad_top + bottom - s.filter_h) / stride + 1;
        s.out_width = (s.width + s.pad_left + right - s.filter_w) / stride + 1;
        const Choice made = choice_of<bf16>(Pass::dgrad, s);
        std::printf("%s, tile %d x %d, %d parts\n", made.loop, made.tile_rows, made.tile_columns,
                    made.parts);
    }
}

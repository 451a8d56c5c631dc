// Convolution: fprop, dgrad and wgrad as three matrix products of gemm.cuh.
//
//             rows         columns          depth                 A from   B from
//   fprop     output       filters of the   taps: filter row,     x        w
//             pixels       group            column, channel
//   dgrad     input        channels of the  filter row, column,   dy       w
//             pixels       group            filter of the group
//   wgrad     filters of   taps, and one    output pixels         dy       x
//             the group    for the bias
//
// A bias is the weight of a tap that always sees 1, so db is one more column of wgrad.
#include "gemm.cuh"

namespace pyalexnet {
namespace {

// What the kernels know of a convolution: ConvShape and what follows from it for one group.
struct Geometry {
    ConvShape shape;
    int group_channels;
    int group_filters;

    explicit Geometry(const ConvShape& s)
        : shape(s), group_channels(s.channels / s.groups), group_filters(s.filters / s.groups) {}
};

// A pixel of a map of `height` x `width`, as image, row and column.
struct Pixel {
    int image, row, column;
};

__device__ __forceinline__ Pixel pixel_at(int index, int height, int width) {
    const int line = index / width;
    return {line / height, line % height, index % width};
}

// Moves on by `count` pixels; few of them, so carrying is cheaper than dividing.
__device__ __forceinline__ void advance(Pixel& pixel, int count, int height, int width) {
    pixel.column += count;
    while (pixel.column >= width) {
        pixel.column -= width;
        if (++pixel.row == height) {
            pixel.row = 0;
            ++pixel.image;
        }
    }
}

// A tap of a filter: its row and column, and a channel (or, in dgrad, a filter) counted within the
// group. `depth` is its number.
struct Tap {
    int row, column, channel;
    int depth;
};

__device__ __forceinline__ Tap tap_at(int depth, int filter_w, int channels) {
    const int line = depth / channels;
    return {line / filter_w, line % filter_w, depth % channels, depth};
}

__device__ __forceinline__ void advance(Tap& tap, int count, int filter_w, int channels) {
    tap.depth += count;
    tap.channel += count;
    while (tap.channel >= channels) {
        tap.channel -= channels;
        if (++tap.column == filter_w) {
            tap.column = 0;
            ++tap.row;
        }
    }
}

// ---------------------------------------------------------------------- fprop

// x as (output pixels) x (taps).
struct Patches {
    static constexpr Contiguous kContiguous = Contiguous::depth;
    using Point = Tap;
    struct Line {
        std::int64_t image; // offset of the image and group in x; negative below the last pixel
        int row, column;    // of the patch's first pixel
    };
    const float* x;
    Geometry g;
    int group;

    __device__ Line line(int pixel) const {
        if (pixel >= g.shape.images * g.shape.out_height * g.shape.out_width) return {-1, 0, 0};
        const Pixel out = pixel_at(pixel, g.shape.out_height, g.shape.out_width);
        const std::int64_t image = std::int64_t{out.image} * g.shape.height * g.shape.width;
        return {image * g.shape.channels + group * g.group_channels,
                out.row * g.shape.stride_h - g.shape.pad_top,
                out.column * g.shape.stride_w - g.shape.pad_left};
    }
    __device__ Point point(int depth) const {
        return tap_at(depth, g.shape.filter_w, g.group_channels);
    }
    __device__ void advance(Point& tap, int count) const {
        pyalexnet::advance(tap, count, g.shape.filter_w, g.group_channels);
    }
    __device__ float load(const Line& patch, const Point& tap, int depth_end) const {
        const int row = patch.row + tap.row;
        const int column = patch.column + tap.column;
        const bool inside = tap.depth < depth_end && patch.image >= 0 && row >= 0 && column >= 0 &&
                            row < g.shape.height && column < g.shape.width;
        if (!inside) return 0.0f;
        return x[patch.image + (std::int64_t{row} * g.shape.width + column) * g.shape.channels +
                 tap.channel];
    }
};

// w as (taps) x (filters of the group).
struct Filters {
    static constexpr Contiguous kContiguous = Contiguous::depth;
    using Line = std::int64_t; // offset of the filter; negative behind the last one
    using Point = int;
    const float* w;
    int taps;
    int group_filters;
    int group;

    __device__ Line line(int filter) const {
        if (filter >= group_filters) return -1;
        return (std::int64_t{group} * group_filters + filter) * taps;
    }
    __device__ Point point(int depth) const { return depth; }
    __device__ void advance(Point& depth, int count) const { depth += count; }
    __device__ float load(Line filter, Point depth, int depth_end) const {
        return filter >= 0 && depth < depth_end ? w[filter + depth] : 0.0f;
    }
};

struct ConvFprop {
    using A = Patches;
    using B = Filters;
    const float* x;
    const float* w;
    const float* bias;
    float* y;
    Geometry g;
    int taps;
    Activation activation;

    __device__ A a(int group) const { return {x, g, group}; }
    __device__ B b(int group) const { return {w, taps, g.group_filters, group}; }
    __device__ float* at(int group, int pixel, int filter) const {
        return y + std::int64_t{pixel} * g.shape.filters + group * g.group_filters + filter;
    }
    __device__ float finish(int group, int filter, float sum) const {
        if (bias) sum += bias[group * g.group_filters + filter];
        return activate(sum, activation);
    }
};

// ---------------------------------------------------------------------- dgrad

// dy as (input pixels) x (filter row, column, filter): which output pixel saw an input pixel
// through which tap.
struct Sightings {
    static constexpr Contiguous kContiguous = Contiguous::depth;
    using Point = Tap;
    struct Line {
        std::int64_t image; // offset of the image and group in dy; negative below the last pixel
        int row, column;    // padded: where tap (0, 0) of output pixel (0, 0) has 0
    };
    const float* dy;
    Geometry g;
    int group;

    __device__ Line line(int pixel) const {
        if (pixel >= g.shape.images * g.shape.height * g.shape.width) return {-1, 0, 0};
        const Pixel in = pixel_at(pixel, g.shape.height, g.shape.width);
        const std::int64_t image = std::int64_t{in.image} * g.shape.out_height * g.shape.out_width;
        return {image * g.shape.filters + group * g.group_filters, in.row + g.shape.pad_top,
                in.column + g.shape.pad_left};
    }
    __device__ Point point(int depth) const {
        return tap_at(depth, g.shape.filter_w, g.group_filters);
    }
    __device__ void advance(Point& tap, int count) const {
        pyalexnet::advance(tap, count, g.shape.filter_w, g.group_filters);
    }
    __device__ float load(const Line& pixel, const Point& tap, int depth_end) const {
        int row = pixel.row - tap.row;
        int column = pixel.column - tap.column;
        if (tap.depth >= depth_end || pixel.image < 0 || row < 0 || column < 0) return 0.0f;
        if (!divide(row, g.shape.stride_h) || !divide(column, g.shape.stride_w)) return 0.0f;
        if (row >= g.shape.out_height || column >= g.shape.out_width) return 0.0f;
        return dy[pixel.image + (std::int64_t{row} * g.shape.out_width + column) * g.shape.filters +
                  tap.channel];
    }

  private:
    // Between the strides no output pixel looks.
    __device__ static bool divide(int& offset, int stride) {
        if (stride == 1) return true;
        const int quotient = offset / stride;
        const bool exact = quotient * stride == offset;
        offset = quotient;
        return exact;
    }
};

// w as (filter row, column, filter) x (channels of the group).
struct FiltersByChannel {
    static constexpr Contiguous kContiguous = Contiguous::line;
    using Line = int;
    using Point = Tap;
    const float* w;
    Geometry g;
    int group;

    __device__ Line line(int channel) const { return channel < g.group_channels ? channel : -1; }
    __device__ Point point(int depth) const {
        return tap_at(depth, g.shape.filter_w, g.group_filters);
    }
    __device__ void advance(Point& tap, int count) const {
        pyalexnet::advance(tap, count, g.shape.filter_w, g.group_filters);
    }
    __device__ float load(Line channel, const Point& tap, int depth_end) const {
        if (channel < 0 || tap.depth >= depth_end) return 0.0f;
        const std::int64_t filter = std::int64_t{group} * g.group_filters + tap.channel;
        const std::int64_t row = filter * g.shape.filter_h + tap.row;
        return w[(row * g.shape.filter_w + tap.column) * g.group_channels + channel];
    }
};

struct ConvDgrad {
    using A = Sightings;
    using B = FiltersByChannel;
    const float* dy;
    const float* w;
    float* dx;
    Geometry g;

    __device__ A a(int group) const { return {dy, g, group}; }
    __device__ B b(int group) const { return {w, g, group}; }
    __device__ float* at(int group, int pixel, int channel) const {
        return dx + std::int64_t{pixel} * g.shape.channels + group * g.group_channels + channel;
    }
    __device__ float finish(int, int, float sum) const { return sum; }
};

// ---------------------------------------------------------------------- wgrad

// dy as (filters of the group) x (output pixels).
struct Errors {
    static constexpr Contiguous kContiguous = Contiguous::line;
    using Line = int;
    using Point = int;
    const float* dy;
    int filters;
    int group_filters;
    int group;

    __device__ Line line(int filter) const {
        return filter < group_filters ? group * group_filters + filter : -1;
    }
    __device__ Point point(int depth) const { return depth; }
    __device__ void advance(Point& pixel, int count) const { pixel += count; }
    __device__ float load(Line filter, Point pixel, int depth_end) const {
        return filter >= 0 && pixel < depth_end ? dy[std::int64_t{pixel} * filters + filter] : 0.0f;
    }
};

// x as (output pixels) x (taps, then the one that always sees 1).
struct PatchesAndOne {
    static constexpr Contiguous kContiguous = Contiguous::line;
    struct Line {
        Tap tap;
        enum class Sees { nothing, pixels, one } sees;
    };
    struct Point {
        Pixel pixel;
        int depth;
    };
    const float* x;
    Geometry g;
    int taps;
    int group;

    __device__ Line line(int column) const {
        const Tap tap = tap_at(column, g.shape.filter_w, g.group_channels);
        if (column < taps) return {tap, Line::Sees::pixels};
        return {tap, column == taps ? Line::Sees::one : Line::Sees::nothing};
    }
    __device__ Point point(int depth) const {
        return {pixel_at(depth, g.shape.out_height, g.shape.out_width), depth};
    }
    __device__ void advance(Point& point, int count) const {
        point.depth += count;
        pyalexnet::advance(point.pixel, count, g.shape.out_height, g.shape.out_width);
    }
    __device__ float load(const Line& line, const Point& point, int depth_end) const {
        if (point.depth >= depth_end || line.sees == Line::Sees::nothing) return 0.0f;
        if (line.sees == Line::Sees::one) return 1.0f;
        const int row = point.pixel.row * g.shape.stride_h - g.shape.pad_top + line.tap.row;
        const int column =
            point.pixel.column * g.shape.stride_w - g.shape.pad_left + line.tap.column;
        const bool inside =
            row >= 0 && column >= 0 && row < g.shape.height && column < g.shape.width;
        if (!inside) return 0.0f;
        const std::int64_t in_row = std::int64_t{point.pixel.image} * g.shape.height + row;
        return x[(in_row * g.shape.width + column) * g.shape.channels + group * g.group_channels +
                 line.tap.channel];
    }
};

struct ConvWgrad {
    using A = Errors;
    using B = PatchesAndOne;
    const float* x;
    const float* dy;
    float* dw;
    float* db;
    Geometry g;
    int taps;

    __device__ A a(int group) const { return {dy, g.shape.filters, g.group_filters, group}; }
    __device__ B b(int group) const { return {x, g, taps, group}; }
    __device__ float* at(int group, int filter, int tap) const {
        const int k = group * g.group_filters + filter;
        return tap < taps ? dw + std::int64_t{k} * taps + tap : db + k;
    }
    __device__ float finish(int, int, float sum) const { return sum; }
};

// ---------------------------------------------------------------------- sizes

GemmSize fprop_size(const ConvShape& s) {
    return gemm_size_as_whole(s.groups, static_cast<int>(s.out_pixels()), s.filters / s.groups,
                              static_cast<int>(s.taps()), s.filters * s.towers);
}

GemmSize dgrad_size(const ConvShape& s) {
    return gemm_size(s.groups, static_cast<int>(s.in_pixels()), s.channels / s.groups,
                     s.filter_h * s.filter_w * (s.filters / s.groups));
}

GemmSize wgrad_size(const ConvShape& s) {
    return gemm_size(s.groups, s.filters / s.groups, static_cast<int>(s.taps()) + 1,
                     static_cast<int>(s.out_pixels()));
}

} // namespace

std::size_t conv_fprop_workspace(const ConvShape& shape) {
    return gemm_workspace(fprop_size(shape));
}
std::size_t conv_dgrad_workspace(const ConvShape& shape) {
    return gemm_workspace(dgrad_size(shape));
}
std::size_t conv_wgrad_workspace(const ConvShape& shape) {
    return gemm_workspace(wgrad_size(shape));
}

void conv_fprop(const float* x, const float* w, const float* b, float* y, const ConvShape& shape,
                Activation activation, void* workspace, Stream stream) {
    const ConvFprop problem{x,         w, b, y, Geometry(shape), static_cast<int>(shape.taps()),
                            activation};
    gemm(problem, fprop_size(shape), workspace, stream);
}

void conv_dgrad(const float* dy, const float* w, float* dx, const ConvShape& shape, void* workspace,
                Stream stream) {
    gemm(ConvDgrad{dy, w, dx, Geometry(shape)}, dgrad_size(shape), workspace, stream);
}

void conv_wgrad(const float* x, const float* dy, float* dw, float* db, const ConvShape& shape,
                void* workspace, Stream stream) {
    const ConvWgrad problem{x, dy, dw, db, Geometry(shape), static_cast<int>(shape.taps())};
    gemm(problem, wgrad_size(shape), workspace, stream);
}

} // namespace pyalexnet

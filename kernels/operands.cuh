// What the matrix products of gemm.cuh and tensor.cuh multiply: maps and filters, gathered while
// they are loaded, so that no unrolled copy of them exists.
//
// A gather is a matrix that need not lie in memory as one. Its rows may lie anywhere, the elements
// of a row side by side in runs. It says where an element is in three steps, so that a thread which
// stays in a row or in a column does that part once:
//
//   Row row(int i), Column column(int j)    what is to be known of either alone
//   Found<T> find(Row, Column)              the element's place; outside the map it is 0
//
// An operand is a gather and which way the product runs through it: AlongRows or AcrossRows.
#pragma once

#include <climits>

#include "bf16.cuh"

namespace pyalexnet {

// Division of numbers below 2^31 by a number that is the same for all: one product and a shift
// (Granlund and Montgomery: Division by invariant integers using multiplication; PLDI 1994).
class Divisor {
  public:
    explicit Divisor(int divisor) : divisor_(divisor) {
        while ((std::int64_t{1} << shift_) < divisor) ++shift_;
        const std::int64_t excess = (std::int64_t{1} << shift_) - divisor;
        multiplier_ = static_cast<unsigned>((excess << 32) / divisor + 1);
    }

    __device__ __forceinline__ int quotient(int value) const {
        const auto n = static_cast<unsigned>(value);
        return static_cast<int>((__umulhi(n, multiplier_) + n) >> shift_);
    }
    __device__ __forceinline__ int remainder(int value, int quotient) const {
        return value - quotient * divisor_;
    }

  private:
    int divisor_;
    unsigned multiplier_ = 0;
    unsigned shift_ = 0;
};

// Two digits of a number: of pixels, those of a row; of taps, those of a filter's row.
struct Digits {
    int high, low;
};

__device__ __forceinline__ Digits divide(int value, const Divisor& divisor) {
    const int high = divisor.quotient(value);
    return {high, divisor.remainder(value, high)};
}

// What the kernels know of a convolution: ConvShape and what follows from it for one group.
struct Geometry {
    ConvShape shape;
    int group_channels;
    int group_filters;
    int taps; // of one filter
    int in_pixels, out_pixels;
    Divisor by_width, by_height, by_out_width, by_out_height;
    Divisor by_filter_w, by_group_channels, by_group_filters;
    Divisor by_stride_h, by_stride_w;

    explicit Geometry(const ConvShape& s)
        : shape(s), group_channels(s.channels / s.groups), group_filters(s.filters / s.groups),
          taps(static_cast<int>(s.taps())), in_pixels(static_cast<int>(s.in_pixels())),
          out_pixels(static_cast<int>(s.out_pixels())), by_width(s.width), by_height(s.height),
          by_out_width(s.out_width), by_out_height(s.out_height), by_filter_w(s.filter_w),
          by_group_channels(group_channels), by_group_filters(group_filters),
          by_stride_h(s.stride_h), by_stride_w(s.stride_w) {}
};

// A pixel of a map, as image, row and column.
struct Pixel {
    int image, row, column;
};

__device__ __forceinline__ Pixel pixel_at(int index, const Divisor& height, const Divisor& width) {
    const Digits line = divide(index, width);
    const Digits image = divide(line.high, height);
    return {image.high, image.low, line.low};
}

// A tap of a filter: its row and column, and a channel (or, in dgrad, a filter) counted within the
// group.
struct Tap {
    int row, column, channel;
};

__device__ __forceinline__ Tap tap_at(int index, const Divisor& filter_w, const Divisor& channels) {
    const Digits place = divide(index, channels);
    const Digits line = divide(place.high, filter_w);
    return {line.high, line.low, place.low};
}

// Where an element is; some element where it is outside.
template <class T> struct Found {
    const T* at;
    bool inside;
};

__device__ __forceinline__ bool below(int value, int bound) {
    return static_cast<unsigned>(value) < static_cast<unsigned>(bound);
}

// ---------------------------------------------------------------------- gathers

// One that does lie in memory as a matrix: filters as (filters of the group) x (taps), and dy as
// (output pixels) x (filters of the group).
template <class T> struct Matrix {
    using Element = T;
    using Row = const T*; // null behind the last one
    using Column = int;   // -1 behind the last one
    const T* data;
    int rows, columns;
    int pitch; // elements from one row to the next

    __device__ Row row(int i) const { return i < rows ? data + std::int64_t{i} * pitch : nullptr; }
    __device__ Column column(int j) const { return j < columns ? j : -1; }
    __device__ __forceinline__ Found<T> find(Row row, Column column) const {
        const bool inside = row != nullptr && column >= 0;
        return {inside ? row + column : data, inside};
    }
};

// x as (output pixels) x (taps): the patches that a group's filters see.
template <class T> struct Patches {
    using Element = T;
    struct Row {
        std::int64_t image; // offset of the image and group in x
        int row, column;    // of the patch's first pixel
    };
    using Column = Tap;
    const T* x;
    Geometry g;
    int group;

    __device__ Row row(int pixel) const {
        if (pixel >= g.out_pixels) return {0, INT_MIN, 0}; // above every image
        const Pixel out = pixel_at(pixel, g.by_out_height, g.by_out_width);
        const std::int64_t image = std::int64_t{out.image} * g.shape.height * g.shape.width;
        return {image * g.shape.channels + group * g.group_channels,
                out.row * g.shape.stride_h - g.shape.pad_top,
                out.column * g.shape.stride_w - g.shape.pad_left};
    }
    __device__ Column column(int tap) const {
        if (tap >= g.taps) return {0, 0, -1};
        return tap_at(tap, g.by_filter_w, g.by_group_channels);
    }
    __device__ __forceinline__ Found<T> find(const Row& patch, const Tap& tap) const {
        const int row = patch.row + tap.row;
        const int column = patch.column + tap.column;
        if (!below(row, g.shape.height) || !below(column, g.shape.width) || tap.channel < 0)
            return {x, false};
        const std::int64_t pixel = row * g.shape.width + column;
        return {x + (patch.image + pixel * g.shape.channels + tap.channel), true};
    }
};

// dy as (input pixels) x (filter row, column, filter of the group): which output pixel saw an input
// pixel through which tap. Between the strides none did.
template <class T> struct Sightings {
    using Element = T;
    struct Row {
        std::int64_t image; // offset of the image and group in dy
        int row, column;    // padded: where tap (0, 0) of output pixel (0, 0) has 0
    };
    using Column = Tap;
    const T* dy;
    Geometry g;
    int group;

    __device__ Row row(int pixel) const {
        if (pixel >= g.in_pixels) return {0, -1, 0}; // above the first tap
        const Pixel in = pixel_at(pixel, g.by_height, g.by_width);
        const std::int64_t image = std::int64_t{in.image} * g.shape.out_height * g.shape.out_width;
        return {image * g.shape.filters + group * g.group_filters, in.row + g.shape.pad_top,
                in.column + g.shape.pad_left};
    }
    __device__ Column column(int tap) const {
        return tap_at(tap, g.by_filter_w, g.by_group_filters);
    }
    __device__ __forceinline__ Found<T> find(const Row& pixel, const Tap& tap) const {
        const int row = pixel.row - tap.row;
        const int column = pixel.column - tap.column;
        if (row < 0 || column < 0) return {dy, false};
        const Digits down = divide(row, g.by_stride_h);
        const Digits across = divide(column, g.by_stride_w);
        if (down.low != 0 || across.low != 0 || down.high >= g.shape.out_height ||
            across.high >= g.shape.out_width)
            return {dy, false};
        const std::int64_t place = down.high * g.shape.out_width + across.high;
        return {dy + (pixel.image + place * g.shape.filters + tap.channel), true};
    }
};

// w as (filter row, column, filter of the group) x (channels of the group).
template <class T> struct FiltersByTap {
    using Element = T;
    using Row = const T*;
    using Column = int; // -1 behind the last one
    const T* w;
    Geometry g;
    int group;

    __device__ Row row(int tap_index) const {
        const Tap tap = tap_at(tap_index, g.by_filter_w, g.by_group_filters);
        const std::int64_t filter = std::int64_t{group} * g.group_filters + tap.channel;
        const std::int64_t line = filter * g.shape.filter_h + tap.row;
        return w + (line * g.shape.filter_w + tap.column) * g.group_channels;
    }
    __device__ Column column(int channel) const {
        return channel < g.group_channels ? channel : -1;
    }
    __device__ __forceinline__ Found<T> find(Row taps, Column channel) const {
        const bool inside = channel >= 0;
        return {inside ? taps + channel : w, inside};
    }
};

// ---------------------------------------------------------------------- operands

// How an operand's elements lie in memory, which decides how threads share the loading of a slice.
enum class Contiguous { depth, line };

// The gather's rows are the product's rows (or columns), the depth runs along them.
template <class Gather> struct AlongRows {
    static constexpr Contiguous kContiguous = Contiguous::depth;
    using Element = typename Gather::Element;
    using Line = typename Gather::Row;
    using Point = typename Gather::Column;
    Gather gather;

    __device__ Line line(int i) const { return gather.row(i); }
    __device__ Point point(int depth) const { return gather.column(depth); }
    __device__ __forceinline__ Found<Element> find(const Line& line, const Point& point) const {
        return gather.find(line, point);
    }
};

// The gather's columns are the product's rows (or columns), the depth runs from row to row.
template <class Gather> struct AcrossRows {
    static constexpr Contiguous kContiguous = Contiguous::line;
    using Element = typename Gather::Element;
    using Line = typename Gather::Column;
    using Point = typename Gather::Row;
    Gather gather;

    __device__ Line line(int i) const { return gather.column(i); }
    __device__ Point point(int depth) const { return gather.row(depth); }
    __device__ __forceinline__ Found<Element> find(const Line& line, const Point& point) const {
        return gather.find(point, line);
    }
};

// Another operand and one line more, of ones: the product's last column are the row sums of A.
template <class Operand> struct AndOnes {
    static constexpr Contiguous kContiguous = Operand::kContiguous;
    using Element = typename Operand::Element;
    struct Line {
        typename Operand::Line line;
        bool ones;
    };
    using Point = typename Operand::Point;
    Operand operand;
    int lines; // of the other

    __device__ Line line(int i) const { return {operand.line(i), i == lines}; }
    __device__ Point point(int depth) const { return operand.point(depth); }
};

// An element as float32.
template <class Operand>
__device__ __forceinline__ float element(const Operand& operand, const typename Operand::Line& line,
                                         const typename Operand::Point& point) {
    const Found<typename Operand::Element> found = operand.find(line, point);
    return found.inside ? widen(*found.at) : 0.0f;
}
template <class Operand>
__device__ __forceinline__ float element(const AndOnes<Operand>& operand,
                                         const typename AndOnes<Operand>::Line& line,
                                         const typename Operand::Point& point) {
    return line.ones ? 1.0f : element(operand.operand, line.line, point);
}

} // namespace pyalexnet

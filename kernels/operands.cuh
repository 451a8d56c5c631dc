// What the matrix products of gemm.cuh, tensor.cuh and hopper.cuh multiply: maps and filters,
// gathered while they are loaded, so that no unrolled copy of them exists.
//
// A gather is a matrix that need not lie in memory as one. Its rows may lie anywhere, the elements
// of a row side by side in runs. It says where an element is in three steps, so that a thread which
// stays in a row or in a column does that part once:
//
//   Row row(int i), Column column(int j)    what follows from either alone; Row no_row() and Column
//                                           no_column() stand for one that does not exist
//   Location<T> find(Row, Column)           the element's place; outside the map it is 0
//
// An operand is a gather and the direction in which the product runs through it: AlongRows or
// AcrossRows; or such an operand AndOnes. Loaders check the depth themselves: elements past its end
// are never read.
#pragma once

#include <climits>

#include "bf16.cuh"

namespace pyalexnet {

// Two digits of an index, such as the row and the column of a pixel or of a tap.
struct Digits {
    int high, low;
};

// Division of numbers below 2^31 by an invariant number: one product and a shift (Granlund and
// Montgomery: Division by invariant integers using multiplication; PLDI 1994).
class Divisor {
  public:
    explicit Divisor(int divisor) : divisor_(divisor) {
        while ((std::int64_t{1} << shift_) < divisor) ++shift_;
        const std::int64_t excess = (std::int64_t{1} << shift_) - divisor;
        multiplier_ = static_cast<unsigned>((excess << 32) / divisor + 1);
    }

    // Quotient and remainder.
    __device__ __forceinline__ Digits divide(int value) const {
        const auto n = static_cast<unsigned>(value);
        const int quotient = static_cast<int>((__umulhi(n, multiplier_) + n) >> shift_);
        return {quotient, value - quotient * divisor_};
    }

  private:
    int divisor_;
    unsigned multiplier_ = 0;
    unsigned shift_ = 0;
};

// What the kernels know of a convolution: ConvShape and what follows from it for one group.
struct Geometry {
    ConvShape shape;
    int group_channels = shape.channels / shape.groups;
    int group_filters = shape.filters / shape.groups;
    int taps = static_cast<int>(shape.taps()); // of one filter
    int in_pixels = static_cast<int>(shape.in_pixels());
    int out_pixels = static_cast<int>(shape.out_pixels());
    int image_pixels = shape.height * shape.width; // of one image
    int out_image_pixels = shape.out_height * shape.out_width;
    Divisor by_width{shape.width}, by_height{shape.height};
    Divisor by_out_width{shape.out_width}, by_out_height{shape.out_height};
    Divisor by_filter_w{shape.filter_w};
    Divisor by_group_channels{group_channels}, by_group_filters{group_filters};
    Divisor by_stride_h{shape.stride_h}, by_stride_w{shape.stride_w};
};

// A pixel of a map.
struct Pixel {
    int image, row, column;
};

// A tap of a filter; the channel (or, in dgrad, the filter) is counted within the group.
struct Tap {
    int row, column, channel;
};

// A Pixel or a Tap, from its number: its last two digits count to `middle` and `last`.
template <class Three>
__device__ __forceinline__ Three digits_of(int number, const Divisor& middle, const Divisor& last) {
    const Digits line = last.divide(number);
    const Digits first = middle.divide(line.high);
    return {first.high, first.low, line.low};
}

// Where an element is, if it is inside; otherwise `at` is not valid.
template <class T> struct Location {
    const T* at;
    bool inside;
};

__device__ __forceinline__ bool below(int value, int bound) {
    return static_cast<unsigned>(value) < static_cast<unsigned>(bound);
}

// Products and sums of coordinates that may lie outside: they wrap.
__device__ __forceinline__ int index_of(int first, int row, int width, int column) {
    return static_cast<int>(static_cast<unsigned>(first) +
                            static_cast<unsigned>(row) * static_cast<unsigned>(width) +
                            static_cast<unsigned>(column));
}
template <class T>
__device__ __forceinline__ const T* element_of(const T* map, int pixel, int channels, int channel) {
    return map + (std::int64_t{pixel} * channels + channel);
}

// How far it is from one pixel of a map to another, either of which may lie outside. 16 bytes,
// which a thread reads from shared memory at once.
struct alignas(16) Offset {
    int rows, columns;
    std::int64_t bytes;
};

// The same in eight bytes, which a warp reads from shared memory sooner: of a map that is_near
// (choice.cuh) says is small enough, from one pixel to another.
struct NearOffset {
    short rows, columns;
    int chunks;

    NearOffset() = default;
    __device__ explicit NearOffset(const Offset& far)
        : rows(static_cast<short>(max(far.rows, SHRT_MIN))),
          columns(static_cast<short>(far.columns)), chunks(static_cast<int>(far.bytes / 16)) {}
    __device__ operator Offset() const { return {rows, columns, std::int64_t{chunks} * 16}; }
};

// To a channel of a pixel: (row, column) of an image that begins with pixel `first` of a map.
template <class T> __device__ __forceinline__ Offset offset_to(int first, int row, int column,
                                                               int width, int channels,
                                                               int channel) {
    const std::int64_t pixel = first + std::int64_t{row} * width + column;
    return {row, column, (pixel * channels + channel) * static_cast<int>(sizeof(T))};
}

// The element of a map of height x width pixels that is the sum of two offsets from its first.
template <class T> __device__ __forceinline__ Location<T>
element_at(const T* map, const Offset& first, const Offset& then, int height, int width) {
    const auto sum = [](int a, int b) {
        return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
    };
    const char* const begin = reinterpret_cast<const char*>(map);
    return {reinterpret_cast<const T*>(begin + first.bytes + then.bytes),
            below(sum(first.rows, then.rows), height) &&
                below(sum(first.columns, then.columns), width)};
}

// ---------------------------------------------------------------------- gathers

// A gather that does lie in memory as a matrix: filters as (filters of the group) x (taps), and dy
// as (output pixels) x (filters of the group).
template <class T> struct Matrix {
    using Element = T;
    using Row = const T*;
    using Column = int;
    const T* data;
    int rows, columns;
    int pitch; // elements from one row to the next

    __device__ Row row(int i) const { return data + std::int64_t{i} * pitch; }
    __device__ Row no_row() const { return nullptr; }
    __device__ Column column(int j) const { return j; }
    __device__ Column no_column() const { return -1; }
    __device__ __forceinline__ Location<T> find(Row row, Column column) const {
        return {row + column, row != nullptr && column >= 0};
    }
};

// x as (output pixels) x (taps): the patches that a group's filters see.
template <class T> struct Patches {
    using Element = T;
    using Row = Offset;    // of the patch's first pixel from x's first
    using Column = Offset; // of the tap from there
    const T* x;            // from the group's first channel on
    Geometry g;
    int rows = g.out_pixels;
    int columns = g.taps;

    __device__ Row row(int pixel) const {
        const auto out = digits_of<Pixel>(pixel, g.by_out_height, g.by_out_width);
        const int row = out.row * g.shape.stride_h - g.shape.pad_top;
        const int column = out.column * g.shape.stride_w - g.shape.pad_left;
        return offset(out.image * g.image_pixels, row, column, 0);
    }
    __device__ Column column(int number) const {
        const auto tap = digits_of<Tap>(number, g.by_filter_w, g.by_group_channels);
        return offset(0, tap.row, tap.column, tap.channel);
    }
    // Above every image, whatever row of a tap or of a pixel is added.
    __device__ Row no_row() const { return {INT_MIN, 0, 0}; }
    __device__ Column no_column() const { return {INT_MIN, 0, 0}; }

    __device__ __forceinline__ Location<T> find(const Row& patch, const Column& tap) const {
        return element_at(x, patch, tap, g.shape.height, g.shape.width);
    }

  private:
    __device__ Offset offset(int first, int row, int column, int channel) const {
        return offset_to<T>(first, row, column, g.shape.width, g.shape.channels, channel);
    }
};

// dy as (input pixels) x (filter row, column, filter of the group): which output pixel saw an input
// pixel through which tap. With a stride there may be none.
template <class T, bool unit_stride> struct Sightings {
    using Element = T;
    using Row = Offset;    // of the pixel that saw it through tap (0, 0), if the stride were 1
    using Column = Offset; // from there to the pixel that saw it through the tap
    const T* dy;           // from the group's first filter on
    Geometry g;
    int rows = g.in_pixels;

    __device__ Row row(int pixel) const {
        const auto in = digits_of<Pixel>(pixel, g.by_height, g.by_width);
        const int row = in.row + g.shape.pad_top, column = in.column + g.shape.pad_left;
        return offset(in.image * g.out_image_pixels, row, column, 0);
    }
    __device__ Row no_row() const { return {-1, 0, 0}; } // above the first tap
    __device__ Column column(int number) const {
        const auto tap = digits_of<Tap>(number, g.by_filter_w, g.by_group_filters);
        return offset(0, -tap.row, -tap.column, tap.channel);
    }
    __device__ __forceinline__ Location<T> find(const Row& pixel, const Column& tap) const {
        const int height = g.shape.out_height, width = g.shape.out_width;
        if constexpr (unit_stride) {
            return element_at(dy, pixel, tap, height, width);
        } else {
            const int row = pixel.rows + tap.rows, column = pixel.columns + tap.columns;
            const Digits down = g.by_stride_h.divide(row), across = g.by_stride_w.divide(column);
            Offset seen = offset(0, down.high, across.high, 0);
            seen.bytes += pixel.bytes + tap.bytes - offset(0, row, column, 0).bytes;
            const Location<T> found = element_at(dy, seen, {}, height, width);
            const bool whole = row >= 0 && column >= 0 && down.low == 0 && across.low == 0;
            return {found.at, found.inside && whole};
        }
    }

  private:
    __device__ Offset offset(int first, int row, int column, int channel) const {
        return offset_to<T>(first, row, column, g.shape.out_width, g.shape.filters, channel);
    }
};

// w as (filter row, column, filter of the group) x (channels of the group).
template <class T> struct FiltersByTap {
    using Element = T;
    using Row = const T*;
    using Column = int;
    const T* w; // from the group's first filter on
    Geometry g;
    int columns = g.group_channels;

    __device__ Row row(int index) const {
        const Digits tap = g.by_group_filters.divide(index); // place in the filter, filter
        return w + (std::int64_t{tap.low} * g.taps + tap.high * g.group_channels);
    }
    __device__ Column column(int channel) const { return channel; }
    __device__ Column no_column() const { return -1; }
    __device__ __forceinline__ Location<T> find(Row taps, Column channel) const {
        return {taps + channel, channel >= 0};
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

    __device__ Line line(int i) const { return i < gather.rows ? gather.row(i) : gather.no_row(); }
    __device__ Point point(int depth) const { return gather.column(depth); }
    __device__ __forceinline__ Location<Element> find(const Line& line, const Point& point) const {
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

    __device__ Line line(int i) const {
        return i < gather.columns ? gather.column(i) : gather.no_column();
    }
    __device__ Point point(int depth) const { return gather.row(depth); }
    __device__ __forceinline__ Location<Element> find(const Line& line, const Point& point) const {
        return gather.find(point, line);
    }
};

// Another operand plus a line of ones: the product's last column then holds the row sums of A. The
// ones lie nowhere: to find() they are outside, above every image, and a loader provides them.
template <class Operand> struct AndOnes : Operand {
    static_assert(Operand::kContiguous == Contiguous::line); // 16 bytes of it are a one, then zeros
    static constexpr int kRows = INT_MIN + 1;
    int ones; // the number of their line

    __device__ Offset line(int i) const {
        return i == ones ? Offset{kRows, 0, 0} : Operand::line(i);
    }
};

template <class Operand>
__device__ constexpr bool is_ones(const Operand&, const typename Operand::Line&) {
    return false;
}
template <class Operand> __device__ bool is_ones(const AndOnes<Operand>&, const Offset& line) {
    return line.rows == AndOnes<Operand>::kRows;
}

// An element as float32.
template <class Operand>
__device__ __forceinline__ float element(const Operand& operand, const typename Operand::Line& line,
                                         const typename Operand::Point& point) {
    if (is_ones(operand, line)) return 1.0f;
    const Location<typename Operand::Element> found = operand.find(line, point);
    return found.inside ? widen(*found.at) : 0.0f;
}

} // namespace pyalexnet

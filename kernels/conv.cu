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
// A bias is the weight of a tap that always sees 1, so db is one more column of wgrad: the sums of
// dy's rows. For the float32 units x has a line of ones; the tensor cores' loop sums separately, so
// that the taps of most layers fill their tiles.
#include "gemm.cuh"
#include "patch_dgrad.cuh"

#include <algorithm>

namespace pyalexnet {
namespace {

// True if a loader may read rows eight elements at a time: these are always contiguous and aligned
// to 16 bytes.
bool in_vectors(int extent, int whole_extent, const void* data) {
    return extent % kChunk == 0 && whole_extent % kChunk == 0 &&
           reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

// How the operands are multiplied and loaded.
template <class Tiles_, bool vectors_> struct Way {
    using Tiles = Tiles_;
    using Element = typename Tiles::Element;
    static constexpr bool vectors = vectors_;
};

// How operands are laid out: both in whole vectors; and the one that Hopper's loop loads by TMA (B,
// if TiledB) so that each slice is a rectangle of a matrix.
struct Lies {
    bool in_vectors;
    bool in_tiles;
};

// Calls `use` with the Way for operands of type T: the float32 units' loop uses no vectors.
template <class T, class Use> void with_way(Unit unit, Lies lies, Use use) {
    if constexpr (std::is_same_v<T, bf16>) {
        if (!lies.in_vectors) return use(Way<Bf16Tiles, false>{});
        if (unit == Unit::wgmma && lies.in_tiles) return use(Way<HopperTiles, true>{});
        return use(Way<Bf16Tiles, true>{});
    } else {
        if (unit == Unit::fma) return use(Way<FloatTiles, false>{});
        return lies.in_vectors ? use(Way<SplitTiles, true>{}) : use(Way<SplitTiles, false>{});
    }
}

// Where a group's part begins: in x and dx at its first channel, in y and dy at that of its first
// filter, in w at its first filter.
template <class T> __device__ const T* group_of_x(const T* x, const Geometry& g, int group) {
    return x + group * g.group_channels;
}
template <class T> __device__ const T* group_of_dy(const T* dy, const Geometry& g, int group) {
    return dy + group * g.group_filters;
}
template <class T> __device__ const T* group_of_w(const T* w, const Geometry& g, int group) {
    return w + std::int64_t{group} * g.group_filters * g.taps;
}

template <class Way> struct ConvFprop : Way {
    using T = typename Way::Element;
    using A = AlongRows<Patches<T>>;
    using B = AlongRows<Matrix<T>>;
    using Epilogue = FpropEpilogue<T>;
    using RowSums = std::false_type;
    using TiledB = std::true_type;
    const T* x;
    const T* w;
    Geometry g;
    Epilogue epilogue;

    __device__ A a(int group) const { return {{group_of_x(x, g, group), g}}; }
    __device__ B b(int group) const {
        return {{group_of_w(w, g, group), g.group_filters, g.taps, g.taps}};
    }
    // Columns past the group are computed and dropped.
    Tiled tiled() const { return {w, g.shape.filters, g.taps, g.taps}; }
    __device__ TiledPlace tiled_place(int group, int filter, int tap) const {
        return {group * g.group_filters + filter, tap};
    }
};

// With a stride, the elements of dy are gathered singly.
template <class Way> struct ConvDgrad : Way {
    using T = typename Way::Element;
    using A = AlongRows<Sightings<T, Way::vectors>>;
    using B = AcrossRows<FiltersByTap<T>>;
    using Epilogue = DgradEpilogue<T>;
    using RowSums = std::false_type;
    using TiledB = std::true_type;
    const T* dy;
    const T* w;
    Geometry g;
    Epilogue epilogue;

    __device__ A a(int group) const { return {{group_of_dy(dy, g, group), g}}; }
    __device__ B b(int group) const { return {{group_of_w(w, g, group), g}}; }
    // A slice lies within one tap: conv_dgrad sees to it.
    Tiled tiled() const { return {w, g.shape.filters, g.taps, g.taps}; }
    __device__ TiledPlace tiled_place(int group, int channel, int depth) const {
        const Digits tap = divide(depth, g.by_group_filters);
        return {group * g.group_filters + tap.low, tap.high * g.group_channels + channel};
    }
};

// Whether a loop computes the sums of A's rows separately.
template <class Tiles> using TakesRowSums = std::negation<std::is_same<Tiles, FloatTiles>>;

template <class Way> struct ConvWgrad : Way {
    using T = typename Way::Element;
    using RowSums = TakesRowSums<typename Way::Tiles>;
    using Taps = AcrossRows<Patches<T>>;
    using A = AcrossRows<Matrix<T>>;
    using B = std::conditional_t<RowSums::value, Taps, AndOnes<Taps>>;
    using Epilogue = WgradEpilogue<T>;
    using TiledB = std::false_type;
    const T* x;
    const T* dy;
    Geometry g;
    Epilogue epilogue;

    __device__ A a(int group) const {
        return {{group_of_dy(dy, g, group), g.out_pixels, g.group_filters, g.shape.filters}};
    }
    __device__ B b(int group) const {
        const Taps of_group{{group_of_x(x, g, group), g}};
        if constexpr (RowSums::value)
            return of_group;
        else
            return {of_group, g.taps};
    }
    Tiled tiled() const { return {dy, g.out_pixels, g.shape.filters, g.shape.filters}; }
    __device__ TiledPlace tiled_place(int group, int filter, int pixel) const {
        return {pixel, group * g.group_filters + filter};
    }
};

// ---------------------------------------------------------------------- sizes

template <class Tiles> GemmSize fprop_size(const ConvShape& s) {
    return gemm_size_as_whole<Tiles>(s.groups, static_cast<int>(s.out_pixels()),
                                     s.filters / s.groups, static_cast<int>(s.taps()),
                                     s.filters * s.towers);
}

template <class Tiles> GemmSize dgrad_size(const ConvShape& s) {
    return gemm_size<Tiles>(s.groups, static_cast<int>(s.in_pixels()), s.channels / s.groups,
                            s.filter_h * s.filter_w * (s.filters / s.groups));
}

template <class Tiles> GemmSize wgrad_size(const ConvShape& s) {
    const int rows = s.filters / s.groups;
    const int columns = static_cast<int>(s.taps()) + 1;
    const int depth = static_cast<int>(s.out_pixels());
    if constexpr (TakesRowSums<Tiles>::value)
        return gemm_size_with_row_sums<Tiles>(s.groups, rows, columns, depth);
    else
        return gemm_size<Tiles>(s.groups, rows, columns, depth);
}

// What a product needs for any layout of its operands, which depends on addresses too.
template <class T, class SizeOf> std::size_t workspace_of(const ConvShape& shape, SizeOf size_of) {
    std::size_t bytes = 0;
    for (const bool whole : {false, true})
        with_way<T>(shape.unit, {whole, whole},
                    [&](auto way) { bytes = std::max(bytes, gemm_workspace(size_of(way))); });
    return bytes;
}

// The gradients are stored or learned from, as the epilogue says.
template <class T> void wgrad(const T* x, const T* dy, WgradEpilogue<T> epilogue,
                              const ConvShape& shape, void* workspace, Stream stream) {
    const Geometry g(shape);
    epilogue.taps = g.taps;
    epilogue.group_filters = g.group_filters;
    const bool vectors = in_vectors(g.group_channels, shape.channels, x) &&
                         in_vectors(g.group_filters, shape.filters, dy);
    with_way<T>(shape.unit, {vectors, vectors}, [&](auto way) {
        gemm(ConvWgrad<decltype(way)>{{}, x, dy, g, epilogue},
             wgrad_size<typename decltype(way)::Tiles>(shape), workspace, stream);
    });
}

} // namespace

template <class T> std::size_t conv_fprop_workspace(const ConvShape& shape) {
    return workspace_of<T>(
        shape, [&](auto way) { return fprop_size<typename decltype(way)::Tiles>(shape); });
}
template <class T> std::size_t conv_dgrad_workspace(const ConvShape& shape) {
    return workspace_of<T>(
        shape, [&](auto way) { return dgrad_size<typename decltype(way)::Tiles>(shape); });
}
template <class T> std::size_t conv_wgrad_workspace(const ConvShape& shape) {
    return workspace_of<T>(
        shape, [&](auto way) { return wgrad_size<typename decltype(way)::Tiles>(shape); });
}

template <class T, class Y>
void conv_fprop(const T* x, const T* w, const float* b, Y* y, const ConvShape& shape,
                Activation activation, const Dropped& dropped, void* workspace, Stream stream) {
    const Geometry g(shape);
    FpropEpilogue<T> epilogue{b,
                              nullptr,
                              nullptr,
                              shape.filters,
                              g.group_filters,
                              activation,
                              Dropout(dropped, shape.out_height * shape.out_width, shape.filters)};
    if constexpr (std::is_same_v<Y, T>)
        epilogue.y = y;
    else
        epilogue.wide = y;
    const bool vectors =
        in_vectors(g.group_channels, shape.channels, x) && in_vectors(g.taps, g.taps, w);
    with_way<T>(shape.unit, {vectors, vectors}, [&](auto way) {
        gemm(ConvFprop<decltype(way)>{{}, x, w, g, epilogue},
             fprop_size<typename decltype(way)::Tiles>(shape), workspace, stream);
    });
}

template <class T> void conv_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                   const ConvShape& shape, void* workspace, Stream stream) {
    const Geometry g(shape);
    const DgradEpilogue<T> epilogue{gate, factor, dx, shape.channels, g.group_channels};
    const bool vectors = shape.stride_h == 1 && shape.stride_w == 1 &&
                         in_vectors(g.group_filters, shape.filters, dy) &&
                         in_vectors(g.group_channels, g.group_channels, w);
    // With few channels this beats wgmma too, by the same arithmetic: for conv2 the cache allows
    // 568 us with either main loop, 242 us in patches.
    if constexpr (std::is_same_v<T, bf16>)
        if (vectors && suits_patches(shape, dgrad_size<Bf16Tiles>(shape)))
            return patch_dgrad(dy, w, epilogue, g, stream);
    // A slice must not cross from one tap into the next.
    const bool tiles = g.group_filters % kHopperSlice == 0 ||
                       (shape.groups == 1 && shape.filter_h == 1 && shape.filter_w == 1);
    with_way<T>(shape.unit, {vectors, tiles}, [&](auto way) {
        gemm(ConvDgrad<decltype(way)>{{}, dy, w, g, epilogue},
             dgrad_size<typename decltype(way)::Tiles>(shape), workspace, stream);
    });
}

template <class T> void conv_wgrad(const T* x, const T* dy, float* dw, float* db,
                                   const ConvShape& shape, void* workspace, Stream stream) {
    WgradEpilogue<T> epilogue{};
    epilogue.dw = dw;
    epilogue.db = db;
    wgrad(x, dy, epilogue, shape, workspace, stream);
}

template <class T> void conv_wgrad_sgd(const T* x, const T* dy, Learned<T> w, Rule w_rule,
                                       Learned<float> b, Rule b_rule, const ConvShape& shape,
                                       void* workspace, Stream stream) {
    WgradEpilogue<T> epilogue{};
    epilogue.w = w;
    epilogue.b = b;
    epilogue.w_rule = w_rule;
    epilogue.b_rule = b_rule;
    wgrad(x, dy, epilogue, shape, workspace, stream);
}

template std::size_t conv_fprop_workspace<float>(const ConvShape&);
template std::size_t conv_dgrad_workspace<float>(const ConvShape&);
template std::size_t conv_wgrad_workspace<float>(const ConvShape&);
template void conv_fprop(const float*, const float*, const float*, float*, const ConvShape&,
                         Activation, const Dropped&, void*, Stream);
template void conv_dgrad(const float*, const float*, const float*, float, float*, const ConvShape&,
                         void*, Stream);
template void conv_wgrad(const float*, const float*, float*, float*, const ConvShape&, void*,
                         Stream);
template void conv_wgrad_sgd(const float*, const float*, Learned<float>, Rule, Learned<float>, Rule,
                             const ConvShape&, void*, Stream);

template std::size_t conv_fprop_workspace<bf16>(const ConvShape&);
template std::size_t conv_dgrad_workspace<bf16>(const ConvShape&);
template std::size_t conv_wgrad_workspace<bf16>(const ConvShape&);
template void conv_fprop(const bf16*, const bf16*, const float*, bf16*, const ConvShape&,
                         Activation, const Dropped&, void*, Stream);
template void conv_fprop(const bf16*, const bf16*, const float*, float*, const ConvShape&,
                         Activation, const Dropped&, void*, Stream);
template void conv_dgrad(const bf16*, const bf16*, const bf16*, float, bf16*, const ConvShape&,
                         void*, Stream);
template void conv_wgrad(const bf16*, const bf16*, float*, float*, const ConvShape&, void*, Stream);
template void conv_wgrad_sgd(const bf16*, const bf16*, Learned<bf16>, Rule, Learned<float>, Rule,
                             const ConvShape&, void*, Stream);

} // namespace pyalexnet

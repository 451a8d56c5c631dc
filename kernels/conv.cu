// Convolution: fprop, dgrad and wgrad as three matrix products; choice.cuh says by which loop.
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
#include "choice.cuh"

namespace pyalexnet {
namespace {

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

// ---------------------------------------------------------------------- launching

bool aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }

// What a product needs for any layout of its operands, which depends on addresses too.
template <class T> std::size_t workspace_of(Pass pass, const ConvShape& shape) {
    std::size_t bytes = 0;
    for (const bool whole : {false, true})
        with_way<T>(shape.unit, {whole, whole}, [&](auto way) {
            const GemmSize size = size_of<typename decltype(way)::Tiles>(pass, shape);
            bytes = std::max(bytes, workspace_of(size));
        });
    return bytes;
}

template <class T, class Problem>
void launch_tile(const Problem& problem, const GemmSize& size, float* partial, Stream stream) {
    const std::int64_t blocks =
        tiles<T>(size.rows, size.tiled_columns()) * size.groups * size.parts;
    const simt::Grid grid(static_cast<unsigned>(blocks), T::Threads, stream);
    using Tiles = typename Problem::Tiles;
    if constexpr (std::is_same_v<Tiles, FloatTiles>) {
        simt::launch<gemm_kernel<Problem, T>>(grid, problem, size, partial);
    } else if constexpr (std::is_same_v<Tiles, HopperTiles>) {
        using Shared = HopperShared<Problem, T>;
        const Tiled tiled = problem.tiled();
        simt::launch<hopper_gemm_kernel<Problem, T>>(
            grid.with_shared(Shared::kBytes + simt::kTileSlack), problem,
            simt::tensor_map(tiled.data, tiled.rows, tiled.columns, tiled.pitch,
                             Shared::Copied::kTileRows),
            size, partial);
    } else {
        simt::launch<tensor_gemm_kernel<Problem, T>>(grid.with_shared(kTensorShared<T>), problem,
                                                     size, partial);
    }
}

template <class Problem>
void gemm(const Problem& problem, Pass pass, const ConvShape& s, void* workspace, Stream stream) {
    const GemmSize size = size_of<typename Problem::Tiles>(pass, s);
    auto* partial = static_cast<float*>(workspace);
    with_tile_of<Problem>(
        size, [&](auto tile) { launch_tile<decltype(tile)>(problem, size, partial, stream); });
    if (size.parts == 1) return;
    constexpr int threads = 256;
    const std::int64_t fours = std::int64_t{size.groups} * size.rows * ((size.columns + 3) / 4);
    simt::launch<gemm_add_parts_kernel<typename Problem::Epilogue>>(
        simt::Grid(simt::blocks_for(fours, threads), threads, stream), problem.epilogue, size,
        partial);
}

// The gradients are stored or learned from, as the epilogue says.
template <class T> void wgrad(const T* x, const T* dy, WgradEpilogue<T> epilogue,
                              const ConvShape& shape, void* workspace, Stream stream) {
    const Geometry g(shape);
    epilogue.taps = g.taps;
    epilogue.group_filters = g.group_filters;
    Lies lie = lies(Pass::wgrad, shape);
    lie.in_vectors &= aligned(x) && aligned(dy);
    with_way<T>(shape.unit, lie, [&](auto way) {
        gemm(ConvWgrad<decltype(way)>{{}, x, dy, g, epilogue}, Pass::wgrad, shape, workspace,
             stream);
    });
}

} // namespace

template <class T> std::size_t conv_fprop_workspace(const ConvShape& shape) {
    return workspace_of<T>(Pass::fprop, shape);
}
template <class T> std::size_t conv_dgrad_workspace(const ConvShape& shape) {
    return workspace_of<T>(Pass::dgrad, shape);
}
template <class T> std::size_t conv_wgrad_workspace(const ConvShape& shape) {
    return workspace_of<T>(Pass::wgrad, shape);
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
    Lies lie = lies(Pass::fprop, shape);
    lie.in_vectors &= aligned(x) && aligned(w);
    with_way<T>(shape.unit, lie, [&](auto way) {
        gemm(ConvFprop<decltype(way)>{{}, x, w, g, epilogue}, Pass::fprop, shape, workspace,
             stream);
    });
}

template <class T> void conv_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                   const ConvShape& shape, void* workspace, Stream stream) {
    const Geometry g(shape);
    const DgradEpilogue<T> epilogue{gate, factor, dx, shape.channels, g.group_channels};
    Lies lie = lies(Pass::dgrad, shape);
    lie.in_vectors &= aligned(dy) && aligned(w);
    if constexpr (std::is_same_v<T, bf16>)
        if (lie.in_vectors && suits_patches(shape)) return patch_dgrad(dy, w, epilogue, g, stream);
    with_way<T>(shape.unit, lie, [&](auto way) {
        gemm(ConvDgrad<decltype(way)>{{}, dy, w, g, epilogue}, Pass::dgrad, shape, workspace,
             stream);
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

template Choice choice_of<float>(Pass, const ConvShape&);
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

template Choice choice_of<bf16>(Pass, const ConvShape&);
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

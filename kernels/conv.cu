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
// A bias is the weight of a tap that always sees 1, so db is one more column of wgrad: x has a line
// of ones, and its products are the sums of dy's rows.
#include "choice.cuh"

namespace pyalexnet {
namespace {

// A group's part begins in x and dx at its first channel, in y and dy at that of its first filter,
// in w at its first filter.
template <class Loop> struct ConvFprop : Loop {
    using T = typename Loop::Element;
    using A = AlongRows<Patches<T>>;
    using B = AlongRows<Matrix<T>>;
    using Epilogue = FpropEpilogue<T>;
    const T* x;
    const T* w;
    Geometry g;
    Epilogue epilogue;

    __device__ A a(int group) const { return {{x + group * g.group_channels, g}}; }
    __device__ B b(int group) const {
        return {
            {w + std::int64_t{group} * g.group_filters * g.taps, g.group_filters, g.taps, g.taps}};
    }
    // Columns past the group are computed and dropped.
    Tiled tiled() const { return {w, g.shape.filters, g.taps, g.taps}; }
    __device__ TiledPlace tiled_place(int group, int filter, int tap) const {
        return {group * g.group_filters + filter, tap};
    }
};

// With a stride, the elements of dy are gathered singly.
template <class Loop> struct ConvDgrad : Loop {
    using T = typename Loop::Element;
    using A = AlongRows<Sightings<T, Loop::vectors>>;
    using B = AcrossRows<FiltersByTap<T>>;
    using Epilogue = DgradEpilogue<T>;
    const T* dy;
    const T* w;
    Geometry g;
    Epilogue epilogue;

    __device__ A a(int group) const { return {{dy + group * g.group_filters, g}}; }
    __device__ B b(int group) const {
        return {{w + std::int64_t{group} * g.group_filters * g.taps, g}};
    }
    // A slice lies within one tap: conv_dgrad sees to it.
    Tiled tiled() const { return {w, g.shape.filters, g.taps, g.taps}; }
    __device__ TiledPlace tiled_place(int group, int channel, int depth) const {
        const Digits tap = g.by_group_filters.divide(depth);
        return {group * g.group_filters + tap.low, tap.high * g.group_channels + channel};
    }
};

template <class Loop> struct ConvWgrad : Loop {
    using T = typename Loop::Element;
    using TiledB = std::false_type;
    using Taps = AcrossRows<Patches<T>>;
    using A = AcrossRows<Matrix<T>>;
    using B = AndOnes<Taps>;
    using Epilogue = WgradEpilogue<T>;
    const T* x;
    const T* dy;
    Geometry g;
    Epilogue epilogue;

    __device__ A a(int group) const {
        return {{dy + group * g.group_filters, g.out_pixels, g.group_filters, g.shape.filters}};
    }
    __device__ B b(int group) const { return {{{x + group * g.group_channels, g}}, g.taps}; }
    Tiled tiled() const { return {dy, g.out_pixels, g.shape.filters, g.shape.filters}; }
    __device__ TiledPlace tiled_place(int group, int filter, int pixel) const {
        return {pixel, group * g.group_filters + filter};
    }
};

// ---------------------------------------------------------------------- launching

template <class T, class Problem>
void launch_tile(const Problem& problem, const GemmSize& size, float* partial, Stream stream) {
    const std::int64_t blocks = tiles<T>(size.rows, size.columns) * size.groups * size.parts;
    const simt::Grid grid(static_cast<unsigned>(blocks), T::Threads, stream);
    using Tiles = typename Problem::Tiles;
    if constexpr (std::is_same_v<Tiles, FloatTiles>) {
        simt::launch<gemm_kernel<Problem, T>>(grid, problem, size, partial);
    } else if constexpr (std::is_same_v<Tiles, HopperTiles>) {
        using Shared = HopperShared<Problem, T>;
        const Tiled tiled = problem.tiled();
        const Clusters clusters = clusters_of<T, Shared::kTiledB>(size);
        const int rows = Shared::Copied::kTileRows / static_cast<int>(clusters.blocks);
        const auto map = simt::tensor_map(tiled.data, tiled.rows, tiled.columns, tiled.pitch, rows);
        const simt::Grid of_wgmma =
            simt::Grid(static_cast<unsigned>(clusters.all_blocks), T::Threads, stream)
                .in_clusters(clusters.blocks)
                .with_shared(Shared::kBytes + simt::kTileSlack);
        if (clusters.blocks == 1)
            simt::launch<hopper_gemm_kernel<Problem, T>>(of_wgmma, problem, map, size, partial);
        else
            simt::launch<hopper_gemm_pair_kernel<Problem, T>>(of_wgmma, problem, map, size,
                                                              partial);
    } else {
        simt::launch<tensor_gemm_kernel<Problem, T>>(grid.with_shared(kTensorShared<T>), problem,
                                                     size, partial);
    }
}

template <class T> void launch_patches(T, const bf16* dy, const bf16* w, const Geometry& g,
                                       const DgradEpilogue<bf16>& epilogue, Stream stream) {
    const PatchDgrad<typename T::Shape> problem{dy, w, g, epilogue};
    const auto blocks = static_cast<unsigned>(problem.patch.blocks(g.shape));
    const simt::Grid grid =
        simt::Grid(blocks, T::Threads, stream).with_shared(patch_shared<T>(problem.patch));
    if constexpr (std::is_same_v<typename T::Shape, PlaceShape>)
        simt::launch<hopper_patch_dgrad_kernel<T>>(grid, problem);
    else
        simt::launch<tensor_patch_dgrad_kernel<T>>(grid, problem);
}

// The product of two arrays, by the loop that their layout allows.
template <template <class Loop> class Problem, class T, class Epilogue>
void multiply(Pass pass, const T* first, const T* second, const Geometry& g,
              const Epilogue& epilogue, void* workspace, Stream stream) {
    OperandLayout layout = operand_layout(pass, g.shape);
    layout.in_vectors &= aligned(first) && aligned(second);
    with_loop<T>(g.shape.unit, layout, [&](auto loop) {
        using Loop = decltype(loop);
        const Problem<Loop> problem{{}, first, second, g, epilogue};
        const GemmSize size = size_of<typename Loop::Tiles>(pass, g.shape);
        auto* const partial = static_cast<float*>(workspace);
        with_tile_of<Loop, Problem<Loop>::B::kContiguous>(
            size, [&](auto tile) { launch_tile<decltype(tile)>(problem, size, partial, stream); });
        if (size.parts == 1) return;
        constexpr int threads = 256;
        const std::int64_t fours = std::int64_t{size.groups} * size.rows * ((size.columns + 3) / 4);
        const simt::Grid grid(simt::blocks_for(fours, threads), threads, stream);
        simt::launch<gemm_add_parts_kernel<Epilogue>>(grid, epilogue, size, partial);
    });
}

} // namespace

// For any layout of the operands, which depends on addresses too.
template <class T> std::size_t conv_workspace(Pass pass, const ConvShape& shape) {
    std::size_t floats = 0;
    for (const bool whole : {false, true})
        with_loop<T>(shape.unit, {whole, whole}, [&](auto loop) {
            const GemmSize size = size_of<typename decltype(loop)::Tiles>(pass, shape);
            const auto lines = static_cast<std::size_t>(size.parts) * size.groups * size.rows;
            if (size.parts > 1) floats = std::max(floats, lines * size.pitch);
        });
    return sizeof(float) * floats;
}

template <class T, class Y>
void conv_fprop(const T* x, const T* w, const float* b, Y* y, const ConvShape& shape,
                Activation activation, const Dropped& dropped, void* workspace, Stream stream) {
    const Geometry g{shape};
    const Dropout dropout{dropped, shape.filters, Divisor(g.out_image_pixels)};
    FpropEpilogue<T> epilogue{b,          nullptr, nullptr, shape.filters, g.group_filters,
                              activation, dropout};
    if constexpr (std::is_same_v<Y, T>)
        epilogue.y = y;
    else
        epilogue.wide = y;
    multiply<ConvFprop>(Pass::fprop, x, w, g, epilogue, workspace, stream);
}

template <class T> void conv_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                   const ConvShape& shape, void* workspace, Stream stream) {
    const Geometry g{shape};
    const DgradEpilogue<T> epilogue{gate, factor, dx, shape.channels, g.group_channels};
    if constexpr (std::is_same_v<T, bf16>)
        if (operand_layout(Pass::dgrad, shape).in_vectors && aligned(dy) && aligned(w) &&
            suits_patches(shape))
            return with_patches(
                shape, [&](auto tile) { launch_patches(tile, dy, w, g, epilogue, stream); });
    multiply<ConvDgrad>(Pass::dgrad, dy, w, g, epilogue, workspace, stream);
}

template <class T> void conv_wgrad(const T* x, const T* dy, float* dw, float* db,
                                   const ConvShape& shape, void* workspace, Stream stream) {
    const Geometry g{shape};
    multiply<ConvWgrad>(Pass::wgrad, x, dy, g, WgradEpilogue<T>{g.taps, g.group_filters, dw, db},
                        workspace, stream);
}

template <class T> void conv_wgrad_sgd(const T* x, const T* dy, Learned<T> w, Rule w_rule,
                                       Learned<float> b, Rule b_rule, const ConvShape& shape,
                                       void* workspace, Stream stream) {
    const Geometry g{shape};
    const WgradEpilogue<T> epilogue{g.taps, g.group_filters, nullptr, nullptr, w,
                                    b,      w_rule,          b_rule};
    multiply<ConvWgrad>(Pass::wgrad, x, dy, g, epilogue, workspace, stream);
}

PYALEXNET_FOR_ELEMENTS(choice_of);
PYALEXNET_FOR_ELEMENTS(conv_workspace);
template decltype(conv_fprop<float, float>) conv_fprop<float, float>;
template decltype(conv_fprop<bf16, bf16>) conv_fprop<bf16, bf16>;
template decltype(conv_fprop<bf16, float>) conv_fprop<bf16, float>;
PYALEXNET_FOR_ELEMENTS(conv_dgrad);
PYALEXNET_FOR_ELEMENTS(conv_wgrad);
PYALEXNET_FOR_ELEMENTS(conv_wgrad_sgd);

} // namespace pyalexnet

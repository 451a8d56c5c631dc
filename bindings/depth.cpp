#include "blocks.hpp"

namespace pyalexnet {
namespace {

// Shapes of filters w (K, R, S, C), and of those for images in blocks.
struct Filters {
    int block;
    FilterShape plain, deep;

    template <class W> Filters(const Call& call, const W& w, std::int64_t given)
        : block(call.extent("block", given)) {
        // Kernels count in int, up to a block beyond a filter's end.
        call.expect_countable("rows of filters with whole blocks", w.dim(1) + block);
        call.expect_countable("columns of filters with whole blocks", w.dim(2) + block);
        call.expect_countable("pixels of a block", std::int64_t{block} * block);
        call.expect_countable("channels of a block", std::int64_t{block} * block * w.dim(3));
        const auto [filters, height, width, channels] = call.extents<4>(w);
        plain = {filters, height, width, channels};
        deep = plain.deep(block);
        // ... and threads of a row in 32 bits.
        call.extent("elements of a row of filters", w.dim(2) * w.dim(3));
        call.extent("elements of a row of deep filters", std::int64_t{deep.width} * deep.channels);
    }
    Extents extents() const { return {deep.filters, deep.height, deep.width, deep.channels}; }
};

void images(Call& call, handle x_, handle y_, const BlockTuple& blocks) {
    const auto x = call.input<float>("x", x_, 4);
    with_element(y_, [&](auto element) {
        using T = decltype(element);
        const auto [n, h, w, c] = call.maps(x);
        const BlockShape shape = in_blocks(call, n, h, w, c, blocks);
        call.launch(images_to_depth<T>, x, call.output<T>("y", y_, blocked(shape)), shape);
    });
}

void to_depth(Call& call, handle w_, handle deep_, std::int64_t block) {
    with_element(w_, [&](auto element) {
        using T = decltype(element);
        const auto w = call.input<T>("w", w_, 4);
        const Filters filters(call, w, block);
        const auto deep = call.output<T>("deep", deep_, filters.extents());
        call.launch(filters_to_depth<T>, w, deep, filters.plain, filters.block);
    });
}

void from_depth(Call& call, handle ddeep_, handle dw_, std::int64_t block) {
    const auto dw = call.output<float>("dw", dw_, 4);
    const Filters filters(call, dw, block);
    const auto ddeep = call.input<float>("ddeep", ddeep_, filters.extents());
    call.launch(filters_from_depth, ddeep, dw, filters.plain, filters.block);
}

const Ops depth_ops([](py::module_& m) {
    define(m, "images_to_depth", images, "x"_a, "y"_a, "blocks"_a);
    define(m, "filters_to_depth", to_depth, "w"_a, "deep"_a, "block"_a);
    define(m, "filters_from_depth", from_depth, "ddeep"_a, "dw"_a, "block"_a);
});

} // namespace
} // namespace pyalexnet

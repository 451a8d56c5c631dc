#include "register.hpp"

#include "blocks.hpp"

namespace pyalexnet {
namespace {

// Shapes of filters w (K, R, S, C) and of those for images in blocks.
template <class W, class Deep>
FilterShape filter_shape(const Call& call, const W& w, const Deep& deep, std::int64_t block_) {
    const int block = call.extent("block", block_);
    // Kernels count in int, up to a block beyond a filter's end.
    call.expect_countable("rows of filters with whole blocks", w.dim(1) + block);
    call.expect_countable("columns of filters with whole blocks", w.dim(2) + block);
    call.expect_countable("pixels of a block", std::int64_t{block} * block);
    call.expect_countable("channels of a block", std::int64_t{block} * block * w.dim(3));
    const FilterShape shape{
        call.extent("filters", w.dim(0)), call.extent("filter height", w.dim(1)),
        call.extent("filter width", w.dim(2)), call.extent("channels", w.dim(3))};
    const FilterShape d = shape.deep(block);
    const std::vector<std::int64_t> expected{d.filters, d.height, d.width, d.channels};
    call.expect(deep.shape() == expected, "deep filters have shape " + deep.shape_text() + "; " +
                                              shape_text(expected) + " was expected");
    // ... and threads of a row in 32 bits.
    call.extent("elements of a row of filters", w.dim(2) * w.dim(3));
    call.extent("elements of a row of deep filters", deep.dim(2) * deep.dim(3));
    return shape;
}

void images(const py::object& x_, const py::object& y_, const BlockGiven& blocks,
            const Place& place) {
    Call call("images_to_depth", place);
    const auto x = call.input<const float>("x", x_, 4);
    with_element(y_, [&](auto element) {
        using T = decltype(element);
        const auto y = call.output<T>("y", y_, 4);
        const auto shape = in_blocks<BlockShape>(call, "images of shape " + x.shape_text(),
                                                 x.dim(0), x.dim(1), x.dim(2), x.dim(3), blocks, y);
        // Kernels count rows, and places within one, in 32 bits.
        call.expect_countable("columns of pixels", y.dim(2) * shape.block);
        call.extent("elements of a row of blocks", y.dim(2) * y.dim(3));
        call.launch([=](Stream s) { images_to_depth<T>(x.data(), y.data(), shape, s); });
    });
}

void to_depth(const py::object& w_, const py::object& deep_, std::int64_t block,
              const Place& place) {
    Call call("filters_to_depth", place);
    with_element(w_, [&](auto element) {
        using T = decltype(element);
        const auto w = call.input<const T>("w", w_, 4);
        const auto deep = call.output<T>("deep", deep_, 4);
        const FilterShape shape = filter_shape(call, w, deep, block);
        call.launch([=](Stream s) {
            filters_to_depth<T>(w.data(), deep.data(), shape, static_cast<int>(block), s);
        });
    });
}

void from_depth(const py::object& ddeep_, const py::object& dw_, std::int64_t block,
                const Place& place) {
    Call call("filters_from_depth", place);
    const auto ddeep = call.input<const float>("ddeep", ddeep_, 4);
    const auto dw = call.output<float>("dw", dw_, 4);
    const FilterShape shape = filter_shape(call, dw, ddeep, block);
    call.launch([=](Stream s) {
        filters_from_depth(ddeep.data(), dw.data(), shape, static_cast<int>(block), s);
    });
}

} // namespace

void register_depth(py::module_& m) {
    m.def("images_to_depth", &images, "x"_a, "y"_a, "blocks"_a, "place"_a);
    m.def("filters_to_depth", &to_depth, "w"_a, "deep"_a, "block"_a, "place"_a);
    m.def("filters_from_depth", &from_depth, "ddeep"_a, "dw"_a, "block"_a, "place"_a);
}

} // namespace pyalexnet

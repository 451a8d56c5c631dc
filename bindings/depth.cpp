#include "register.hpp"

#include "array.hpp"

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

// How images are put into blocks, in the order of Python's arguments.
struct Places {
    std::int64_t block, pad_top, pad_left;
};

// Shapes of images x (N, H, W, C) and of the same in blocks, y.
template <class X, class Y>
BlockShape block_shape(const Call& call, const X& x, const Y& y, const Places& places) {
    BlockShape shape{};
    shape.images = x.dim(0);
    shape.height = call.extent("height", x.dim(1));
    shape.width = call.extent("width", x.dim(2));
    shape.channels = call.extent("channels", x.dim(3));
    shape.block = call.extent("block", places.block);
    shape.pad_top = call.extent("pad_top", places.pad_top, 0);
    shape.pad_left = call.extent("pad_left", places.pad_left, 0);
    shape.rows = call.extent("rows", y.dim(1));
    shape.columns = call.extent("columns", y.dim(2));
    const std::int64_t square = places.block * places.block; // below 2^62
    call.expect_countable("pixels of a block", square);
    const std::int64_t rows = y.dim(1) * places.block, columns = y.dim(2) * places.block;
    call.expect(y.dim(0) == x.dim(0) && y.dim(3) == square * x.dim(3) &&
                    rows >= places.pad_top + x.dim(1) && columns >= places.pad_left + x.dim(2),
                "y of shape " + y.shape_text() + " does not hold images of shape " +
                    x.shape_text() + " in blocks of " + std::to_string(shape.block));
    // Kernels count rows, and places within one, in 32 bits.
    call.expect_countable("rows of pixels", x.dim(0) * rows);
    call.expect_countable("columns of pixels", columns);
    call.extent("elements of a row of blocks", y.dim(2) * y.dim(3));
    return shape;
}

void images(const py::object& x_, const py::object& y_, std::int64_t block, std::int64_t pad_top,
            std::int64_t pad_left, int device, const Target& target) {
    Call call("images_to_depth", device, target);
    const auto x = call.input<const float>("x", x_, 4);
    with_element(y_, [&](auto element) {
        using T = decltype(element);
        const auto y = call.output<T>("y", y_, 4);
        const BlockShape shape = block_shape(call, x, y, {block, pad_top, pad_left});
        call.launch([=](Stream s) { images_to_depth<T>(x.data(), y.data(), shape, s); });
    });
}

void to_depth(const py::object& w_, const py::object& deep_, std::int64_t block, int device,
              const Target& target) {
    Call call("filters_to_depth", device, target);
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

void from_depth(const py::object& ddeep_, const py::object& dw_, std::int64_t block, int device,
                const Target& target) {
    Call call("filters_from_depth", device, target);
    const auto ddeep = call.input<const float>("ddeep", ddeep_, 4);
    const auto dw = call.output<float>("dw", dw_, 4);
    const FilterShape shape = filter_shape(call, dw, ddeep, block);
    call.launch([=](Stream s) {
        filters_from_depth(ddeep.data(), dw.data(), shape, static_cast<int>(block), s);
    });
}

} // namespace

void register_depth(py::module_& m) {
    m.def("images_to_depth", &images);
    m.def("filters_to_depth", &to_depth);
    m.def("filters_from_depth", &from_depth);
}

} // namespace pyalexnet

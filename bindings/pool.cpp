#include "register.hpp"
#include "same_shape.hpp"

namespace pyalexnet {
namespace {

// Shapes of maps x (N, H, W, C) and y (N, P, Q, C), whichever arrays they came from. Whether every
// window that fits is there is not asked: none may start outside the image.
template <class X, class Y> PoolShape pool_shape(const Call& call, const X& x, const Y& y,
                                                 std::int64_t size, std::int64_t stride) {
    PoolShape shape{};
    shape.images = x.dim(0);
    shape.height = call.extent("height", x.dim(1));
    shape.width = call.extent("width", x.dim(2));
    shape.channels = call.extent("channels", x.dim(3));
    shape.out_height = call.extent("output height", y.dim(1));
    shape.out_width = call.extent("output width", y.dim(2));
    shape.size = call.extent("size", size);
    shape.stride = call.extent("stride", stride);
    call.expect(y.dim(0) == x.dim(0) && y.dim(3) == x.dim(3),
                "pooled maps of shape " + y.shape_text() + " do not come from maps of shape " +
                    x.shape_text());
    const std::int64_t last_row = std::int64_t{shape.out_height - 1} * shape.stride;
    const std::int64_t last_column = std::int64_t{shape.out_width - 1} * shape.stride;
    call.expect(last_row < shape.height && last_column < shape.width,
                "pooled maps of shape " + y.shape_text() +
                    " have windows that start outside maps "
                    "of shape " +
                    x.shape_text());
    // Kernels count rows, and places within one, in 32 bits.
    call.extent("rows of pixels", x.dim(0) * x.dim(1));
    call.extent("elements of a row of pixels", x.dim(2) * x.dim(3));
    return shape;
}

// r * size + s fits a byte in windows up to 16 x 16, and 16 bits in those up to 256 x 256.
bool fits_byte(const Call& call, std::int64_t size) {
    call.expect(size <= 256, "size is " + std::to_string(size) + "; at most 256 was expected");
    return size <= 16;
}

// Calls `use` with a value of the maps' element type and one of where's.
template <class Use>
void with_types(const Call& call, const py::object& maps, std::int64_t size, Use use) {
    with_element(maps, [&](auto element) {
        fits_byte(call, size) ? use(element, std::uint8_t{}) : use(element, std::uint16_t{});
    });
}

void maxpool_fprop_op(const py::object& x_, const py::object& y_, const py::object& where_,
                      std::int64_t size, std::int64_t stride, int device, const Target& target) {
    Call call("maxpool_fprop", device, target);
    with_types(call, x_, size, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const auto where = call.output<Where>("where", where_, 4);
        expect_same_shape(call, "y", y, "where", where);
        const PoolShape shape = pool_shape(call, x, y, size, stride);
        call.launch([=](Stream s) { maxpool_fprop(x.data(), y.data(), where.data(), shape, s); });
    });
}

void maxpool_dgrad_op(const py::object& dy_, const py::object& where_, const py::object& gate_,
                      const py::object& dx_, std::int64_t size, std::int64_t stride, int device,
                      const Target& target) {
    Call call("maxpool_dgrad", device, target);
    with_types(call, dy_, size, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto where = call.input<const Where>("where", where_, 4);
        const auto gate = call.optional_input<const T>("gate", gate_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "dy", dy, "where", where);
        if (gate) expect_same_shape(call, "dx", dx, "gate", gate);
        const PoolShape shape = pool_shape(call, dx, dy, size, stride);
        call.launch([=](Stream s) {
            maxpool_dgrad(dy.data(), where.data(), gate.data(), dx.data(), shape, s);
        });
    });
}

void avgpool_fprop_op(const py::object& x_, const py::object& y_, std::int64_t size,
                      std::int64_t stride, int device, const Target& target) {
    Call call("avgpool_fprop", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const PoolShape shape = pool_shape(call, x, y, size, stride);
        call.launch([=](Stream s) { avgpool_fprop(x.data(), y.data(), shape, s); });
    });
}

void avgpool_dgrad_op(const py::object& dy_, const py::object& dx_, std::int64_t size,
                      std::int64_t stride, int device, const Target& target) {
    Call call("avgpool_dgrad", device, target);
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        const PoolShape shape = pool_shape(call, dx, dy, size, stride);
        call.launch([=](Stream s) { avgpool_dgrad(dy.data(), dx.data(), shape, s); });
    });
}

} // namespace

void register_pool(py::module_& m) {
    m.def("maxpool_fprop", &maxpool_fprop_op);
    m.def("maxpool_dgrad", &maxpool_dgrad_op);
    m.def("avgpool_fprop", &avgpool_fprop_op);
    m.def("avgpool_dgrad", &avgpool_dgrad_op);
}

} // namespace pyalexnet

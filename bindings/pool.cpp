#include "pool_shape.hpp"

namespace pyalexnet {
namespace {

// Calls `use` with a value of the maps' element type, and one of where's: r * size + s fits a byte
// in windows up to 16 x 16, and 16 bits in those up to 256 x 256.
template <class Use>
void with_types(const Call& call, handle maps, const PoolTuple& pool, Use use) {
    const std::int64_t size = std::get<0>(pool);
    call.expect(size <= 256, "size is " + std::to_string(size) + "; at most 256 was expected");
    with_element(maps, [&](auto element) {
        size <= 16 ? use(element, std::uint8_t{}) : use(element, std::uint16_t{});
    });
}

void maxpool_fprop_op(Call& call, handle x_, handle y_, handle where_, const PoolTuple& pool) {
    with_types(call, x_, pool, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto x = call.input<T>("x", x_, 4);
        const PoolShape shape = pool_shape(call, x, pool);
        const auto y = call.output<T>("y", y_, pooled(shape));
        const auto where = call.output<Where>("where", where_, pooled(shape));
        call.launch(maxpool_fprop<T, Where>, x, y, where, shape);
    });
}

void maxpool_dgrad_op(Call& call, handle dy_, handle where_, handle gate_, handle dx_,
                      const PoolTuple& pool) {
    with_types(call, dy_, pool, [&](auto element, auto code) {
        using T = decltype(element);
        using Where = decltype(code);
        const auto dx = call.output<T>("dx", dx_, 4);
        const PoolShape shape = pool_shape(call, dx, pool);
        const auto dy = call.input<T>("dy", dy_, pooled(shape));
        const auto where = call.input<Where>("where", where_, pooled(shape));
        const auto gate = call.optional_input<T>("gate", gate_, dx.shape());
        call.launch(maxpool_dgrad<T, Where>, dy, where, gate, dx, shape);
    });
}

void avgpool_fprop_op(Call& call, handle x_, handle y_, const PoolTuple& pool) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<T>("x", x_, 4);
        const PoolShape shape = pool_shape(call, x, pool);
        call.launch(avgpool_fprop<T>, x, call.output<T>("y", y_, pooled(shape)), shape);
    });
}

void avgpool_dgrad_op(Call& call, handle dy_, handle dx_, const PoolTuple& pool) {
    with_element(dy_, [&](auto element) {
        using T = decltype(element);
        const auto dx = call.output<T>("dx", dx_, 4);
        const PoolShape shape = pool_shape(call, dx, pool);
        call.launch(avgpool_dgrad<T>, call.input<T>("dy", dy_, pooled(shape)), dx, shape);
    });
}

const Ops pool_ops([](py::module_& m) {
    define(m, "maxpool_fprop", maxpool_fprop_op, "x"_a, "y"_a, "where"_a, "pool"_a);
    define(m, "maxpool_dgrad", maxpool_dgrad_op, "dy"_a, "where"_a, "gate"_a, "dx"_a, "pool"_a);
    define(m, "avgpool_fprop", avgpool_fprop_op, "x"_a, "y"_a, "pool"_a);
    define(m, "avgpool_dgrad", avgpool_dgrad_op, "dy"_a, "dx"_a, "pool"_a);
});

} // namespace
} // namespace pyalexnet

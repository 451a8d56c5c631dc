#include "pool_shape.hpp"
#include "records.hpp"

#include <cfloat>

namespace pyalexnet {
namespace {

// The norm and the pool of maps x of type T; refused where no kernel does both in one pass (ops.h).
template <class T> struct NormAndPool {
    static constexpr int kVector = 16 / static_cast<int>(sizeof(T)); // channels of a vector

    ResponseNorm norm;
    int groups;
    PoolShape pool;

    template <class X> NormAndPool(const Call& call, const X& x, const NormTuple& norm_tuple,
                                   const PoolTuple& pool_tuple) {
        const auto is = [](const char* name, auto value) {
            return std::string(name) + " is " + std::to_string(value);
        };
        const auto expect = [&](bool holds, const std::string& came, const std::string& expected) {
            call.expect(holds, came + "; " + expected +
                                   " was expected, as any other lrn and maxpool run one by one");
        };
        const auto pool_size = std::get<0>(pool_tuple); // larger ones' codes need more than a byte
        expect(pool_size <= kLrnPoolSize, is("pool_size", pool_size),
               "at most " + std::to_string(kLrnPoolSize));
        const GroupedNorm given = norm_of(call, norm_tuple, x.dim(3));
        norm = given.norm;
        groups = given.groups;
        pool = pool_shape(call, x, pool_tuple);
        const int own = given.channels / groups;
        expect(norm.size == kLrnPoolNorm, is("size", norm.size), std::to_string(kLrnPoolNorm));
        expect(norm.alpha >= 0.0f, is("alpha", norm.alpha), "at least 0");
        expect(norm.beta == 0.75f, is("beta", norm.beta), "0.75");
        expect(norm.k >= FLT_MIN, is("k", norm.k), "a positive, normal number");
        expect(own % kVector == 0,
               is("groups", groups) + ", each of " + std::to_string(own) + " channels",
               "a multiple of " + std::to_string(kVector) + " channels");
        expect(given.channels <= kLrnPoolChannels,
               "x has " + std::to_string(given.channels) + " channels",
               "at most " + std::to_string(kLrnPoolChannels));
    }
};

// Kernels read a pixel's channels in vectors of 16 bytes, and the codes of as many.
template <class... Arrays>
void expect_aligned(const Call& call, std::uintptr_t bytes, const Arrays&... arrays) {
    const auto expect = [&](const auto& array) {
        if (!array || array.address() % bytes == 0) return;
        call.refuse(array.title() + " begins at an address that is no multiple of " +
                    std::to_string(bytes) + "; one was expected");
    };
    (expect(arrays), ...);
}

void lrn_maxpool_fprop_op(Call& call, handle x_, handle y_, handle where_, const NormTuple& norm,
                          const PoolTuple& pool, bool relu) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<T>("x", x_, 4);
        const NormAndPool<T> of(call, x, norm, pool);
        const auto y = call.output<T>("y", y_, pooled(of.pool));
        const auto where = call.output<std::uint8_t>("where", where_, pooled(of.pool));
        expect_aligned(call, 16, x, y);
        expect_aligned(call, of.kVector, where);
        call.launch(lrn_maxpool_fprop<T>, x, y, where, of.pool, of.groups, of.norm, relu);
    });
}

void lrn_maxpool_dgrad_op(Call& call, handle x_, handle y_, handle dy_, handle where_, handle dx_,
                          const NormTuple& norm, const PoolTuple& pool, bool gated) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<T>("x", x_, 4);
        const NormAndPool<T> of(call, x, norm, pool);
        const auto y = call.optional_input<T>("y", y_, pooled(of.pool));
        const auto dy = call.input<T>("dy", dy_, pooled(of.pool));
        const auto where = call.input<std::uint8_t>("where", where_, pooled(of.pool));
        const auto dx = call.output<T>("dx", dx_, x.shape());
        expect_aligned(call, 16, x, y, dy, dx);
        expect_aligned(call, of.kVector, where);
        call.launch(lrn_maxpool_dgrad<T>, x, y, dy, where, dx, of.pool, of.groups, of.norm, gated);
    });
}

const Ops lrn_pool_ops([](py::module_& m) {
    define(m, "lrn_maxpool_fprop", lrn_maxpool_fprop_op, "x"_a, "y"_a, "where"_a, "norm"_a,
           "pool"_a, "relu"_a);
    define(m, "lrn_maxpool_dgrad", lrn_maxpool_dgrad_op, "x"_a, "y"_a, "dy"_a, "where"_a, "dx"_a,
           "norm"_a, "pool"_a, "gated"_a);
});

} // namespace
} // namespace pyalexnet

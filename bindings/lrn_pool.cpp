#include "pool_shape.hpp"
#include "register.hpp"
#include "same_shape.hpp"

#include <cfloat>

namespace pyalexnet {
namespace {

int groups_of(const Call& call, std::int64_t groups_, int channels) {
    const int groups = call.extent("groups", groups_);
    call.expect(channels % groups == 0, "groups is " + std::to_string(groups) +
                                            "; a divisor of the " + std::to_string(channels) +
                                            " channels was expected");
    return groups;
}

// Channels of a vector.
template <class T> constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// Refuses what no kernel does in one pass (ops.h).
template <class T> void expect_networks_form(const Call& call, const PoolShape& pool, int groups,
                                             const ResponseNorm& norm) {
    const auto expect = [&](bool holds, const std::string& came, const std::string& expected) {
        call.expect(holds, came + "; " + expected +
                               " was expected, as any other lrn and maxpool run one by one");
    };
    const int channels = pool.channels / groups, vector = kVector<T>;
    expect(norm.size == kLrnPoolNorm, "size is " + std::to_string(norm.size),
           std::to_string(kLrnPoolNorm));
    expect(norm.alpha >= 0.0f, "alpha is " + std::to_string(norm.alpha), "at least 0");
    expect(norm.beta == 0.75f, "beta is " + std::to_string(norm.beta), "0.75");
    expect(norm.k >= FLT_MIN, "k is " + std::to_string(norm.k), "a positive, normal number");
    expect(channels % vector == 0,
           "groups is " + std::to_string(groups) + ", each of " + std::to_string(channels) +
               " channels",
           "a multiple of " + std::to_string(vector) + " channels");
    expect(pool.channels <= kLrnPoolChannels,
           "x has " + std::to_string(pool.channels) + " channels",
           "at most " + std::to_string(kLrnPoolChannels));
}

// Codes of larger windows would not fit a byte; so this comes before `where`.
void expect_small(const Call& call, std::int64_t pool_size) {
    call.expect(pool_size <= kLrnPoolSize, "pool_size is " + std::to_string(pool_size) +
                                               "; at most " + std::to_string(kLrnPoolSize) +
                                               " was expected");
}

// Kernels read a pixel's channels in vectors of 16 bytes, and the codes of as many.
template <class T>
void expect_aligned(const Call& call, const char* name, const Array<T>& array, int bytes = 16) {
    call.expect(!array || array.address() % static_cast<std::uintptr_t>(bytes) == 0,
                name + std::string(" begins at an address that is no multiple of ") +
                    std::to_string(bytes) + "; one was expected");
}

void lrn_maxpool_fprop_op(const py::object& x_, const py::object& y_, const py::object& where_,
                          std::int64_t size, float alpha, float beta, float k, std::int64_t groups_,
                          std::int64_t pool_size, std::int64_t pool_stride, bool relu, int device,
                          const Target& target) {
    Call call("lrn_maxpool_fprop", device, target);
    expect_small(call, pool_size);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.output<T>("y", y_, 4);
        const auto where = call.output<std::uint8_t>("where", where_, 4);
        expect_same_shape(call, "y", y, "where", where);
        const PoolShape shape = pool_shape(call, x, y, pool_size, pool_stride);
        const int groups = groups_of(call, groups_, shape.channels);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        expect_networks_form<T>(call, shape, groups, norm);
        expect_aligned(call, "x", x);
        expect_aligned(call, "y", y);
        expect_aligned(call, "where", where, kVector<T>);
        call.launch([=](Stream s) {
            lrn_maxpool_fprop(x.data(), y.data(), where.data(), shape, groups, norm, relu, s);
        });
    });
}

void lrn_maxpool_dgrad_op(const py::object& x_, const py::object& y_, const py::object& dy_,
                          const py::object& where_, const py::object& dx_, std::int64_t size,
                          float alpha, float beta, float k, std::int64_t groups_,
                          std::int64_t pool_size, std::int64_t pool_stride, bool gated, int device,
                          const Target& target) {
    Call call("lrn_maxpool_dgrad", device, target);
    expect_small(call, pool_size);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, 4);
        const auto y = call.optional_input<const T>("y", y_, 4);
        const auto dy = call.input<const T>("dy", dy_, 4);
        const auto where = call.input<const std::uint8_t>("where", where_, 4);
        const auto dx = call.output<T>("dx", dx_, 4);
        expect_same_shape(call, "x", x, "dx", dx);
        expect_same_shape(call, "dy", dy, "where", where);
        if (y) expect_same_shape(call, "dy", dy, "y", y);
        const PoolShape shape = pool_shape(call, x, dy, pool_size, pool_stride);
        const int groups = groups_of(call, groups_, shape.channels);
        const ResponseNorm norm{call.extent("size", size), alpha, beta, k};
        expect_networks_form<T>(call, shape, groups, norm);
        expect_aligned(call, "x", x);
        expect_aligned(call, "y", y);
        expect_aligned(call, "dy", dy);
        expect_aligned(call, "where", where, kVector<T>);
        expect_aligned(call, "dx", dx);
        call.launch([=](Stream s) {
            lrn_maxpool_dgrad(x.data(), y.data(), dy.data(), where.data(), dx.data(), shape, groups,
                              norm, gated, s);
        });
    });
}

} // namespace

void register_lrn_pool(py::module_& m) {
    m.def("lrn_maxpool_fprop", &lrn_maxpool_fprop_op);
    m.def("lrn_maxpool_dgrad", &lrn_maxpool_dgrad_op);
}

} // namespace pyalexnet

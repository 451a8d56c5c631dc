// Ops that give a map of the same shape.
#pragma once

#include "array.hpp"

namespace pyalexnet {

// Refuses `b` unless it has the shape of `a`.
template <class A, class B> void expect_same_shape(const Call& call, const char* a_name, const A& a,
                                                   const char* b_name, const B& b) {
    call.expect(b.same_shape(a), std::string(b_name) + " has shape " + b.shape_text() + "; " +
                                     a_name + " has shape " + a.shape_text());
}

// Calls `use` with x, and y of its type and shape, to be written.
template <class Use> void with_map(Call& call, const py::object& x_, const py::object& y_,
                                   Alias alias, int rank, Use use) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_, rank);
        const auto y = call.output<T>("y", y_, alias, rank);
        expect_same_shape(call, "x", x, "y", y);
        use(x, y);
    });
}

// The same for a gradient: with a map of forward (x or y, as `name` says), dy, and dx.
template <class Use> void with_gradient(Call& call, const char* name, const py::object& map_,
                                        const py::object& dy_, const py::object& dx_, Alias alias,
                                        int rank, Use use) {
    with_element(map_, [&](auto element) {
        using T = decltype(element);
        const auto map = call.input<const T>(name, map_, rank);
        const auto dy = call.input<const T>("dy", dy_, rank);
        const auto dx = call.output<T>("dx", dx_, alias, rank);
        expect_same_shape(call, name, map, "dy", dy);
        expect_same_shape(call, name, map, "dx", dx);
        use(map, dy, dx);
    });
}

} // namespace pyalexnet

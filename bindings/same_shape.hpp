#pragma once

#include "array.hpp"

namespace pyalexnet {

// Refuses `b` unless it has the shape of `a`.
template <class A, class B> void expect_same_shape(const Call& call, const char* a_name, const A& a,
                                                   const char* b_name, const B& b) {
    call.expect(b.same_shape(a), std::string(b_name) + " has shape " + b.shape_text() + "; " +
                                     a_name + " has shape " + a.shape_text());
}

} // namespace pyalexnet

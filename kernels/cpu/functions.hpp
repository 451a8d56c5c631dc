// Exponentials and hyperbolic tangents of a vector, to two units of the last place; polynomials are
// those of Cephes (expf, tanhf).
#pragma once

#include "cpu/vector.hpp"

namespace pyalexnet::cpu {

// With the coefficient of the highest power first.
template <class... Lower> PYALEXNET_INLINE V polynomial(V x, float highest, Lower... lower) {
    V sum = splat(highest);
    ((sum = sum * x + lower), ...);
    return sum;
}

// e^x of x up to 0: 2^n e^r, where r is at most half of ln 2. A result below the least normal
// number is denormal.
PYALEXNET_INLINE V exponential(V x) {
    x = select(x < -110.0f, splat(-110.0f), x); // becomes 0; a NaN stays NaN
    constexpr float to_integer = 12582912.0f;   // 1.5 2^23: rounds what is added to it
    const V shifted = x * 1.44269504f + to_integer;
    const V n = shifted - to_integer;
    const V r = x - n * 0.693359375f - n * -2.12194440e-4f; // n ln 2 in two parts, the first exact
    const V p = polynomial(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                           4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f);
    // 2^n in two factors, so that what becomes denormal is rounded once.
    const Ints whole = as<Ints>(shifted) - as<Ints>(splat(to_integer)), half = whole >> 1;
    return (p * (r * r) + r + 1.0f) * as<V>((half + 127) << 23) * as<V>((whole - half + 127) << 23);
}

// Near 0 by a polynomial, which keeps the digits of small numbers. Not inlined: a fused tanh has
// the bits of a separate one.
[[gnu::noinline]] inline V tanh(V x) {
    const Ints sign = as<Ints>(x) & as<Ints>(splat(-0.0f));
    const V size = as<V>(as<Ints>(x) ^ sign), square = x * x;
    const V p = polynomial(square, -5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f,
                           1.33314422036e-1f, -3.33332819422e-1f);
    const V e = exponential(-2.0f * size);
    const V result = select(size < 0.625f, size * square * p + size, (1.0f - e) / (1.0f + e));
    return as<V>(as<Ints>(result) | sign);
}

} // namespace pyalexnet::cpu

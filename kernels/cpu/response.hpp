// The response norms' formula (ops.h) for a vector of units: shared by every kernel that needs it,
// in the order of response.cuh, in which nothing overflows unless the result does.
#pragma once

#include <cfloat>
#include <limits>

#include "cpu/lanes.hpp"
#include "response.cuh"

namespace pyalexnet::cpu {

// s^-beta and s^-1/2.
struct Powers {
    V power, root;
};

// For the networks' beta, .75, and s that is not denormal: by s^-1/4, without a root or a division.
struct ThreeQuarters {
    // A quarter of the exponent, negated, makes a guess that is right to 3.2 %. Each step leaves
    // about 8 times the cube of the error: the second, 1.6 units of the last place.
    PYALEXNET_INLINE static V inverse_fourth_root(V s) {
        V z = as<V>(splat(0x4f588000) - (as<Ints>(s) >> 2));
        for (int step = 0; step < 2; ++step) {
            const V z2 = z * z;
            const V rest = 1.0f - s * z2 * z2;
            z += z * rest * (0.25f + 0.15625f * rest);
        }
        return select(s > splat(FLT_MAX), V{}, z); // for an infinite s; a NaN stays NaN
    }

    PYALEXNET_INLINE Powers operator()(V s) const {
        const V z = inverse_fourth_root(s);
        const V root = z * z;
        return {root * z, root};
    }
};

// For any beta, lane by lane.
struct AnyPower {
    float beta;

    PYALEXNET_INLINE Powers operator()(V s) const {
        return {by_lanes(s, [this](float lane) { return std::pow(lane, -beta); }),
                1.0f / by_lanes(s, [](float lane) { return std::sqrt(lane); })};
    }
};

template <class Power> struct Response {
    float k, alpha, factor; // 2 alpha beta
    Power powers;

    Response(const ResponseNorm& norm, Power powers_)
        : k(norm.k), alpha(norm.alpha), factor(2.0f * norm.alpha * norm.beta), powers(powers_) {}

    PYALEXNET_INLINE V scale(V squares) const { return k + alpha * squares; }

    // What a unit passes on to each unit of its window, before that unit's factor x; `first` is dy
    // s^-beta, the first term of dx.
    PYALEXNET_INLINE V passed(V first, V x, V root) const {
        return first * (x * root * root * factor);
    }
    // dx of a unit, from its first term and the sum of what is passed to it.
    PYALEXNET_INLINE static V descend(V first, V x, V sum) { return first - x * sum; }
};

// Calls use(Response) with the form that the constants allow.
template <class Use> void with_response(const ResponseNorm& norm, Use use) {
    if (norm.beta == 0.75f && norm.k >= FLT_MIN && norm.alpha >= 0.0f)
        use(Response<ThreeQuarters>(norm, {}));
    else
        use(Response<AnyPower>(norm, {norm.beta}));
}

} // namespace pyalexnet::cpu

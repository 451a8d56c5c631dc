// The inner loop of all matrix products: a tile of sums stays in registers while the loop runs
// along the depth.
//
// B comes in panels, kPanel columns by the depth, one row of the panel after the other. A is not
// packed: each of its kRows rows begins at a pointer of its own and continues in runs, so that the
// rows may be patches of a map (a run is a row of the patch) or its taps (a run is a row of
// pixels).
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/vector.hpp"

namespace pyalexnet::cpu {

constexpr int kPanel = 2 * kLanes;
// As many as leave registers for a row of B: 24 of 32 hold sums, or 12 of 16.
constexpr int kRows = kLanes == 16 ? 12 : 6;

// Sums of kRows x kPanel, in memory between two turns of the loop.
struct alignas(kCacheLine) Tile {
    float of[kRows][kPanel];
};

// Element d of a row of A is at a[row] + (d / length) pitch + (d % length) step.
struct Runs {
    std::int64_t count, pitch, length;
};

// Of a sum, between two visits of its tile: a panel's take two thirds of the L1 cache.
constexpr std::int64_t kTermsAtOnce = 256;

// A part of the terms of a sum: some rows of a patch, or a piece of one.
struct Terms {
    std::int64_t first; // in a panel of filters
    std::int64_t place; // in a patch
    Runs runs;
};

// Calls use(terms) for one part after another, each small enough that its part of a panel stays in
// a core's L1 cache while all tiles of a band are computed.
template <class Use>
void for_each_terms(std::int64_t rows, std::int64_t pitch, std::int64_t length, Use use) {
    if (rows == 0 || length == 0) return;
    if (pitch == length) { // a filter as wide as its map: a linear layer, with the same bits
        length *= rows;
        rows = 1;
    }
    const std::int64_t pieces = quotient_up(length, kTermsAtOnce);
    const std::int64_t piece = quotient_up(length, pieces);
    const std::int64_t together = pieces > 1 ? 1 : std::max<std::int64_t>(kTermsAtOnce / length, 1);
    for (std::int64_t row = 0; row < rows; row += together)
        for (std::int64_t at = 0; at < length; at += piece) {
            const std::int64_t count = std::min(together, rows - row);
            use(Terms{row * length + at, row * pitch + at,
                      Runs{count, pitch, std::min(piece, length - at)}});
        }
}

namespace detail {

template <int vectors, std::size_t... row, class Step>
PYALEXNET_INLINE void multiply_rows(std::index_sequence<row...>, const float* const* a,
                                    const Runs& runs, Step step, const float* b, Tile& tile,
                                    bool from_zero) {
    constexpr int high = kLanes * (vectors - 1); // with one vector both are the same
    const float* const at[] = {a[row]...};
    V lows[] = {(static_cast<void>(row), V{})...};
    V highs[] = {(static_cast<void>(row), V{})...};
    const auto add = [](V element, V b_low, V b_high, V& low_sum, V& high_sum) {
        low_sum += element * b_low;
        if constexpr (vectors == 2) high_sum += element * b_high;
    };
    for (std::int64_t run = 0; run < runs.count; ++run) {
        std::int64_t place = run * runs.pitch;
#pragma GCC unroll 2
        for (std::int64_t i = 0; i < runs.length; ++i) {
            const V b_low = load(b), b_high = load(b + high);
            // Broadcast once, for both vectors: a cycle has fewer loads than products.
            (add(rounded(splat(at[row][place])), b_low, b_high, lows[row], highs[row]), ...);
            b += kPanel;
            place += step;
        }
    }
    if (!from_zero) {
        ((lows[row] += load(tile.of[row])), ...);
        if constexpr (vectors == 2) ((highs[row] += load(tile.of[row] + high)), ...);
    }
    if constexpr (vectors == 2) ((store(tile.of[row] + high, highs[row])), ...);
    ((store(tile.of[row], lows[row])), ...);
}

} // namespace detail

// tile = A B, added to its contents unless `from_zero`: a part of the depth is summed by itself
// first, which loses less than one long chain. Only the first `rows` rows of A and `columns`
// columns of B count, but more may be computed: all of A's pointers are valid. A sum's bits do not
// depend on how many there are. Bound by the multipliers: two products a cycle, and a row of B from
// the nearest caches for every kRows.
template <class Step> inline void multiply(int rows, int columns, const float* const (&a)[kRows],
                                           const Runs& runs, Step step, const float* b, Tile& tile,
                                           bool from_zero) {
    const auto multiply_rows = [&](auto vectors, auto count) PYALEXNET_LAMBDA {
        detail::multiply_rows<vectors>(std::make_index_sequence<count>{}, a, runs, step, b, tile,
                                       from_zero);
    };
    const auto multiply_vectors = [&](auto vectors) PYALEXNET_LAMBDA {
        constexpr int third = kRows / 3;
        if (rows > 2 * third)
            multiply_rows(vectors, Constant<kRows>{});
        else if (rows > third)
            multiply_rows(vectors, Constant<2 * third>{});
        else
            multiply_rows(vectors, Constant<third>{});
    };
    columns > kLanes ? multiply_vectors(Constant<2>{}) : multiply_vectors(Constant<1>{});
}

// The step between the elements of a contiguous run.
using Adjacent = std::integral_constant<std::int64_t, 1>;

} // namespace pyalexnet::cpu

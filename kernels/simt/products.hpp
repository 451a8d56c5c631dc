// How the emulated tensor cores add products of bf16, which are exact, to sums in float32.
#pragma once

#include <cstddef>

namespace simt {

constexpr std::size_t kProductDepth = 16;

// A card's way: so many products at once are aligned with the sum to the largest exponent among
// them, all cut to so many bits below it, and added; the new sum is cut to a float32.
struct Adder {
    std::size_t products;
    int bits;
};
constexpr Adder kAmpere{8, 24}; // mma.sync
constexpr Adder kHopper{16, 25};

// sums[c] += the sum over k of a[k] b[k][c], as the launch's schedule has it: in the card's way, or
// one product after another, each sum rounded to nearest. Columns come in fours, at multiples of 16
// bytes, as do the rows of b.
void add_products(float* sums, std::size_t columns, const float (&a)[kProductDepth], const float* b,
                  std::size_t pitch, Adder card);

} // namespace simt

// Khattak and Mikaitis (arXiv 2512.07004) and Xie and others (2511.10909) found by tests how cards
// add, and their models give a card's bits.
#include "products.hpp"

#include "worker.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace simt {
namespace {

constexpr std::size_t kLanes = 4;
using Four = float __attribute__((vector_size(16)));
using Ints = std::int32_t __attribute__((vector_size(16)));
using Wide = double __attribute__((vector_size(32)));

void round_to_nearest(Four& sums, const float (&a)[kProductDepth], const float* b,
                      std::size_t pitch) {
    for (std::size_t k = 0; k < kProductDepth; ++k)
        sums += a[k] * *reinterpret_cast<const Four*>(b + k * pitch);
}

void widen(const Four& x, Wide& to) { to = __builtin_convertvector(x, Wide); }

// The powers of two that numbers are multiples of, below 2; of denormal ones and 0 the smallest.
void powers_of(const Four& x, Wide& to) {
    const Ints exponent = reinterpret_cast<const Ints&>(x) & 0x7f800000;
    const Ints power = exponent | ((exponent == 0) & 0x00800000);
    widen(reinterpret_cast<const Four&>(power), to);
}

void cut(const Wide& x, Wide& to) {
    to = __builtin_convertvector(__builtin_convertvector(x, Ints), Wide);
}

float cut_to_float(double x) {
    float nearest = static_cast<float>(x);
    if (std::fabs(x) < 0x1p128 && std::fabs(static_cast<double>(nearest)) > std::fabs(x)) {
        std::uint32_t bits;
        std::memcpy(&bits, &nearest, sizeof bits);
        --bits;
        std::memcpy(&nearest, &bits, sizeof bits);
    }
    return nearest;
}

// Everything that is no power of two times an integer below 2^53 is cut, so doubles are exact.
void align_and_cut(Four& sums, const float* a, const float* b, std::size_t pitch, Adder card) {
    Wide largest, wide, power, term, plain, total;
    powers_of(sums, largest);
    const auto row = [&](std::size_t k) -> const Four& {
        return *reinterpret_cast<const Four*>(b + k * pitch);
    };
    for (std::size_t k = 0; k < card.products; ++k) {
        Wide of_a;
        powers_of(Four{a[k], a[k], a[k], a[k]}, of_a);
        powers_of(row(k), power);
        power *= of_a;
        largest = largest > power ? largest : power;
    }
    const Wide scale = std::ldexp(1.0, card.bits) / largest;
    widen(sums, plain);
    cut(plain * scale, total);
    for (std::size_t k = 0; k < card.products; ++k) {
        widen(row(k), wide);
        wide *= static_cast<double>(a[k]);
        plain += wide;
        cut(wide * scale, term);
        total += term;
    }
    total /= scale;
    for (std::size_t i = 0; i < kLanes; ++i)
        sums[i] = cut_to_float(std::isfinite(plain[i]) ? total[i] : plain[i]);
}

} // namespace

void add_products(float* sums, std::size_t columns, const float (&a)[kProductDepth], const float* b,
                  std::size_t pitch, Adder card) {
    const bool cuts = this_worker().cuts();
    for (std::size_t c = 0; c < columns; c += kLanes) {
        Four& four = *reinterpret_cast<Four*>(sums + c);
        if (!cuts) round_to_nearest(four, a, b + c, pitch);
        for (std::size_t k = 0; cuts && k < kProductDepth; k += card.products)
            align_and_cut(four, a + k, b + c + k * pitch, pitch, card);
    }
}

} // namespace simt

// Vectors of float32 as wide as the processor's, in the compilers' own vector types: one source for
// every instruction set. PYALEXNET_LANES, floats in a vector, comes from CMake, which compiles this
// folder once for each set.
//
// Arithmetic uses operators: +, -, *, / by lane, comparisons that give all ones or all zeros. The
// compiler may fuse a product and a sum (these files are compiled so, for the products of
// matrices); `rounded` keeps a product apart where the formula says that each step is rounded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "ops.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace pyalexnet::cpu {

constexpr int kLanes = PYALEXNET_LANES;
constexpr int kCacheLine = 64; // bytes

using V = float __attribute__((vector_size(4 * PYALEXNET_LANES)));
using Ints = std::int32_t __attribute__((vector_size(4 * PYALEXNET_LANES)));
using Words = std::uint32_t __attribute__((vector_size(4 * PYALEXNET_LANES)));
using Halves16 = std::uint16_t __attribute__((vector_size(2 * PYALEXNET_LANES)));
using Bytes8 = std::uint8_t __attribute__((vector_size(PYALEXNET_LANES)));

template <class Int> constexpr Int quotient_up(Int value, std::int64_t unit) {
    return static_cast<Int>((value + unit - 1) / unit);
}
template <class Int> constexpr Int rounded_up(Int value, Int unit) {
    return quotient_up(value, unit) * unit;
}
inline int clamped(std::int64_t value, std::int64_t least, std::int64_t most) {
    return static_cast<int>(std::clamp(value, least, most));
}

template <int value> using Constant = std::integral_constant<int, value>;

// Where an item is in a table of so many columns.
struct Cell {
    int row, column;
};
inline Cell cell_of(std::int64_t item, std::int64_t columns) {
    return {static_cast<int>(item / columns), static_cast<int>(item % columns)};
}

#define PYALEXNET_INLINE __attribute__((always_inline)) inline
#define PYALEXNET_LAMBDA __attribute__((always_inline))

// The same bits as another type of the same size.
template <class To, class From> PYALEXNET_INLINE To as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Less zeros, not plus zeros, which would lose the sign of -0.
PYALEXNET_INLINE V splat(float x) { return x - V{}; }
PYALEXNET_INLINE Ints splat(std::int32_t x) { return Ints{} + x; }

// A value that the compiler fuses with nothing: a product that is rounded before it is added.
PYALEXNET_INLINE V rounded(V x) {
    asm("" : "+" PYALEXNET_VECTOR_REGISTER(x));
    return x;
}

PYALEXNET_INLINE V select(Ints mask, V yes, V no) { return mask ? yes : no; }
PYALEXNET_INLINE Ints select(Ints mask, Ints yes, Ints no) { return mask ? yes : no; }

// f of each lane.
template <class F> PYALEXNET_INLINE V by_lanes(V x, F f) {
    float lanes[kLanes];
    std::memcpy(lanes, &x, sizeof x);
    for (float& lane : lanes) lane = f(lane);
    std::memcpy(&x, lanes, sizeof x);
    return x;
}

// ---------------------------------------------------------------------- widths of integers

// By dedicated instructions, where they exist: gcc 12 splits such conversions up.
#if defined(__AVX512BW__)
// Masked with all ones: gcc 12 warns that the plain ones use an uninitialised value.
PYALEXNET_INLINE Ints widen(Bytes8 x) {
    return as<Ints>(_mm512_maskz_cvtepu8_epi32(0xffff, as<__m128i>(x)));
}
PYALEXNET_INLINE Ints widen(Halves16 x) {
    return as<Ints>(_mm512_maskz_cvtepu16_epi32(0xffff, as<__m256i>(x)));
}
#elif defined(__AVX2__)
PYALEXNET_INLINE Ints widen(Bytes8 x) {
    return as<Ints>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(as<long long>(x))));
}
PYALEXNET_INLINE Ints widen(Halves16 x) { return as<Ints>(_mm256_cvtepu16_epi32(as<__m128i>(x))); }
#else
PYALEXNET_INLINE Ints widen(Bytes8 x) {
    return __builtin_convertvector(__builtin_convertvector(x, Halves16), Ints);
}
PYALEXNET_INLINE Ints widen(Halves16 x) { return __builtin_convertvector(x, Ints); }
#endif

template <class To> PYALEXNET_INLINE To narrow_to(Ints x) {
    if constexpr (sizeof(To) == kLanes && kLanes < 16)
        return __builtin_convertvector(__builtin_convertvector(x, Halves16), To);
    else
        return __builtin_convertvector(x, To);
}

// ---------------------------------------------------------------------- loads and stores

// Anywhere in memory, floats or bf16, which are widened.
PYALEXNET_INLINE V load(const float* from) {
    V x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
PYALEXNET_INLINE V load(const bf16* from) {
    Halves16 x;
    std::memcpy(&x, from, sizeof x);
    return as<V>(widen(x) << 16);
}

PYALEXNET_INLINE void store(float* to, V x) { std::memcpy(to, &x, sizeof x); }

// To the nearest bf16, ties to even; any NaN becomes 0x7fff, as on the card.
PYALEXNET_INLINE Halves16 narrow(V x) {
    const Words bits = as<Words>(x);
    const Words nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words is_nan = as<Words>(x != x);
    return __builtin_convertvector((nearest & ~is_nan) | (is_nan & 0x7fffu), Halves16);
}
PYALEXNET_INLINE void store(bf16* to, V x) {
    const Halves16 halves = narrow(x);
    std::memcpy(to, &halves, sizeof halves);
}

// Past the caches, to addresses aligned to the vector's size: a plain store reads its line first.
// The processor orders these stores before the next locked instruction only, which ends every
// piece of simt::parallel's work.
template <class Bits> PYALEXNET_INLINE void store_past_caches(void* to, Bits x) {
#if defined(__SSE2__)
    if constexpr (sizeof x == 64)
        return _mm512_stream_si512(static_cast<__m512i*>(to), as<__m512i>(x));
    else if constexpr (sizeof x == 32)
        return _mm256_stream_si256(static_cast<__m256i*>(to), as<__m256i>(x));
    else if constexpr (sizeof x == 16)
        return _mm_stream_si128(static_cast<__m128i*>(to), as<__m128i>(x));
#endif
    std::memcpy(to, &x, sizeof x);
}

// The first `count` of a vector's elements; zeros after them. Rare, and kept out of the loops.
template <class T> [[gnu::noinline]] V load_some(const T* from, int count) {
    T some[kLanes] = {};
    std::memcpy(some, from, static_cast<std::size_t>(count) * sizeof(T));
    return load(some);
}
template <class T> [[gnu::noinline]] void store_some(T* to, V x, int count) {
    T some[kLanes];
    store(some, x);
    std::memcpy(to, some, static_cast<std::size_t>(count) * sizeof(T));
}

// Loads and stores of `count` neighbours, nearly always a whole vector.
template <class T> PYALEXNET_INLINE V load(const T* from, int count) {
    return count == kLanes ? load(from) : load_some(from, count);
}
template <class T> PYALEXNET_INLINE void store(T* to, V x, int count) {
    count == kLanes ? store(to, x) : store_some(to, x, count);
}

// The same for integers of one or two bytes.
template <class Int> using Narrow = std::conditional_t<sizeof(Int) == 1, Bytes8, Halves16>;
template <class Int> PYALEXNET_INLINE Ints load_ints(const Int* from, int count) {
    Narrow<Int> integers{};
    std::memcpy(&integers, from, static_cast<std::size_t>(count) * sizeof(Int));
    return widen(integers);
}
template <class Int> PYALEXNET_INLINE void store_ints(Int* to, Ints x, int count) {
    const auto integers = narrow_to<Narrow<Int>>(x);
    std::memcpy(to, &integers, static_cast<std::size_t>(count) * sizeof(Int));
}

// Where a kernel's outputs go, in runs of `width` neighbours. What no cache would keep until it is
// read passes the caches, if only whole, aligned vectors are stored.
template <class T> struct Outputs {
    T* to;
    bool pass_caches;

    Outputs(T* first, std::int64_t count, int width)
        : to(first),
          pass_caches(count * std::int64_t{sizeof(T)} > kKept && width % kLanes == 0 &&
                      reinterpret_cast<std::uintptr_t>(first) % (kLanes * sizeof(T)) == 0) {}

    PYALEXNET_INLINE void put(std::int64_t place, int count, V x) const {
        if (!pass_caches)
            store(to + place, x, count);
        else if constexpr (sizeof(T) == sizeof(float))
            store_past_caches(to + place, x);
        else
            store_past_caches(to + place, narrow(x));
    }

  private:
    static constexpr std::int64_t kKept = std::int64_t{16} << 20; // bytes
};

// ---------------------------------------------------------------------- transposition

namespace detail {

// Lanes of two vectors that swap what lies off the diagonal of blocks of 2 x `step`.
template <int step, int... lane>
PYALEXNET_INLINE V upper(V a, V b, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(a, b, (lane & step ? kLanes + lane - step : lane)...);
}
template <int step, int... lane>
PYALEXNET_INLINE V lower(V a, V b, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(a, b, (lane & step ? kLanes + lane : lane + step)...);
}

template <int step> PYALEXNET_INLINE void transpose_blocks(V (&rows)[kLanes]) {
    if constexpr (step < kLanes) {
        constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 16
        for (int row = 0; row < kLanes; ++row) {
            if (row & step) continue;
            const V a = rows[row], b = rows[row + step];
            rows[row] = upper<step>(a, b, lanes);
            rows[row + step] = lower<step>(a, b, lanes);
        }
        transpose_blocks<2 * step>(rows);
    }
}

} // namespace detail

PYALEXNET_INLINE void transpose(V (&rows)[kLanes]) { detail::transpose_blocks<1>(rows); }

} // namespace pyalexnet::cpu

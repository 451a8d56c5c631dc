// Neighbouring elements, vector by vector, whatever their number; and rows shared among the cores.
#pragma once

#include <algorithm>

#include "cpu/vector.hpp"
#include "simt/threads.hpp"

namespace pyalexnet::cpu {

// The codes of a vector's channels: a pool's `where`.
PYALEXNET_INLINE Ints load_codes(const std::uint8_t* from) {
    Bytes8 codes;
    std::memcpy(&codes, from, sizeof codes);
    return widen(codes);
}
PYALEXNET_INLINE Ints load_codes(const std::uint16_t* from) {
    Halves16 codes;
    std::memcpy(&codes, from, sizeof codes);
    return widen(codes);
}
PYALEXNET_INLINE void store_codes(std::uint8_t* to, Ints x) {
    const Bytes8 codes = narrow_to_bytes(x);
    std::memcpy(to, &codes, sizeof codes);
}
PYALEXNET_INLINE void store_codes(std::uint16_t* to, Ints x) {
    const Halves16 codes = __builtin_convertvector(x, Halves16);
    std::memcpy(to, &codes, sizeof codes);
}

// All lanes of a vector, or only the first: past the last element there may be no memory.
struct Whole {
    template <class T> PYALEXNET_INLINE V load(const T* from) const { return cpu::load(from); }
    template <class T> PYALEXNET_INLINE void store(T* to, V x) const { cpu::store(to, x); }
    template <class Code> PYALEXNET_INLINE Ints load_codes(const Code* from) const {
        return cpu::load_codes(from);
    }
    template <class Code> PYALEXNET_INLINE void store_codes(Code* to, Ints x) const {
        cpu::store_codes(to, x);
    }
};
struct First {
    int count; // the other lanes load as 0

    template <class T> PYALEXNET_INLINE V load(const T* from) const {
        return load_some(from, count);
    }
    template <class T> PYALEXNET_INLINE void store(T* to, V x) const { store_some(to, x, count); }
    template <class Code> PYALEXNET_INLINE Ints load_codes(const Code* from) const {
        Code some[kLanes] = {};
        std::memcpy(some, from, static_cast<std::size_t>(count) * sizeof(Code));
        return cpu::load_codes(some);
    }
    template <class Code> PYALEXNET_INLINE void store_codes(Code* to, Ints x) const {
        Code some[kLanes];
        cpu::store_codes(some, x);
        std::memcpy(to, some, static_cast<std::size_t>(count) * sizeof(Code));
    }
};

// Calls body(i, lanes) for the vectors of `count` elements, the first of them element i.
template <class Body> PYALEXNET_INLINE void by_vectors(int count, Body body) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) body(i, Whole{});
    if (i < count) body(i, First{count - i});
}

// Calls work(first, end) for runs of rows, on any core: enough elements a run that the cost of
// handing it out is negligible.
template <class Work>
void parallel_rows(std::int64_t rows, std::int64_t row_elements, const Work& work) {
    constexpr std::int64_t run_elements = 1 << 15;
    const std::int64_t run = std::max(run_elements / row_elements, std::int64_t{1});
    simt::parallel((rows + run - 1) / run, [&](std::int64_t piece, int) {
        work(piece * run, std::min(rows, (piece + 1) * run));
    });
}

} // namespace pyalexnet::cpu

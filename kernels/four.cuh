// Four neighbouring elements, the unit in which a thread of an epilogue or of an update works: 16
// bytes of floats, 8 of halves, one Philox call.
#pragma once

#include <type_traits>

#include "bf16.cuh"

namespace pyalexnet {

template <class T> struct alignas(4 * sizeof(T)) Four {
    T of[4];
};

template <class T> __device__ __forceinline__ bool is_aligned(const T* four) {
    return reinterpret_cast<std::uintptr_t>(four) % sizeof(Four<T>) == 0;
}

// The first `count` of the four elements at `from`, followed by zeros: one access if there are four
// and they are aligned.
template <class T> __device__ __forceinline__ Four<T> read_four(const T* from, int count) {
    if (count == 4 && is_aligned(from)) return *reinterpret_cast<const Four<T>*>(from);
    Four<T> four{};
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (i < count) four.of[i] = from[i];
    return four;
}

// Writes them, likewise.
template <class T>
__device__ __forceinline__ void write_four(T* to, int count, const Four<T>& four) {
    if (count == 4 && is_aligned(to)) {
        *reinterpret_cast<Four<T>*>(to) = four;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (i < count) to[i] = four.of[i];
}

// Four columns of a matrix; the first `count` exist. `whole`: all do, and each row of them is
// aligned.
template <class T, bool whole> struct FourColumns {
    T* first;
    int pitch; // elements from one row to the next
    int count;

    __device__ __forceinline__ auto read(int row) const {
        using Element = std::remove_const_t<T>;
        if constexpr (whole)
            return *reinterpret_cast<const Four<Element>*>(at(row));
        else
            return read_four<Element>(at(row), count);
    }
    __device__ __forceinline__ void write(int row, const Four<T>& four) const {
        if constexpr (whole)
            *reinterpret_cast<Four<T>*>(at(row)) = four;
        else
            write_four(at(row), count, four);
    }

  private:
    // One multiply-add: unsigned, and in bytes.
    __device__ __forceinline__ T* at(int row) const {
        using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
        const auto bytes = static_cast<unsigned>(pitch) * static_cast<unsigned>(sizeof(T));
        return reinterpret_cast<T*>(reinterpret_cast<Byte*>(first) +
                                    std::uint64_t{static_cast<unsigned>(row)} * bytes);
    }
};

// Four values, each rounded to T.
template <class T> __device__ __forceinline__ Four<T> narrow_four(const float (&values)[4]) {
    return {
        {narrow<T>(values[0]), narrow<T>(values[1]), narrow<T>(values[2]), narrow<T>(values[3])}};
}

} // namespace pyalexnet

// The neighbouring channels of a pixel that a thread works on at once: in accesses of 16 bytes
// where all arrays and the number of channels allow that, else one by one.
#pragma once

#include <type_traits>

#include "bf16.cuh"

namespace pyalexnet {

// Calls `use` with how many channels a thread takes, a compile-time constant: kVector<T> where the
// pixels of each array fall into whole 16-byte vectors, else one.
template <class T, class Use, class... Arrays>
void with_width(int channels, Use use, const Arrays*... arrays) {
    if (channels % kVector<T> == 0 && (aligned(arrays) && ...))
        use(std::integral_constant<int, kVector<T>>{});
    else
        use(std::integral_constant<int, 1>{});
}

// One channel, or kVector<T>, 16-byte aligned.
template <class T, int count>
__device__ __forceinline__ void load_channels(const T* from, float (&values)[count]) {
    static_assert(count == 1 || count == kVector<T>, "channels that make no vector");
    if constexpr (count == 1)
        values[0] = widen(*from);
    else
        load_vector(from, values);
}
template <class T, int count>
__device__ __forceinline__ void store_channels(T* to, const float (&values)[count]) {
    static_assert(count == 1 || count == kVector<T>, "channels that make no vector");
    if constexpr (count == 1)
        *to = narrow<T>(values[0]);
    else
        store_vector(to, values);
}

// Two neighbours, aligned to their total size.
__device__ __forceinline__ void load_pair(const float* from, float (&values)[2]) {
    const float2 pair = *reinterpret_cast<const float2*>(from);
    values[0] = pair.x;
    values[1] = pair.y;
}
__device__ __forceinline__ void load_pair(const bf16* from, float (&values)[2]) {
    const unsigned pair = *reinterpret_cast<const unsigned*>(from);
    values[0] = widen_low(pair);
    values[1] = widen_high(pair);
}

// The codes of `count` neighbouring channels, packed in words: a pool's `where`.
template <class Code, int count> struct Codes {
    static constexpr int kBytes = count * static_cast<int>(sizeof(Code));
    static constexpr int kBits = 8 * static_cast<int>(sizeof(Code));
    static constexpr int kPerWord = 32 / kBits;
    static_assert(count == 1 || kBytes == 4 || kBytes == 8 || kBytes == 16, "no such access");
    alignas(count == 1 ? 4 : kBytes) unsigned words[(kBytes + 3) / 4];

    // `from` is aligned to the codes' total size.
    __device__ __forceinline__ static Codes load(const Code* from) {
        if constexpr (count == 1)
            return {{*from}};
        else
            return *reinterpret_cast<const Codes*>(from);
    }
    __device__ __forceinline__ void store(Code* to) const {
        if constexpr (count == 1)
            *to = static_cast<Code>(words[0]);
        else
            *reinterpret_cast<Codes*>(to) = *this;
    }

    __device__ __forceinline__ static Codes pack(const int (&each)[count]) {
        Codes codes{};
#pragma unroll
        for (int i = 0; i < count; ++i)
            codes.words[i / kPerWord] |= static_cast<unsigned>(each[i]) << i % kPerWord * kBits;
        return codes;
    }
    __device__ __forceinline__ int operator[](int i) const {
        return static_cast<int>(words[i / kPerWord] >> i % kPerWord * kBits & ((1u << kBits) - 1));
    }
};

} // namespace pyalexnet

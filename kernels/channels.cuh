// The neighbouring channels of a pixel that a thread works on at once: in accesses of 16 bytes
// where all arrays and the number of channels allow that, else one by one.
#pragma once

#include <type_traits>

#include "four.cuh"

namespace pyalexnet {

// Calls `use` with how many channels a thread takes, a compile-time constant: kVector<T> where the
// pixels of each array fall into whole 16-byte vectors, else one.
template <class T, class Use, class... Arrays>
void with_width(int channels, Use use, const Arrays*... arrays) {
    if (channels % kVector<T> == 0 && ((reinterpret_cast<std::uintptr_t>(arrays) % 16 == 0) && ...))
        use(std::integral_constant<int, kVector<T>>{});
    else
        use(std::integral_constant<int, 1>{});
}

// One channel, or a multiple of kVector<T>, 16-byte aligned.
template <class T, int count>
__device__ __forceinline__ void load_channels(const T* from, float (&values)[count]) {
    if constexpr (count == 1) {
        values[0] = widen(*from);
    } else {
        static_assert(count % kVector<T> == 0, "channels that make no vectors");
#pragma unroll
        for (int first = 0; first < count; first += kVector<T>) {
            float vector[kVector<T>];
            load_vector(from + first, vector);
#pragma unroll
            for (int i = 0; i < kVector<T>; ++i) values[first + i] = vector[i];
        }
    }
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

template <class T, int count>
__device__ __forceinline__ void store_channels(T* to, const float (&values)[count]) {
    if constexpr (count == 1) {
        *to = narrow<T>(values[0]);
    } else {
        static_assert(count % kVector<T> == 0, "channels that make no vectors");
#pragma unroll
        for (int first = 0; first < count; first += kVector<T>) {
            float vector[kVector<T>];
#pragma unroll
            for (int i = 0; i < kVector<T>; ++i) vector[i] = values[first + i];
            store_vector(to + first, vector);
        }
    }
}

// The codes of `count` neighbouring channels, packed in words: a pool's `where`.
template <class Code, int count> class Codes {
  public:
    // `from` is aligned to the codes' total size.
    __device__ __forceinline__ static Codes load(const Code* from) {
        Codes codes;
        if constexpr (count == 1) {
            codes.words_[0] = *from;
        } else if constexpr (kBytes == 4) {
            codes.words_[0] = *reinterpret_cast<const unsigned*>(from);
        } else if constexpr (kBytes == 8) {
            const uint2 words = *reinterpret_cast<const uint2*>(from);
            codes.words_[0] = words.x;
            codes.words_[1] = words.y;
        } else {
            const uint4 words = *reinterpret_cast<const uint4*>(from);
            codes.words_[0] = words.x;
            codes.words_[1] = words.y;
            codes.words_[2] = words.z;
            codes.words_[3] = words.w;
        }
        return codes;
    }

    __device__ __forceinline__ void store(Code* to) const {
        if constexpr (count == 1) {
            *to = static_cast<Code>(words_[0]);
        } else if constexpr (kBytes == 4) {
            *reinterpret_cast<unsigned*>(to) = words_[0];
        } else if constexpr (kBytes == 8) {
            *reinterpret_cast<uint2*>(to) = make_uint2(words_[0], words_[1]);
        } else {
            *reinterpret_cast<uint4*>(to) = make_uint4(words_[0], words_[1], words_[2], words_[3]);
        }
    }

    __device__ __forceinline__ static Codes pack(const int (&each)[count]) {
        Codes codes;
#pragma unroll
        for (int word = 0; word < kWords; ++word) codes.words_[word] = 0;
#pragma unroll
        for (int i = 0; i < count; ++i)
            codes.words_[i / kPerWord] |= static_cast<unsigned>(each[i]) << shift(i);
        return codes;
    }

    __device__ __forceinline__ int operator[](int i) const {
        return static_cast<int>(words_[i / kPerWord] >> shift(i) & kMask);
    }

  private:
    static constexpr int kBytes = count * static_cast<int>(sizeof(Code));
    static constexpr int kWords = (kBytes + 3) / 4;
    static constexpr int kPerWord = 4 / static_cast<int>(sizeof(Code));
    static constexpr unsigned kMask = (1u << (8 * sizeof(Code))) - 1;
    static_assert(count == 1 || kBytes == 4 || kBytes == 8 || kBytes == 16, "no such access");

    __device__ __forceinline__ static int shift(int i) {
        return i % kPerWord * 8 * static_cast<int>(sizeof(Code));
    }

    unsigned words_[kWords];
};

} // namespace pyalexnet

// Towers trade maps: a device pulls the parts it needs from its peers' memory.
#include "ops.h"
#include "simt/simt.hpp"

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void accumulate(float& sum, float value) { sum += value; }

__device__ __forceinline__ void accumulate(float4& sum, float4 value) {
    sum.x += value.x;
    sum.y += value.y;
    sum.z += value.z;
    sum.w += value.w;
}

// A thread copies one Value, one float or four channels, a block 256 of them; the whole's channels
// move fastest. Channels are counted in Values. Bound by bytes, between devices by the link.
template <class Value>
__global__ void exchange_gather_kernel(ExchangeParts parts, Value* __restrict__ whole,
                                       std::int64_t count, int whole_channels) {
    const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
    if (i >= count) return;
    const std::int64_t pixel = i / whole_channels;
    const int c = static_cast<int>(i - pixel * whole_channels);
    int first = 0; // channel of the whole at which the part begins
#pragma unroll     // so that the parts are read from the kernel's arguments in place
    for (int part = 0; part < kMaxPeers; ++part) {
        if (part == parts.count) break;
        const int channels = parts.channels[part];
        if (first <= c && c < first + channels) {
            const auto* from = reinterpret_cast<const Value*>(parts.data[part]);
            whole[i] = from[pixel * channels + (c - first)];
        }
        first += channels;
    }
}

// A thread sums one Value over the wholes in their order, a block 256; the part's channels move
// fastest. Channels are counted in Values. Bound by bytes, between devices by the link.
template <class Value>
__global__ void exchange_scatter_add_kernel(ExchangeWholes dwholes, Value* __restrict__ dpart,
                                            std::int64_t count, int whole_channels, int start,
                                            int part_channels) {
    const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
    if (i >= count) return;
    const std::int64_t pixel = i / part_channels;
    const int c = static_cast<int>(i - pixel * part_channels);
    const std::int64_t from = pixel * whole_channels + start + c;
    Value sum = reinterpret_cast<const Value*>(dwholes.data[0])[from];
#pragma unroll // as above
    for (int whole = 1; whole < kMaxPeers; ++whole) {
        if (whole == dwholes.count) break;
        accumulate(sum, reinterpret_cast<const Value*>(dwholes.data[whole])[from]);
    }
    dpart[i] = sum;
}

bool vector_aligned(const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(float4) == 0;
}

bool vectorizes(const ExchangeParts& parts, const float* whole) {
    bool yes = vector_aligned(whole);
    for (int i = 0; i < parts.count; ++i) {
        yes = yes && vector_aligned(parts.data[i]) && parts.channels[i] % 4 == 0;
    }
    return yes;
}

bool vectorizes(const ExchangeWholes& dwholes, const float* dpart) {
    bool yes = vector_aligned(dpart);
    for (int i = 0; i < dwholes.count; ++i) yes = yes && vector_aligned(dwholes.data[i]);
    return yes;
}

template <class Value>
void launch_gather(ExchangeParts parts, float* whole, std::int64_t pixels, Stream stream) {
    constexpr int width = sizeof(Value) / sizeof(float);
    int whole_channels = 0;
    for (int i = 0; i < parts.count; ++i) {
        parts.channels[i] /= width;
        whole_channels += parts.channels[i];
    }
    const std::int64_t count = pixels * whole_channels;
    simt::launch<exchange_gather_kernel<Value>>(
        simt::Grid(simt::blocks_for(count, kThreads), kThreads, stream), parts,
        reinterpret_cast<Value*>(whole), count, whole_channels);
}

template <class Value> void launch_scatter_add(const ExchangeWholes& dwholes, float* dpart,
                                               std::int64_t pixels, int whole_channels, int start,
                                               int part_channels, Stream stream) {
    constexpr int width = sizeof(Value) / sizeof(float);
    const std::int64_t count = pixels * (part_channels / width);
    simt::launch<exchange_scatter_add_kernel<Value>>(
        simt::Grid(simt::blocks_for(count, kThreads), kThreads, stream), dwholes,
        reinterpret_cast<Value*>(dpart), count, whole_channels / width, start / width,
        part_channels / width);
}

} // namespace

void exchange_gather(ExchangeParts parts, float* whole, std::int64_t pixels, Stream stream) {
    if (vectorizes(parts, whole)) {
        launch_gather<float4>(parts, whole, pixels, stream);
    } else {
        launch_gather<float>(parts, whole, pixels, stream);
    }
}

void exchange_scatter_add(ExchangeWholes dwholes, float* dpart, std::int64_t pixels,
                          int whole_channels, int start, int part_channels, Stream stream) {
    const bool whole_vectors = whole_channels % 4 == 0 && start % 4 == 0 && part_channels % 4 == 0;
    if (whole_vectors && vectorizes(dwholes, dpart)) {
        launch_scatter_add<float4>(dwholes, dpart, pixels, whole_channels, start, part_channels,
                                   stream);
    } else {
        launch_scatter_add<float>(dwholes, dpart, pixels, whole_channels, start, part_channels,
                                  stream);
    }
}

} // namespace pyalexnet

// Towers trade maps: a device pulls the parts it needs from its peers' memory. Parts of a batch
// have their gradients added.
#include "channels.cuh"
#include "four.cuh"
#include "ops.h"

#include <numeric>

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;

// A thread copies one vector, of one or four channels, a block 256 of them; the whole's channels
// move fastest. Channels are counted in vectors. Bound by bytes, between devices by the link.
template <int kWidth> __global__ void exchange_gather_kernel(Peers parts, float* __restrict__ whole,
                                                             std::int64_t count,
                                                             int whole_channels) {
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
            float values[kWidth];
            load_channels(parts.data[part] + kWidth * (pixel * channels + (c - first)), values);
            store_channels(whole + kWidth * i, values);
        }
        first += channels;
    }
}

// A thread sums one vector over the wholes in their order, a block 256; the part's channels move
// fastest. Channels are counted in vectors. Bound by bytes, between devices by the link.
template <int kWidth>
__global__ void exchange_scatter_add_kernel(Peers dwholes, float* __restrict__ dpart,
                                            std::int64_t count, int start, int channels) {
    const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
    if (i >= count) return;
    const std::int64_t pixel = i / channels;
    const int c = static_cast<int>(i - pixel * channels);
    const std::int64_t from = kWidth * (pixel * dwholes.channels[0] + start + c);
    float sum[kWidth];
    load_channels(dwholes.data[0] + from, sum);
#pragma unroll // as above
    for (int whole = 1; whole < kMaxPeers; ++whole) {
        if (whole == dwholes.count) break;
        float values[kWidth];
        load_channels(dwholes.data[whole] + from, values);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sum[j] += values[j];
    }
    store_channels(dpart + kWidth * i, sum);
}

// The sum of four elements over the parts from `first` on, at most kSpan of them, by a tree.
template <int kSpan, class T> __device__ __forceinline__ void
add_up(const Summands<T>& parts, int first, std::int64_t at, int count, float (&sum)[4]) {
    if constexpr (kSpan == 1) {
        const Four<T> four = read_four(parts.data[first] + at, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = widen(four.of[i]);
    } else {
        add_up<kSpan / 2>(parts, first, at, count, sum);
        if (first + kSpan / 2 >= parts.count) return;
        float others[4];
        add_up<kSpan / 2>(parts, first + kSpan / 2, at, count, others);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += others[i];
    }
}

// A thread sums four neighbours over all parts, a block 1,024. Bound by bytes. No __restrict__: the
// total may be a part.
template <class T, class Y>
__global__ void sum_parts_kernel(Summands<T> parts, Y* total, std::int64_t count) {
    const std::int64_t at = 4 * (blockIdx.x * std::int64_t{kThreads} + threadIdx.x);
    if (at >= count) return;
    const int own = static_cast<int>(min(count - at, std::int64_t{4}));
    float sum[4];
    add_up<kMaxSummands>(parts, 0, at, own, sum);
    write_four(total + at, own, narrow_four<Y>(sum));
}

// Calls `use` with the channels of a vector, and counts the peers' in vectors: four channels if all
// addresses and all numbers of channels allow that. `others`: the bitwise or of the numbers of
// channels besides the peers'.
template <class Use> void with_vectors(Peers& peers, const float* own, int others, Use use) {
    for (int i = 0; i < peers.count; ++i) others |= aligned(peers.data[i]) ? peers.channels[i] : 1;
    const auto in_vectors = [&](auto width) {
        for (int i = 0; i < peers.count; ++i) peers.channels[i] /= width;
        use(width);
    };
    with_width<float>(others, in_vectors, own);
}

} // namespace

void exchange_gather(Peers parts, float* whole, std::int64_t pixels, Stream stream) {
    with_vectors(parts, whole, 0, [&](auto width) {
        const int channels = std::accumulate(parts.channels, parts.channels + parts.count, 0);
        const std::int64_t count = pixels * channels;
        const simt::Grid grid(simt::blocks_for(count, kThreads), kThreads, stream);
        simt::launch<exchange_gather_kernel<width()>>(grid, parts, whole, count, channels);
    });
}

void exchange_scatter_add(Peers dwholes, float* dpart, std::int64_t pixels, int start, int channels,
                          Stream stream) {
    with_vectors(dwholes, dpart, start | channels, [&](auto width) {
        const std::int64_t count = pixels * (channels / width);
        const simt::Grid grid(simt::blocks_for(count, kThreads), kThreads, stream);
        simt::launch<exchange_scatter_add_kernel<width()>>(grid, dwholes, dpart, count,
                                                           start / width, channels / width);
    });
}

template <class T, class Y>
void sum_parts(Summands<T> parts, Y* total, std::int64_t count, Stream stream) {
    const simt::Grid grid(simt::blocks_for(count, 4 * kThreads), kThreads, stream);
    simt::launch<sum_parts_kernel<T, Y>>(grid, parts, total, count);
}

template void sum_parts(Summands<float>, float*, std::int64_t, Stream);
template void sum_parts(Summands<float>, bf16*, std::int64_t, Stream);
template void sum_parts(Summands<bf16>, float*, std::int64_t, Stream);
template void sum_parts(Summands<bf16>, bf16*, std::int64_t, Stream);

} // namespace pyalexnet

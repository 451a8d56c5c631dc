// Dropout by the 2012 rule: a mask and no scaling. The mask is a function of an element's position
// in the whole layer, so it is never stored and towers draw what one device would.
#include "draw.cuh"
#include "four.cuh"

namespace pyalexnet {
namespace {

constexpr int kThreads = 256;

// How features fall into groups of four that share one Philox call.
struct Groups {
    std::int64_t images, features;
    std::int64_t per_image; // an upper bound where images start inside a group
    bool aligned;           // every group is four features, at a multiple of their bytes
};

// A thread draws four words and masks the elements of one image that they belong to: up to four
// neighbours, features fastest. Bound by bytes; the ten Philox rounds for four elements hide behind
// them. No __restrict__: y may be x.
template <class T> __global__ void dropout_kernel(const T* x, T* y, Groups groups, DropoutDraw draw,
                                                  std::uint64_t threshold) {
    const std::int64_t thread = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
    const std::int64_t image = thread / groups.per_image;
    if (image >= groups.images) return;
    const std::int64_t start = image * draw.total + draw.offset; // e of the image's feature 0
    const std::int64_t group = start / 4 + thread % groups.per_image;
    const std::int64_t first = 4 * group - start; // feature of draw 0; negative before feature 0

    const uint4 word = draw_group(draw, group);
    x += image * groups.features;
    y += image * groups.features;
    const unsigned words[4] = {word.x, word.y, word.z, word.w};
    if (groups.aligned) {
        Four<T> four = *reinterpret_cast<const Four<T>*>(x + first);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (words[i] >= threshold) four.of[i] = T{};
        *reinterpret_cast<Four<T>*>(y + first) = four;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const std::int64_t feature = first + i;
        if (feature < 0 || feature >= groups.features) continue;
        y[feature] = words[i] < threshold ? x[feature] : T{};
    }
}

template <class T> bool vector_aligned(const T* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(Four<T>) == 0;
}

template <class T> Groups groups_of(const T* x, const T* y, std::int64_t images,
                                    std::int64_t features, const DropoutDraw& draw) {
    const bool starts_whole = draw.offset % 4 == 0 && (images == 1 || draw.total % 4 == 0);
    const std::int64_t whole = (features + 3) / 4;
    return {images, features, starts_whole ? whole : whole + 1,
            starts_whole && features % 4 == 0 && vector_aligned(x) && vector_aligned(y)};
}

} // namespace

template <class T> void dropout(const T* x, T* y, std::int64_t images, std::int64_t features,
                                DropoutDraw draw, Stream stream) {
    const Groups groups = groups_of(x, y, images, features, draw);
    const unsigned blocks = simt::blocks_for(groups.images * groups.per_image, kThreads);
    simt::launch<dropout_kernel<T>>(simt::Grid(blocks, kThreads, stream), x, y, groups, draw,
                                    dropout_threshold(draw.keep));
}

PYALEXNET_FOR_ELEMENTS(dropout);

} // namespace pyalexnet

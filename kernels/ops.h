// Every launcher of the kernels: formula, shapes, units. The one page to read.
//
// Arrays are C-contiguous and on the stream's device; images and maps are NHWC, filters
// KRSC, linear weights (out, in). N images; C, H, W input channels, height, width; K filters; R, S
// filter height, width; P, Q output height, width. Arguments: inputs, outputs, sizes, parameters,
// workspace, stream. Every size is at least 1, every row of maps (W * C) below 2^31.
//
// A launcher only enqueues: it allocates nothing and never waits. It trusts its arguments (the
// bindings check them). A sum is always taken in the same order: the same call gives the same bits.
// An output overlaps no input unless its section says so. A launch that fails throws simt::Error.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pyalexnet {

using Stream = void*; // a cudaStream_t; the emulation has none

// A bfloat16: the upper half of a float32, rounded to nearest even (bf16.cuh).
struct bf16 {
    std::uint16_t bits;
};

// Instantiates a launcher for both types of elements, at the end of each file that defines it.
#define PYALEXNET_FOR_ELEMENTS(launcher)                                                           \
    template decltype(launcher<float>) launcher<float>;                                            \
    template decltype(launcher<bf16>) launcher<bf16>
// The same of a launcher that also reads or writes codes of one or two bytes.
#define PYALEXNET_FOR_ELEMENTS_AND_CODES(launcher)                                                 \
    template decltype(launcher<float, std::uint8_t>) launcher<float, std::uint8_t>;                \
    template decltype(launcher<bf16, std::uint8_t>) launcher<bf16, std::uint8_t>;                  \
    template decltype(launcher<float, std::uint16_t>) launcher<float, std::uint16_t>;              \
    template decltype(launcher<bf16, std::uint16_t>) launcher<bf16, std::uint16_t>

enum class Activation { none, relu, tanh };

// A parameter given by value or, so that a captured graph can be replayed with a new one, as a
// number on the device. `value` is used if `on_device` is null.
template <class Number> struct Parameter {
    const Number* on_device;
    Number value;
};
using Scalar = Parameter<float>;
using Counter = Parameter<std::uint32_t>; // of steps

// ---------------------------------------------------------------------- images (augment.cu)
// Crops of stored images, minus the mean, in blocks. x (N, stored height, stored width, C) uint8;
// mean (stored height, stored width, C); corners (N, 2), each crop's top and left pixel, clamped so
// that it lies inside the image; flips (N,), nonzero where it is mirrored; shifts (N, C); y (N,
// rows, columns, block block C). With r = top + h, and q = left + w or, mirrored, left + W - 1 - w,
// the crop's pixels are
//   v[n,h,w,c] = ((x[n,r,q,c] - m) + shifts[n,c]) scale, each step rounded to float32
//   m = mean[r,q,c] if mean_at_pixel; else mean[(stored height - H) / 2 + h,
//                                               (stored width - W) / 2 + w, c]
// and 0 outside. A pixel of y is a square of those, so a convolution whose stride is the block is
// one of stride 1 over y (with filters_to_depth); block 1 without padding leaves v as it is:
//   y[n,i,j,(a block + b) C + c] = v[n, block i + a - pad_top, block j + b - pad_left, c] as a T
struct BlockShape {
    std::int64_t images;         // N
    int height, width, channels; // H, W, C
    int block;                   // pixels on a side
    int pad_top, pad_left;
    int rows, columns; // of blocks: rows block >= pad_top + H, columns block >= pad_left + W
};
struct CropShape : BlockShape {
    int stored_height, stored_width; // at least H, W
};
template <class T> void augment(const std::uint8_t* x, const float* mean,
                                const std::int32_t* corners, const std::uint8_t* flips,
                                const float* shifts, T* y, CropShape shape, float scale,
                                bool mean_at_pixel, Stream);

// ---------------------------------------------------------------------- blocks (depth.cu)
// The same for images that are already cropped: x (N, H, W, C); y (N, rows, columns, block block C)
//   y[n,i,j,(a block + b) C + c] = x[n, block i + a - pad_top, block j + b - pad_left, c] as a T,
//   0 outside
template <class T> void images_to_depth(const float* x, T* y, BlockShape shape, Stream);

// Filters w, dw (K, R, S, C) of a convolution whose stride is the block, and those for images in
// blocks: deep, ddeep (K, R / block, S / block, block block C), both quotients rounded up.
struct FilterShape {
    int filters, height, width, channels; // K, R, S, C

    std::int64_t rows() const { return std::int64_t{filters} * height; }
    FilterShape deep(int block) const {
        return {filters, (height - 1) / block + 1, (width - 1) / block + 1,
                block * block * channels};
    }
};

// deep[k,i,j,(a block + b) C + c] = w[k, block i + a, block j + b, c], 0 outside the filter
template <class T> void filters_to_depth(const T* w, T* deep, FilterShape shape, int block, Stream);

// The adjoint: dw[k, block i + a, block j + b, c] = ddeep[k,i,j,(a block + b) C + c]
void filters_from_depth(const float* ddeep, float* dw, FilterShape shape, int block, Stream);

// ---------------------------------------------------------------------- common
// Every sum is float32. Where a launcher is a template, T is float or bf16, the type of maps, their
// gradients and the filters that multiply them; results are rounded to T once, when they are
// stored. Biases, gradients of weights and biases, and momentum are float32.
//
// At the ends of the range: a result beyond the largest number is infinite (in bf16 from 2^128 -
// 2^119 on), one below the least normal number is denormal, not 0. A sum is infinite or NaN where a
// term or a partial sum is beyond the range. Infinities and NaNs spread where the formula takes
// them and nowhere else. Operations that only select (ReLU and gates, pools and their gradients,
// dropout) pass a number on unchanged or give 0; no NaN is above 0.

// What decides whether dropout keeps an element ("dropout" below says how).
struct DropoutDraw {
    double keep; // probability, [0, 1]
    std::uint64_t seed;
    Counter step;
    std::uint32_t layer;
    std::int64_t offset, total; // features; offset % total + features <= total
};

// What multiplies: the float32 units, the tensor cores through mma.sync (one warp), or through
// wgmma (four warps), which needs a Hopper card. Products of bf16 always run on the tensor cores:
// by wgmma where the shape says so and the operands' layout allows it (conv.cu). Products of float
// use the tensor cores, by mma, for anything but `fma`, with each number split into three bf16: as
// accurate, but different bits. Infinities, NaNs and numbers of 2^128 - 2^119 or more then turn
// every sum they enter into NaN; numbers below 2^-110 are cut off at 2^-133; a sum may be infinite
// from 2^-7 below the end of the range on.
//
// The CPU's own kernels (kernels/cpu) use only the float32 units, for bf16 too: `fma` multiplies
// and adds as the formula says, `winograd` uses Winograd's algorithm for convolutions where that is
// faster (cpu/conv.cpp): it has its own error bound, and an infinity or a NaN spreads to the whole
// tile of outputs that it contributes to.
enum class Unit { fma, mma, wgmma, winograd };

// Dropout after a layer: y = act(..) factor where `draw` (dropout.cu) kept the output, else 0. The
// draw's features are the outputs of one image.
struct Dropped {
    bool on;
    DropoutDraw draw;
    float factor;
};

// Weights that a kernel updates in place, and their momentum. With T = bf16 the weights are float32
// too, in halves: `w`, the nearest bf16, and `low`, the remainder. A weight's bits are those of `w`
// as its upper half plus `low`, a signed 16-bit number. `low` is null if T is float.
template <class T> struct Learned {
    T* w;
    std::uint16_t* low;
    float* v;
};

// How they are updated (sgd.cu).
struct Rule {
    Scalar lr;
    float momentum, weight_decay;
};

// ---------------------------------------------------------------------- convolution (conv.cu)
// x, dx (N, H, W, C); w, dw (K, R, S, C / groups); b, db (K,); y, dy (N, P, Q, K). Filters
// [g K / groups, (g + 1) K / groups) see channels [g C / groups, (g + 1) C / groups). Pixels
// outside the image are zeros; how many lie below and to the right follows from P and Q:
//   fprop  y[n,p,q,k]  = act(b[k] + sum over r,s,c of x[n, p stride_h - pad_top + r,
//                                                       q stride_w - pad_left + s, c] w[k,r,s,c])
//   dgrad  dx, and wgrad  dw, db: the adjoints of the sum in x, in w and in b
// Zeros are multiplied too, those outside and, in dgrad, those that stand for missing outputs: with
// an infinite weight or dy they give NaN.
struct ConvShape {
    int images, height, width, channels;                    // N, H, W, C
    int filters, filter_h, filter_w, out_height, out_width; // K, R, S, P, Q
    int stride_h, stride_w, pad_top, pad_left, groups;
    int towers = 1;        // devices that share the layer, each with K of its filters
    Unit unit = Unit::fma; // see above

    std::int64_t in_pixels() const { return std::int64_t{images} * height * width; }
    std::int64_t out_pixels() const { return std::int64_t{images} * out_height * out_width; }
    std::int64_t taps() const { // of one filter
        return std::int64_t{filter_h} * filter_w * (channels / groups);
    }
};

enum class Pass { fprop, dgrad, wgrad };
template <class T> std::size_t conv_workspace(Pass pass, const ConvShape& shape);

// `b` may be null. y is of type T, or float32. The pixels of either map, the taps and all towers'
// filters are below 2^31. fprop gives a filter's outputs the same bits in a tower, in a group and
// in the whole layer.
template <class T, class Y> void conv_fprop(const T* x, const T* w, const float* b, Y* y,
                                            const ConvShape& shape, Activation activation,
                                            const Dropped& dropped, void* workspace, Stream);

// dx = factor times the adjoint where gate > 0, else 0: the gradient through a ReLU (and a dropout)
// whose output was `gate` (N, H, W, C). If `gate` is null, everywhere.
template <class T> void conv_dgrad(const T* dy, const T* w, const T* gate, float factor, T* dx,
                                   const ConvShape& shape, void* workspace, Stream);

template <class T> void conv_wgrad(const T* x, const T* dy, float* dw, float* db,
                                   const ConvShape& shape, void* workspace, Stream);

// conv_wgrad and then sgd_update of w and of b, bit for bit, without storing dw and db. It needs
// the same workspace.
template <class T> void conv_wgrad_sgd(const T* x, const T* dy, Learned<T> w, Rule w_rule,
                                       Learned<float> b, Rule b_rule, const ConvShape& shape,
                                       void* workspace, Stream);

// What a pass whose arrays are aligned gets: the loop that multiplies, its tile of the result (rows
// and columns; 0 where it has none) and the number of parts in which it sums. To be printed.
struct Choice {
    const char* loop;
    int tile_rows, tile_columns, parts;
};
template <class T> Choice choice_of(Pass pass, const ConvShape& shape);

// ---------------------------------------------------------------------- linear layers
// x, dx (rows, inputs); w, dw (outputs, inputs); b, db (outputs,); y, dy (rows, outputs):
//   fprop  y = act(x w^T + b)     dgrad  dx = dy w     wgrad  dw = dy^T x, db = sum of dy's rows
// The same launchers compute them: a linear layer is a convolution of images of one pixel, x (rows,
// 1, 1, inputs) and w (outputs, 1, 1, inputs).

// ---------------------------------------------------------------------- neurons (activation.cu)
// All arrays of `count` elements, any shape. NaN passes through. The output may alias an input, in
// whole.

// y = max(x, 0)
template <class T> void relu_fprop(const T* x, T* y, std::int64_t count, Stream);

// dx = dy where y > 0, else 0
template <class T> void relu_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream);

// y = factor x
template <class T> void scale(const T* x, T* y, std::int64_t count, float factor, Stream);

// y = tanh(x)
template <class T> void tanh_fprop(const T* x, T* y, std::int64_t count, Stream);

// dx = dy (1 - y^2), for y from -1 to 1
template <class T> void tanh_dgrad(const T* y, const T* dy, T* dx, std::int64_t count, Stream);

// ---------------------------------------------------------------------- response norms
// With W(i) the window of unit i and s_i = k + alpha * sum over j in W(i) of x_j^2:
//   fprop  y_i  = x_i s_i^-beta
//   dgrad  dx_i = dy_i s_i^-beta - x_i * sum over j with i in W(j) of
//                 2 alpha beta dy_j x_j s_j^(-beta - 1)
// alpha multiplies the plain sum (the 2012 source first divides its alpha by the window's units).
// One x_j of 2^64 or more makes the sum infinite: s^-beta, y and dx are then 0, or NaN where an x
// is infinite. A dy_i s_i^-beta beyond the range makes dx_i infinite or NaN.
struct ResponseNorm {
    int size; // units of a window along each of its axes
    float alpha;
    float beta;
    float k;
};

// Across channels (lrn.cu). x, y, dy, dx (pixels, channels). The channels form `groups` equal
// runs; the window of channel c is the `size` channels from c - size / 2 on, clipped to c's run.
template <class T> void lrn_fprop(const T* x, T* y, std::int64_t pixels, int channels, int groups,
                                  ResponseNorm norm, Stream);
template <class T> void lrn_dgrad(const T* x, const T* dy, T* dx, std::int64_t pixels, int channels,
                                  int groups, ResponseNorm norm, Stream);

// Within a map (rnorm.cu). x, y, dy, dx (images, height, width, channels). The window of pixel
// (h, w) is the size x size pixels from (h - size / 2, w - size / 2) on, clipped to the image.
template <class T> void rnorm_fprop(const T* x, T* y, std::int64_t images, int height, int width,
                                    int channels, ResponseNorm norm, Stream);
std::size_t rnorm_dgrad_workspace(std::int64_t images, int height, int width, int channels);
template <class T> void rnorm_dgrad(const T* x, const T* dy, T* dx, std::int64_t images, int height,
                                    int width, int channels, ResponseNorm norm, void* workspace,
                                    Stream);

// ---------------------------------------------------------------------- pooling (pool.cu)
// Window (p, q) is the size x size pixels from (p stride, q stride) on, clipped to the image: no
// padding; each starts inside it. x, dx (N, H, W, C); y, dy, where (N, P, Q, C).
struct PoolShape {
    std::int64_t images;         // N
    int height, width, channels; // H, W, C
    int out_height, out_width;   // P, Q: (P - 1) stride < H, (Q - 1) stride < W
    int size, stride;            // pixels
};

// y = the window's maximum; where = r * size + s of the first one in row-major order. A NaN wins.
// Where is uint8 while size <= 16, else uint16 (size <= 256).
template <class T, class Where>
void maxpool_fprop(const T* x, T* y, Where* where, PoolShape shape, Stream);

// dx = sum of dy over the windows whose `where` names the pixel, in row-major order; 0 where `gate`
// (N, H, W, C) is not above 0, unless it is null.
template <class T, class Where>
void maxpool_dgrad(const T* dy, const Where* where, const T* gate, T* dx, PoolShape shape, Stream);

// y = mean over the window's pixels inside the image: the sum is taken first and may overflow
template <class T> void avgpool_fprop(const T* x, T* y, PoolShape shape, Stream);

// dx = sum over the windows that hold the pixel of dy / (the window's pixels inside the image)
template <class T> void avgpool_dgrad(const T* dy, T* dx, PoolShape shape, Stream);

// ---------------------------------------------------------------------- LRN + pool (lrn_pool.cu)
// lrn_fprop, then a max-pool, then relu_fprop if `relu`, in one pass over the maps. What lies
// between is neither stored nor rounded. x (N, H, W, C); y, where (N, P, Q, C).
//
// For the networks' form only: norm.size kLrnPoolNorm, alpha at least 0, beta .75, k normal; C at
// most kLrnPoolChannels; each group's channels whole vectors of 16 bytes, and maps at multiples of
// 16 bytes; pool size at most kLrnPoolSize. Any other norm and pool run one after the other.
constexpr int kLrnPoolNorm = 5;
constexpr int kLrnPoolChannels = 1024;
constexpr int kLrnPoolSize = 8;

template <class T> void lrn_maxpool_fprop(const T* x, T* y, std::uint8_t* where, PoolShape shape,
                                          int groups, ResponseNorm norm, bool relu, Stream);

// Its gradient, in one pass too. y (N, P, Q, C) or null: the ReLU's output; dy counts only where it
// is above 0. gated: x is a ReLU's output, and dx is 0 where x is not above 0.
template <class T> void lrn_maxpool_dgrad(const T* x, const T* y, const T* dy,
                                          const std::uint8_t* where, T* dx, PoolShape shape,
                                          int groups, ResponseNorm norm, bool gated, Stream);

// ---------------------------------------------------------------------- dropout (dropout.cu)
// y = x where a 32-bit draw < keep * 2^32, else 0; fprop and dgrad are this same map. The draw of
// feature f of image n is word e % 4 of Philox4x32-10 at counter (low word of e / 4, step, layer,
// high word of e / 4) under key `seed`, where e = n * total + offset + f < 2^63. So the part of a
// layer that starts at feature `offset` of the layer's `total` is masked as in the whole layer; and
// images that follow others of a batch as in the batch, if `offset` counts `total` for each of the
// others. x, y (images, features). y may alias x.
template <class T> void dropout(const T* x, T* y, std::int64_t images, std::int64_t features,
                                DropoutDraw draw, Stream);

// ---------------------------------------------------------------------- loss (softmax.cu)
// logits, dlogits (rows, classes); labels (rows,); loss, top1, top5 one float each.
//   loss    = mean over rows of -log softmax(logits)[label]
//   dlogits = (softmax(logits) - onehot(label)) / rows
//   topk    = 1 - mean over rows of clamp((k - g) / t, 0, 1), where g logits are greater than the
//             label's and t equal to it (itself included)
// A logit of -inf is a class of probability 0, as is one that lies below the highest by more than
// the range; the loss is infinite if it is the label's. A NaN, an infinite logit or a row of -inf
// makes the loss and its row of dlogits NaN.
// A label outside [0, classes) makes the loss and its row of dlogits NaN and counts as wrong, as
// does a label whose logit is NaN.
inline std::size_t softmax_cross_entropy_workspace(std::int64_t rows) {
    return 3 * static_cast<std::size_t>(rows) * sizeof(float);
}
template <class T> void softmax_cross_entropy(const float* logits, const std::int64_t* labels,
                                              float* loss, T* dlogits, float* top1, float* top5,
                                              std::int64_t rows, int classes, void* workspace,
                                              Stream);

// ---------------------------------------------------------------------- update (sgd.cu)
// The paper's rule (section 5), in place; all arrays of `count` elements; from left to right, each
// step rounded:
//   v = momentum v - (weight_decay lr) w - lr dw
//   w = w + v
// lr = 0 freezes: neither w nor v changes.
template <class T>
void sgd_update(Learned<T> w, const float* dw, std::int64_t count, Rule rule, Stream);

// Splits weights into halves (Learned), or joins them. high = w to the nearest bf16, ties away from
// zero. Every number is kept to the last bit; a NaN becomes the canonical one, in high too.
void split_weights(const float* w, bf16* high, std::uint16_t* low, std::int64_t count, Stream);
void join_weights(const bf16* high, const std::uint16_t* low, float* w, std::int64_t count, Stream);

// ---------------------------------------------------------------------- parts (exchange.cu)
// The inputs may lie on other devices that this one can read (peer access).
constexpr int kMaxPeers = 8;

// Maps in order, each (pixels, its channels).
struct Peers {
    const float* data[kMaxPeers];
    int channels[kMaxPeers];
    int count;
};

// whole (pixels, sum of channels) = the parts side by side
void exchange_gather(Peers parts, float* whole, std::int64_t pixels, Stream);

// dpart (pixels, channels) = sum of the wholes' channels [start, start + channels), in their order
void exchange_scatter_add(Peers dwholes, float* dpart, std::int64_t pixels, int start, int channels,
                          Stream);

constexpr int kMaxSummands = 64;

template <class T> struct Summands {
    const T* data[kMaxSummands];
    int count;
};

// total = the sum of the parts (it may be one of them), by a binary tree: neighbours are added,
// then neighbouring sums, (0 + 1) + (2 + 3) and so on; the last one waits if it has no neighbour.
template <class T, class Y> void sum_parts(Summands<T> parts, Y* total, std::int64_t count, Stream);

} // namespace pyalexnet

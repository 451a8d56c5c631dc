// Accesses with a well-known cost on a GPU, given by test_lint.py to the performance lint.
//
//   lint_cases SEED   runs all in that schedule; a line for each row that the lint reports:
//                     file:line array shared write bytes requests transfers ideal
//
// A comment "// pattern" marks the line that a row has to name. Blocks are one warp unless said.
#include "simt/device.hpp"
#include "simt/simt.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kWarp = 32;
constexpr int kFloats = 32 * kWarp; // of x and y
constexpr int kPitch = 33;

__device__ int thread() { return static_cast<int>(threadIdx.x); }

__device__ float sum(float4 v) { return v.x + v.y + v.z + v.w; }

__global__ void read_kernel(const float* x, float* y, int last) {
    float value = x[thread()];                                        // floats
    value += x[0];                                                    // one float
    value += x[32 * thread()];                                        // a float a row
    value += x[thread() + 1];                                         // misaligned floats
    const float2 pair = reinterpret_cast<const float2*>(x)[thread()]; // pairs
    const float4 four = reinterpret_cast<const float4*>(x)[thread()]; // fours
    value += reinterpret_cast<const unsigned char*>(x)[thread()];     // bytes
    for (int i = 0; i < last; ++i) value += x[kWarp * i + thread()];  // floats in a loop
    if (thread() < 16) value += x[16 * kWarp + thread()];             // floats of half a warp
    y[thread()] = value + pair.x + pair.y + sum(four);                // floats written
}

__global__ void write_kernel(const float* x, float* y) {
    for (int i = 0; i < 4; ++i) y[4 * thread() + i] = x[i]; // every fourth float written
    reinterpret_cast<float4*>(y)[kWarp + thread()] = make_float4(0, 1, 2, 3); // fours written
}

struct Three {
    float of[3];
};

// The banks serve the threes of ten lanes at a time.
__global__ void threes_kernel(const float* x, float* y) {
    SIMT_SHARED(Three, threes, [kWarp]);
    if (thread() < 24) threes[thread()] = reinterpret_cast<const Three*>(x)[thread()]; // threes
    __syncthreads();
    y[thread()] = threes[0].of[2];
}

template <class T> __device__ T* zeros(T* array, int count) {
    for (int i = thread(); i < count; i += kWarp) array[i] = 0;
    __syncthreads();
    return array;
}

__global__ void shared_kernel(const float* x, float* y) {
    SIMT_SHARED(float4, aligned, [kFloats / 4]); // the element type aligns it
    SIMT_SHARED(float, padded, [kWarp * kPitch]);
    for (int i = thread(); i < kFloats / 4; i += kWarp) aligned[i] = make_float4(0, 0, 0, 0);
    const float* const p = zeros(padded, kWarp * kPitch);
    const auto* const t = reinterpret_cast<const float*>(aligned);
    float value = t[thread()];                                        // shared floats
    value += t[7];                                                    // one shared float
    value += t[32 * thread()];                                        // column, pitch 32
    value += p[kPitch * thread()];                                    // column, pitch 33
    value += t[2 * thread()];                                         // every second float
    value += t[thread() / 2];                                         // a float a pair
    const float2 pair = reinterpret_cast<const float2*>(t)[thread()]; // shared pairs
    const float4 four = aligned[thread()];                            // shared fours
    const float4 rows = aligned[8 * thread()];                        // column of fours
    const float4 same = aligned[3];                                   // one shared four
    __syncthreads();
    padded[2 * (thread() % 16) + thread() / 16] = x[thread()]; // shared floats written
    y[thread()] = value + pair.x + pair.y + sum(four) + sum(rows) + sum(same);
}

// Two warps per block. The halves of a warp read by one instruction, separated by a barrier.
__global__ void barrier_kernel(const float* x, float* y) {
    float value = 0;
    for (int half = 0; half < 2; ++half) {
        if (thread() / 16 % 2 == half) value += x[thread()]; // a barrier between the halves
        __syncthreads();
    }
    y[blockIdx.x * blockDim.x + thread()] = value; // floats of two blocks
}

// Rows of matrices: 16 bytes per lane.
__global__ void tensor_kernel(const float* x, float* y) {
    SIMT_DYN_SHARED(float, t);
    for (int i = thread(); i < kFloats / 4; i += kWarp)
        simt::cp_async_16(t + 4 * i, x + 4 * i, true); // copies
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    __syncthreads();
    std::uint32_t side_by_side[4], apart[4];
    simt::ldmatrix_x4(side_by_side, t + 4 * thread()); // rows side by side
    simt::ldmatrix_x4(apart, t + 32 * thread());       // rows 128 bytes apart
    __syncthreads();
    simt::cp_async_16(t + 4 * thread(), x + 4 * thread(), thread() < 16); // copies of half a warp
    y[thread()] = static_cast<float>(side_by_side[0] + apart[0]);
}

float* placed(const simt::Session& session, std::size_t i) {
    return static_cast<float*>(session[i]);
}

void run() {
    constexpr std::size_t bytes = kFloats * sizeof(float);
    void* const x = simt::allocate(0, bytes);
    void* const y = simt::allocate(0, bytes);
    std::memset(x, 0, bytes);
    std::memset(y, 0, bytes);
    {
        simt::Session session(0, {{"x", x, bytes, sizeof(float), simt::Access::read, 0},
                                  {"y", y, bytes, sizeof(float), simt::Access::read_write, 0}});
        const float* const in = placed(session, 0);
        float* const out = placed(session, 1);
        simt::launch<read_kernel>(simt::Grid(1, kWarp, nullptr), in, out, 3);
        simt::launch<write_kernel>(simt::Grid(1, kWarp, nullptr), in, out);
        simt::launch<shared_kernel>(simt::Grid(1, kWarp, nullptr), in, out);
        simt::launch<threes_kernel>(simt::Grid(1, kWarp, nullptr), in, out);
        simt::launch<barrier_kernel>(simt::Grid(2, 2 * kWarp, nullptr), in, out);
        simt::launch<tensor_kernel>(simt::Grid(1, kWarp, nullptr).with_shared(bytes), in, out);
        session.finish();
    }
    simt::release(x);
    simt::release(y);
}

} // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "SEED was expected\n");
        return 2;
    }
    simt::set_schedule(std::strtoull(arguments[1], nullptr, 10));
    run(); // not counted
    simt::begin_lint();
    run();
    for (const simt::LintRow& row : simt::end_lint())
        std::printf("%s %s %s %s %zu %llu %llu %llu\n", row.line.c_str(), row.array.c_str(),
                    row.shared ? "shared" : "global", row.write ? "write" : "read", row.bytes,
                    static_cast<unsigned long long>(row.requests),
                    static_cast<unsigned long long>(row.transfers),
                    static_cast<unsigned long long>(row.ideal));
    return simt::end_lint().empty() ? 0 : 1; // switched off by the first
}

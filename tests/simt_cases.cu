// Small kernels that each break one rule of CUDA, or none: test_simt.py runs them on the emulation.
// It is a program of its own, with no bindings between a kernel and the checker.
//
//   simt_cases CASE AT FIRST_SEED LAST_SEED   a line for each seed: the outputs, or the report
//   simt_cases scripts                        a line for each script read (see below)
//
// A comment "// case: what" marks a line that a report has to name.
#include "scripts.hpp"
#include "simt/device.hpp"
#include "simt/simt.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

constexpr int kCount = 64; // elements of every array, and threads of most blocks: two warps

struct Arrays {
    const float* x; // input: 1, 2, 3, ...
    float* y;       // output
    float* scratch;
    int at; // AT: an element, where a case needs one
};

__device__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ int opposite() { return kCount - 1 - thread(); }
__device__ int neighbour() { return thread() ^ 1; }

// ---------------------------------------------------------------------- barriers of a block

// Without the barrier it is right only by luck, in natural order, where thread i / 2 has run before
// thread i.
template <bool ordered> __global__ void raw_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    t[thread()] = a.x[thread()]; // raw: write
    if (ordered) __syncthreads();
    a.y[thread()] = t[thread() / 2]; // raw: read
}

template <bool ordered> __global__ void war_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    t[thread()] = a.x[thread()];
    __syncthreads();
    const float other = t[opposite()]; // war: read
    if (ordered) __syncthreads();
    t[thread()] = -other; // war: write
    __syncthreads();
    a.y[thread()] = t[thread()];
}

__global__ void waw_kernel(Arrays a) {
    SIMT_SHARED(float, t, [1]);
    t[0] = a.x[thread()]; // waw: write
    a.y[thread()] = a.x[thread()];
}

__global__ void blocks_kernel(Arrays a) {
    a.y[thread()] = a.x[thread()]; // blocks: write
}

// Reads through x a value that another thread may have written through y.
__global__ void in_place_kernel(Arrays a) {
    const float value = a.x[a.at ? opposite() : thread()]; // in_place: read
    a.y[thread()] = -value;                                // in_place: write
}

__global__ void diverged_kernel(Arrays a) {
    a.y[thread()] = a.x[thread()];
    if (thread() < 32)
        __syncthreads(); // diverged: one
    else
        __syncthreads(); // diverged: other
}

__global__ void deadlock_kernel(Arrays a) {
    a.y[thread()] = a.x[thread()];
    if (thread() == 0)
        __syncthreads(); // deadlock: block
    else
        __syncwarp(); // deadlock: warp
}

__global__ void early_exit_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    a.y[thread()] = 0.0f;
    if (thread() % 4 == 3) return;
    t[thread()] = a.x[thread()];
    __syncthreads();
    a.y[thread()] = t[thread() ^ (thread() % 4 < 2)];
}

// ---------------------------------------------------------------------- within a warp

enum class Between { nothing, syncwarp, partial, shuffle };

template <Between between> __global__ void warp_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    t[thread()] = a.x[thread()]; // warp: write
    if (between == Between::syncwarp) __syncwarp();
    if (between == Between::partial) __syncwarp(3u << (thread() & 30));
    if (between == Between::shuffle) __shfl_sync(0xffffffffu, 0, 0);
    a.y[thread()] = t[thread() & 62]; // warp: read
}

__global__ void two_warps_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    t[thread()] = a.x[thread()]; // two_warps: write
    __syncwarp();
    a.y[thread()] = t[opposite()]; // two_warps: read
}

__global__ void mismatch_kernel(Arrays a) {
    const float value = a.x[thread()];
    if (thread() % 2 == 0)
        a.y[thread()] = __shfl_xor_sync(0xffffffffu, value, 1); // mismatch: even
    else
        a.y[thread()] = __shfl_xor_sync(0xffffffffu, value, 1); // mismatch: odd
}

__global__ void left_out_kernel(Arrays a) {
    a.y[thread()] = __shfl_sync(0x0000ffffu, a.x[thread()], 0); // left_out: shuffle
}

// ---------------------------------------------------------------------- memory

__global__ void read_global_kernel(Arrays a) {
    a.y[thread()] = a.x[thread() == 7 ? a.at : thread()]; // read_global: read
}

__global__ void write_global_kernel(Arrays a) {
    a.y[thread()] = a.x[thread()];
    if (thread() == 7) a.y[a.at] = 0.0f; // write_global: write
}

// Between two other arrays, so that overruns have a neighbour on either side.
template <bool write> __global__ void shared_kernel(Arrays a) {
    SIMT_SHARED(float, before, [kCount]);
    SIMT_SHARED(float, t, [kCount]);
    SIMT_SHARED(float, behind, [kCount]);
    before[thread()] = t[thread()] = behind[thread()] = a.x[thread()];
    __syncthreads();
    a.y[thread()] = t[write || thread() != 7 ? thread() : a.at]; // shared: read
    if (write && thread() == 7) t[a.at] = 0.0f;                  // shared: write
}

__global__ void float4_kernel(Arrays a) {
    a.y[thread()] = 0.0f;
    if (thread() != 7) return;
    const float4 four = *reinterpret_cast<const float4*>(a.x + a.at); // float4: read
    a.y[7] = four.x + four.y + four.z + four.w;
}

__global__ void write_input_kernel(Arrays a) {
    a.y[thread()] = a.x[thread()];
    if (thread() == 7) const_cast<float*>(a.x)[9] = 0.0f; // write_input: write
}

__global__ void unset_shared_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    if (thread() != 7) t[thread()] = a.x[thread()];
    __syncthreads();
    a.y[thread()] = t[thread()]; // unset_shared: read
}

__global__ void unset_output_kernel(Arrays a) {
    a.y[thread()] += a.x[thread()]; // unset_output: read
}

__global__ void unset_scratch_kernel(Arrays a) {
    a.y[thread()] = a.scratch[thread()]; // unset_scratch: read
}

__global__ void hole_kernel(Arrays a) {
    if (thread() != 7) a.y[thread()] = a.x[thread()];
}

__global__ void too_much_shared_kernel(Arrays a) {
    SIMT_SHARED(float, first, [12 * 1024 - 4]);
    SIMT_SHARED(float, second, [8]);
    first[thread()] = second[thread() % 8] = a.x[thread()];
}

__global__ void too_much_beside_dynamic_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    SIMT_SHARED(float, beside, [kCount]);
    t[thread()] = beside[thread()] = a.x[thread()];
}

__global__ void two_dynamic_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, first);
    SIMT_DYN_SHARED(float, second);
    first[thread()] = second[thread()] = a.x[thread()];
}

__global__ void dynamic_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    if (thread() != 9) t[thread()] = a.x[thread()];
    __syncthreads();
    a.y[thread()] = t[thread() == 7 ? a.at : 0]; // dynamic: read
}

// ---------------------------------------------------------------------- copies (cp.async)

enum class Copied { rightly, not_committed, not_awaited, one_left, without_barrier };

// Every fourth thread copies four floats. AT 0: each thread reads a float copied by another; 1: the
// first of its own four.
template <Copied how> __global__ void copy_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    if (thread() % 4 == 0) simt::cp_async_16(t + thread(), a.x + thread(), true); // copy: begin
    if (how != Copied::not_committed) simt::cp_async_commit();
    if (how == Copied::one_left) simt::cp_async_wait<1>();
    if (how != Copied::one_left && how != Copied::not_awaited) simt::cp_async_wait<0>();
    if (how != Copied::without_barrier) __syncthreads();
    a.y[thread()] = t[a.at ? thread() & ~3 : opposite()]; // copy: read
}

// Two groups per thread; the first is read while the second is under way.
__global__ void two_groups_kernel(Arrays a) {
    SIMT_SHARED(float, t, [2][kCount]);
    for (int half = 0; half < 2; ++half) {
        if (thread() % 4 == 0) simt::cp_async_16(t[half] + thread(), a.x + thread(), half == 0);
        simt::cp_async_commit();
    }
    simt::cp_async_wait<1>();
    __syncthreads();
    const float first = t[0][opposite()];
    simt::cp_async_wait<0>();
    __syncthreads();
    a.y[thread()] = first + t[1][opposite()];
}

// Threads 32 and up copy to elements that those below may still read.
template <bool ordered> __global__ void refill_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    t[thread()] = a.x[thread()];
    __syncthreads();
    const float other = t[opposite()]; // refill: read
    if (ordered) __syncthreads();
    if (thread() >= 32 && thread() % 4 == 0)
        simt::cp_async_16(t + thread(), a.x, true); // refill: begin
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    a.y[thread()] = other;
}

__global__ void overwrite_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    if (thread() == 0) simt::cp_async_16(t, a.x, true); // overwrite: begin
    if (thread() == 1) t[2] = a.x[thread()];            // overwrite: write
    a.y[thread()] = 0.0f;
}

__global__ void copy_twice_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    for (int i = 0; i < 2; ++i) simt::cp_async_16(t, a.x, true); // copy_twice: begin
    a.y[thread()] = 0.0f;
}

enum class Place { to, from, nowhere };

// Thread 7 copies to t or from x, moved by AT; with `nowhere` it copies zeros and reads nothing.
template <Place at> __global__ void copy_place_kernel(Arrays a) {
    SIMT_DYN_SHARED(float, t);
    t[thread()] = 5.0f;
    __syncthreads();
    float* const to = t + (at == Place::to ? a.at : 0);
    const float* const from = a.x + (at == Place::to ? 0 : a.at);
    if (thread() == 7) simt::cp_async_16(to, from, at != Place::nowhere); // copy_place: copy
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    __syncthreads();
    a.y[thread()] = t[thread()];
}

__global__ void copy_to_global_kernel(Arrays a) {
    simt::cp_async_16(a.y, a.x, true); // copy_to_global: copy
}

__global__ void copy_from_shared_kernel(Arrays a) {
    SIMT_SHARED(float, t, [8]);
    if (thread() < 4) t[thread()] = a.x[thread()];
    __syncthreads();
    if (thread() == 0) simt::cp_async_16(t + 4, t, true); // copy_from_shared: copy
}

// ---------------------------------------------------------------------- matrices of a warp

// Matrices of 0, 1, 2, ..., read by both warps, with thread 7's row moved by AT. y: for each thread
// the lower and the upper half of the four words.
template <bool transposed, bool overwritten> __global__ void ldmatrix_kernel(Arrays a) {
    SIMT_SHARED(std::uint16_t, t, [4 * kCount]);
    for (int i = 0; i < 4; ++i)
        if (a.at != 8 || thread() != kCount - 1)
            t[4 * thread() + i] = static_cast<std::uint16_t>(4 * thread() + i);
    __syncthreads();
    const int row = thread() % 32 * 8 + (thread() == 7 || a.at == 8 ? a.at : 0);
    std::uint32_t r[4];
    if (transposed)
        simt::ldmatrix_x4_trans(r, t + row);
    else
        simt::ldmatrix_x4(r, t + row);          // ldmatrix: read
    if (overwritten && thread() == 0) t[8] = 0; // ldmatrix: write
    for (int i = 0; i < 4; ++i) {
        a.y[8 * thread() + 2 * i] = static_cast<float>(r[i] & 0xffffu);
        a.y[8 * thread() + 2 * i + 1] = static_cast<float>(r[i] >> 16);
    }
}

__global__ void ldmatrix_of_global_kernel(Arrays a) {
    std::uint32_t r[4];
    simt::ldmatrix_x4(r, a.x); // ldmatrix_of_global: read
    a.y[thread()] = 0.0f;
}

__global__ void part_of_a_warp_kernel(Arrays a) {
    float d[4] = {};
    simt::mma_m16n8k16(d, {0, 0, 0, 0}, {0, 0}); // part_of_a_warp: mma
    a.y[thread()] = d[0];
}

// ---------------------------------------------------------------------- nothing wrong

// Sums x in each block by shuffles and shared memory; every thread writes the sum.
__global__ void reduce_kernel(Arrays a) {
    SIMT_SHARED(float, of_warps, [2]);
    float sum = a.x[thread()];
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (thread() % 32 == 0) of_warps[thread() / 32] = sum;
    __syncthreads();
    a.y[thread()] = of_warps[0] + of_warps[1];
}

// y = the thread's place, one decimal digit per axis: blocks xyz, then threads xyz.
__global__ void places_kernel(Arrays a) {
    const dim3 g(gridDim.x, gridDim.y, gridDim.z), b(blockDim.x, blockDim.y, blockDim.z);
    const unsigned block = blockIdx.x + g.x * (blockIdx.y + g.y * blockIdx.z);
    const unsigned place = threadIdx.x + b.x * (threadIdx.y + b.y * threadIdx.z);
    const unsigned name = blockIdx.x * 100000u + blockIdx.y * 10000u + blockIdx.z * 1000u +
                          threadIdx.x * 100u + threadIdx.y * 10u + threadIdx.z;
    a.y[block * b.x * b.y * b.z + place] = static_cast<float>(name);
}

// What each lane gets from either kind of shuffle, as digits: from lane 3; from lane ^ 2.
__global__ void shuffles_kernel(Arrays a) {
    const int lane = thread() % 32;
    const int from = __shfl_sync(0xffffffffu, lane, 3);
    const int across = __shfl_xor_sync(0xffffffffu, lane, 2);
    a.y[thread()] = static_cast<float>(from * 100 + across);
}

// Several blocks per worker: neighbours swap through shared memory, which each block has to itself.
__global__ void swap_kernel(Arrays a) {
    SIMT_SHARED(float, t, [kCount]);
    const unsigned i = blockIdx.x * kCount + threadIdx.x;
    t[thread()] = static_cast<float>(i);
    __syncthreads();
    a.y[i] = t[neighbour()];
}

// ---------------------------------------------------------------------- running a case

struct Setting {
    dim3 blocks{1};
    dim3 threads{kCount};
    int outputs = kCount;
    int device_of_x = simt::kHost;
    bool peers = false;
    bool in_place = false;
    std::size_t dynamic_bytes = sizeof(float) * kCount;
};

using DeviceMemory = std::unique_ptr<float, decltype(&simt::release)>;

DeviceMemory device_memory(int device) {
    return {static_cast<float*>(simt::allocate(device, sizeof(float) * kCount)), &simt::release};
}

// Arrays are aligned to the number of bytes that the emulation copies at once.
struct alignas(16) Four {
    float values[4];
};

// x and y are adjacent, as arrays of one allocation would be.
template <auto kernel> void run(const Setting& s, int at) {
    std::vector<Four> memory((kCount + s.outputs) / 4, Four{1000.0f, 1000.0f, 1000.0f, 1000.0f});
    const DeviceMemory scratch = device_memory(0), peer = device_memory(1);
    float* const x = s.device_of_x == 1 ? peer.get() : memory.front().values;
    float* const y = s.in_place ? x : memory.front().values + kCount;
    for (int i = 0; i < kCount; ++i) x[i] = static_cast<float>(i + 1);
    if (s.peers) simt::enable_peers(0, 1);

    const std::size_t bytes = sizeof(float) * kCount, y_bytes = sizeof(float) * s.outputs;
    using simt::Access;
    constexpr std::size_t element = sizeof(float);
    simt::Session session(0, {{"x", x, bytes, element, Access::read, s.device_of_x},
                              {"y", y, y_bytes, element, Access::write, simt::kHost},
                              {"scratch", scratch.get(), bytes, element, Access::scratch, 0}});
    const auto placed = [&](std::size_t i) { return static_cast<float*>(session[i]); };
    const simt::Grid grid(s.blocks, s.threads, nullptr); // launch
    simt::launch<kernel>(grid.with_shared(s.dynamic_bytes),
                         Arrays{placed(0), placed(1), placed(2), at});
    session.finish();
    for (int i = 0; i < s.outputs; ++i) std::printf("%.9g ", static_cast<double>(y[i]));
    std::printf("\n");
}

Setting with_dynamic(std::size_t bytes) {
    Setting setting;
    setting.dynamic_bytes = bytes;
    return setting;
}

struct Case {
    const char* name;
    void (*run)(const Setting&, int at);
    Setting setting;
};

const Case kCases[] = {
    {"raw", run<raw_kernel<false>>, {}},
    {"raw_ordered", run<raw_kernel<true>>, {}},
    {"war", run<war_kernel<false>>, {}},
    {"war_ordered", run<war_kernel<true>>, {}},
    {"waw", run<waw_kernel>, {}},
    {"blocks", run<blocks_kernel>, {dim3(2)}},
    {"in_place", run<in_place_kernel>, {1, kCount, kCount, simt::kHost, false, true}},
    {"diverged", run<diverged_kernel>, {}},
    {"deadlock", run<deadlock_kernel>, {}},
    {"early_exit", run<early_exit_kernel>, {}},
    {"warp", run<warp_kernel<Between::nothing>>, {}},
    {"warp_syncwarp", run<warp_kernel<Between::syncwarp>>, {}},
    {"warp_partial", run<warp_kernel<Between::partial>>, {}},
    {"warp_shuffle", run<warp_kernel<Between::shuffle>>, {}},
    {"two_warps", run<two_warps_kernel>, {}},
    {"mismatch", run<mismatch_kernel>, {}},
    {"left_out", run<left_out_kernel>, {}},
    {"read_global", run<read_global_kernel>, {}},
    {"write_global", run<write_global_kernel>, {}},
    {"read_shared", run<shared_kernel<false>>, {}},
    {"write_shared", run<shared_kernel<true>>, {}},
    {"float4", run<float4_kernel>, {}},
    {"write_input", run<write_input_kernel>, {}},
    {"unset_shared", run<unset_shared_kernel>, {}},
    {"unset_output", run<unset_output_kernel>, {}},
    {"unset_scratch", run<unset_scratch_kernel>, {}},
    {"hole", run<hole_kernel>, {}},
    {"too_much_shared", run<too_much_shared_kernel>, {}},
    {"too_much_dynamic", run<dynamic_kernel>, with_dynamic(227 * 1024 + 1)},
    {"too_much_beside_dynamic", run<too_much_beside_dynamic_kernel>, with_dynamic(227 * 1024 - 64)},
    {"two_dynamic", run<two_dynamic_kernel>, {}},
    {"dynamic", run<dynamic_kernel>, {}},
    {"much_dynamic", run<dynamic_kernel>, with_dynamic(99 * 1024)},
    {"dynamic_of_hopper", run<dynamic_kernel>, with_dynamic(99 * 1024 + 1)},
    {"copy", run<copy_kernel<Copied::rightly>>, {}},
    {"copy_not_committed", run<copy_kernel<Copied::not_committed>>, {}},
    {"copy_not_awaited", run<copy_kernel<Copied::not_awaited>>, {}},
    {"copy_one_left", run<copy_kernel<Copied::one_left>>, {}},
    {"copy_without_barrier", run<copy_kernel<Copied::without_barrier>>, {}},
    {"two_groups", run<two_groups_kernel>, {}},
    {"refill", run<refill_kernel<false>>, {}},
    {"refill_ordered", run<refill_kernel<true>>, {}},
    {"overwrite", run<overwrite_kernel>, {}},
    {"copy_twice", run<copy_twice_kernel>, {}},
    {"copy_to", run<copy_place_kernel<Place::to>>, {}},
    {"copy_from", run<copy_place_kernel<Place::from>>, {}},
    {"copy_nothing", run<copy_place_kernel<Place::nowhere>>, {}},
    {"copy_to_global", run<copy_to_global_kernel>, {}},
    {"copy_from_shared", run<copy_from_shared_kernel>, {}},
    {"ldmatrix", run<ldmatrix_kernel<false, false>>, {1, kCount, 8 * kCount}},
    {"ldmatrix_trans", run<ldmatrix_kernel<true, false>>, {1, kCount, 8 * kCount}},
    {"ldmatrix_overwritten", run<ldmatrix_kernel<false, true>>, {1, kCount, 8 * kCount}},
    {"ldmatrix_of_global", run<ldmatrix_of_global_kernel>, {}},
    {"part_of_a_warp", run<part_of_a_warp_kernel>, {1, dim3(48)}},
    {"peer", run<blocks_kernel>, {1, kCount, kCount, 1}},
    {"peer_enabled", run<blocks_kernel>, {1, kCount, kCount, 1, true}},
    {"too_many_threads", run<blocks_kernel>, {1, dim3(1025)}},
    {"too_many_along_z", run<blocks_kernel>, {1, dim3(1, 1, 65)}},
    {"no_block", run<blocks_kernel>, {dim3(0)}},
    {"too_many_along_y", run<blocks_kernel>, {dim3(1, 65536)}},
    {"reduce", run<reduce_kernel>, {}},
    {"places", run<places_kernel>, {dim3(3, 2, 2), dim3(5, 2, 3), 360}},
    {"shuffles", run<shuffles_kernel>, {}},
    {"swap", run<swap_kernel>, {dim3(200), kCount, 200 * kCount}},
};

int run_case(const char* name, int at, std::uint64_t first_seed, std::uint64_t last_seed) {
    for (const Case& one : kCases) {
        if (std::strcmp(one.name, name) != 0) continue;
        for (std::uint64_t seed = first_seed; seed <= last_seed; ++seed) {
            simt::set_schedule(seed);
            try {
                one.run(one.setting, at);
            } catch (const simt::Error& error) {
                std::printf("%s\n", error.what());
            }
        }
        return 0;
    }
    std::fprintf(stderr, "there is no case %s\n", name);
    return 2;
}

// ---------------------------------------------------------------------- scripts
//
// The actions of every thread, in order, read from outside, for randomly generated histories. A
// script is whole numbers: the schedule's seed, whether the data are shared (1) or global (0),
// the number of launches, and for each of those the blocks, the threads of a block, and for each
// thread the number of its actions and these. An action is 8 * element + what. An element is the
// first float of 16 bytes; a copy fills all of them.

enum Action { read, write, sync_block, sync_warp, copy, commit, wait_all, wait_all_but_one };

constexpr int kScriptFloats = 16;

__device__ void take(float) {}

__device__ void act(volatile float* data, const int* actions, int begin, int end) {
    for (int i = begin; i < end; ++i) {
        volatile float* const element = data + 4 * (actions[i] / 8);
        const int what = actions[i] % 8;
        if (what == read) take(*element);
        if (what == write) *element = 1.0f;
        if (what == sync_block) __syncthreads();
        if (what == sync_warp) __syncwarp();
        if (what == copy) simt::cp_async_16(const_cast<float*>(element), nullptr, false);
        if (what == commit) simt::cp_async_commit();
        if (what == wait_all) simt::cp_async_wait<0>();
        if (what == wait_all_but_one) simt::cp_async_wait<1>();
    }
}

// Thread i's actions are those from begins[i] up to begins[i + 1].
template <bool shared>
__global__ void script_kernel(float* global, const int* actions, const int* begins) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (!shared) {
        act(global, actions, begins[i], begins[i + 1]);
        return;
    }
    SIMT_SHARED(float, data, [kScriptFloats]);
    if (threadIdx.x == 0)
        for (float& element : data) element = 0.0f;
    __syncthreads();
    act(data, actions, begins[i], begins[i + 1]);
}

struct ScriptLaunch {
    int blocks = scripts::next_number(), threads = scripts::next_number();
    scripts::Actions actions{blocks * threads};
};

void run_script() {
    const bool shared = scripts::next_number() != 0;
    std::vector<ScriptLaunch> launches;
    for (int left = scripts::next_number(); left > 0; --left) launches.emplace_back();
    std::vector<float> global(kScriptFloats, 0.0f);
    using simt::Access;
    std::vector<simt::Buffer> buffers{{"data", global.data(), sizeof(float) * kScriptFloats,
                                       sizeof(float), Access::read_write, simt::kHost}};
    const auto add = [&](const char* name, const std::vector<int>& numbers) {
        buffers.push_back({name, const_cast<int*>(numbers.data()), sizeof(int) * numbers.size(),
                           sizeof(int), Access::read, simt::kHost});
    };
    for (const ScriptLaunch& launch : launches) {
        add("actions", launch.actions.all);
        add("begins", launch.actions.begins);
    }
    simt::Session session(0, buffers);
    for (std::size_t i = 0; i < launches.size(); ++i) {
        const simt::Grid grid(launches[i].blocks, launches[i].threads, nullptr);
        auto* const data = static_cast<float*>(session[0]);
        const auto* const actions = static_cast<const int*>(session[1 + 2 * i]);
        const auto* const begins = static_cast<const int*>(session[2 + 2 * i]);
        if (shared)
            simt::launch<script_kernel<true>>(grid, data, actions, begins);
        else
            simt::launch<script_kernel<false>>(grid, data, actions, begins);
    }
}

} // namespace

int main(int count, char** arguments) {
    if (count == 2 && std::strcmp(arguments[1], "scripts") == 0) scripts::run_all(run_script);
    if (count != 5) {
        std::fprintf(stderr, "CASE AT FIRST_SEED LAST_SEED, or scripts, was expected\n");
        return 2;
    }
    return run_case(arguments[1], std::atoi(arguments[2]), std::strtoull(arguments[3], nullptr, 10),
                    std::strtoull(arguments[4], nullptr, 10));
}

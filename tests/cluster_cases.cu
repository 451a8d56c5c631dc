// Clusters of two blocks, run by test_clusters.py.
//
//   cluster_cases scripts      a line for each script read (see below)
//   cluster_cases CASE SEED    y (64, 64) = x x^T for x[i][j] = (i + 2 j) % 7 - 3, or the report
//
// A comment "// what" at the end of a line marks one that a report has to name.
#include "scripts.hpp"
#include "simt/device.hpp"
#include "simt/hopper.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using simt::Mbarrier;

namespace {

constexpr int kSide = 64, kDepth = 4 * kSide; // of x
constexpr unsigned kTileBytes = simt::tile_bytes(kSide);

enum class How {
    rightly,
    held,         // likewise: the blocks end together
    in_one_block, // likewise, without a cluster
    unordered,    // a barrier of the block in place of the cluster's
    uninitialised,
    own_only,     // a stage is handed back to the own block only
    handed_early, // before its product has been waited for
    unfenced,     // the copy engine has not been told of the barriers
    short_of_one, // one block's half is for itself only
    beyond_end,   // a stage is handed back though nobody waits for that
    by_luck,      // likewise, by the block that happens to be the first to end
    left,         // one block does not wait for its last slice
    alone,        // one block ends at once
    diverged,     // the blocks meet at different lines
    third         // there are only two
};

// A thread loads slices of x, 64 deep, into one stage, and a warpgroup multiplies them. Both blocks
// of a cluster need all of x for their half of y: each loads half of every slice for both.
template <How how>
__global__ void share_kernel(const __grid_constant__ simt::TensorMap x, float* y) {
    SIMT_TILES(unsigned char, stage);
    SIMT_SHARED(Mbarrier, full, [1]);
    SIMT_SHARED(Mbarrier, empty, [1]);
    const auto cluster = simt::cluster<how == How::in_one_block ? 1 : 2>(); // cluster
    const unsigned rank = simt::cluster_rank(cluster), blocks = cluster.blocks;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0 && !(how == How::uninitialised && rank == 1)) {
        simt::mbarrier_init(full[0], 1); // init
        simt::mbarrier_init(empty[0], how == How::own_only ? 1 : blocks);
        if (how != How::unfenced) simt::mbarrier_fence_init();
    }
    if (how == How::alone && rank == 1) return;
    if (how == How::unordered)
        __syncthreads();
    else if (how == How::diverged && rank == 1)
        simt::cluster_sync(cluster); // one
    else
        simt::cluster_sync(cluster); // other
    if (thread < 128) {
        if (thread > 0) return;
        const int rows = kSide / static_cast<int>(blocks), row = static_cast<int>(rank) * rows;
        for (int slice = 0; slice < kDepth / kSide; ++slice) {
            simt::mbarrier_wait(empty[0], slice % 2 == 0); // empty
            simt::mbarrier_arrive_expect(full[0], kTileBytes);
            unsigned char* const half = stage + simt::tile_bytes(row);
            if (how == How::short_of_one && rank == 1)
                simt::load_tile(half, x, row, slice * kSide, full[0]);
            else
                simt::load_tile_multicast(cluster, half, x, row, slice * kSide, full[0]); // load
        }
        return;
    }
    float sums[kSide / 2] = {};
    for (int slice = 0; slice < kDepth / kSide; ++slice) {
        const bool last = slice + 1 == kDepth / kSide;
        if (how == How::left && last && rank == 1) return;
        const auto hand_back = [&] {
            if (last && how != How::beyond_end && !(how == How::by_luck && rank == 0)) return;
            const auto to = static_cast<unsigned>(thread) % 32 + (how == How::third);
            if (how == How::own_only && thread == 128) simt::mbarrier_arrive(empty[0]);
            if (how != How::own_only && thread / 32 == 4 && thread % 32 < static_cast<int>(blocks))
                simt::mbarrier_arrive_at(cluster, empty[0], to); // arrive
        };
        simt::mbarrier_wait(full[0], slice % 2 == 1); // full
        simt::wgmma_fence();
        for (int k = 0; k < kSide; k += 16) {
            const auto lines = simt::k_major(stage + 2 * k);
            simt::wgmma<kSide>(sums, lines, lines); // multiply
        }
        simt::wgmma_commit();
        if (how == How::handed_early) hand_back();
        simt::wgmma_wait<0>(sums);
        if (how != How::handed_early) hand_back();
    }
    if (how == How::held) simt::cluster_sync(cluster);
    const int lane = thread % 32, warp = thread / 32 % 4;
    for (int i = 0; i < kSide / 2; ++i) {
        const int r = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        if (blocks == 1 || r * 2 / kSide == static_cast<int>(rank))
            y[r * kSide + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
}

// ---------------------------------------------------------------------- scripts
//
// The actions of every thread of a cluster, in order. A script is whole numbers: the schedule's
// seed, and for each thread the number of its actions and these: 8 * which + what. `which` is an
// element of `data`, or a barrier: one of kSignals in the first block, then one of those in the
// second. A barrier is arrived at once, and waited for in its own block.

enum Action { read, write, sync_block, sync_cluster, sync_warp, arrive, wait };

constexpr int kScriptThreads = 128; // of a block
constexpr int kSignals = 4, kElements = 3;

__device__ void take(float) {}

// Thread i's actions are those from begins[i] up to begins[i + 1].
__global__ void script_kernel(float* data, const int* actions, const int* begins) {
    SIMT_SHARED(Mbarrier, barriers, [kSignals]);
    const auto cluster = simt::cluster<2>();
    const int rank = static_cast<int>(simt::cluster_rank(cluster));
    const int thread = rank * kScriptThreads + static_cast<int>(threadIdx.x);
    if (threadIdx.x == 0) {
        for (Mbarrier& barrier : barriers) simt::mbarrier_init(barrier, 1);
        simt::mbarrier_fence_init();
    }
    simt::cluster_sync(cluster);
    for (int i = begins[thread]; i < begins[thread + 1]; ++i) {
        const int what = actions[i] % 8, which = actions[i] / 8;
        volatile float* const element = data + which;
        Mbarrier& barrier = barriers[which % kSignals];
        if (what == read) take(*element);
        if (what == write) *element = 0;
        if (what == sync_block) __syncthreads();
        if (what == sync_cluster) simt::cluster_sync(cluster);
        if (what == sync_warp) __syncwarp();
        if (what == arrive) simt::mbarrier_arrive_at(cluster, barrier, which / kSignals);
        if (what == wait) simt::mbarrier_wait(barrier, 0);
    }
}

// ---------------------------------------------------------------------- what a run does

struct alignas(16) Sixteen {
    std::byte bytes[16];
};
using Bytes = std::vector<Sixteen>;

Bytes numbers() {
    Bytes x(kSide * kDepth / 8);
    auto* const values = reinterpret_cast<std::uint16_t*>(x.data());
    for (int i = 0; i < kSide * kDepth; ++i) {
        const float value = static_cast<float>((i / kDepth + i % kDepth * 2) % 7 - 3);
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        values[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    return x;
}

template <How how> void run(unsigned blocks, unsigned threads, unsigned of_cluster) {
    Bytes x = numbers(), y(kSide * kSide / 4);
    const auto buffer = [](const char* name, Bytes& all, std::size_t element, simt::Access access) {
        return simt::Buffer{name, all.data(), 16 * all.size(), element, access, simt::kHost};
    };
    simt::Session session(
        0, {buffer("x", x, 2, simt::Access::read), buffer("y", y, 4, simt::Access::write)});
    const int rows = how == How::in_one_block ? kSide : kSide / 2; // of a load
    const simt::Grid grid(blocks, threads, nullptr);               // launch
    simt::launch<share_kernel<how>>(
        grid.in_clusters(of_cluster).with_shared(kTileBytes + simt::kTileSlack),
        simt::tensor_map(session[0], kSide, kDepth, kDepth, rows), static_cast<float*>(session[1]));
    session.finish();
    std::fwrite(y.data(), 16, y.size(), stdout);
}

template <How how> void run() { run<how>(2, 256, 2); }

void run_script() {
    scripts::Actions actions(2 * kScriptThreads);
    std::vector<float> data(kElements);
    const auto whole = [](const char* name, auto& numbers, simt::Access access) {
        return simt::Buffer{name, numbers.data(), 4 * numbers.size(), 4, access, simt::kHost};
    };
    simt::Session session(0, {whole("data", data, simt::Access::read_write),
                              whole("actions", actions.all, simt::Access::read),
                              whole("begins", actions.begins, simt::Access::read)});
    simt::launch<script_kernel>(simt::Grid(2, kScriptThreads, nullptr).in_clusters(2),
                                static_cast<float*>(session[0]), static_cast<int*>(session[1]),
                                static_cast<int*>(session[2]));
}

struct Case {
    const char* name;
    void (*run)();
};

const Case kCases[] = {
    {"rightly", run<How::rightly>},
    {"held", run<How::held>},
    {"in_one_block", [] { run<How::in_one_block>(1, 256, 1); }},
    {"unordered", run<How::unordered>},
    {"uninitialised", run<How::uninitialised>},
    {"own_only", run<How::own_only>},
    {"handed_early", run<How::handed_early>},
    {"unfenced", run<How::unfenced>},
    {"short_of_one", run<How::short_of_one>},
    {"beyond_end", run<How::beyond_end>},
    {"by_luck", run<How::by_luck>},
    {"left", run<How::left>},
    {"alone", run<How::alone>},
    {"diverged", run<How::diverged>},
    {"third", run<How::third>},
    {"odd", [] { run<How::rightly>(3, 256, 2); }},
    {"of_three", [] { run<How::rightly>(3, 256, 3); }},
    {"of_one", [] { run<How::rightly>(2, 256, 1); }},
    {"part_of_a_warpgroup", [] { run<How::rightly>(2, 192, 2); }},
    {"too_large", [] { run<How::rightly>(2, 640, 2); }},
};

} // namespace

int main(int count, char** arguments) {
    if (count == 2 && std::string(arguments[1]) == "scripts") scripts::run_all(run_script);
    try {
        for (const Case& one : kCases) {
            if (count < 3 || std::string(arguments[1]) != one.name) continue;
            simt::set_schedule(static_cast<std::uint64_t>(std::atoi(arguments[2])));
            one.run();
        }
    } catch (const simt::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

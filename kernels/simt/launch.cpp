// Launches of the emulation: what is refused, and how clusters are shared out among workers.
#include "worker.hpp"

#include "device.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <thread>

namespace simt {
namespace {

constexpr std::uint64_t kThreadsWorthWorkers = 4096; // starting a worker costs about 20 us
// A worker's guarded stacks are 2,048 mappings, of which Linux allows a process 65,530.
constexpr std::uint64_t kMaxWorkers = 16;

std::mutex busy; // one launch at a time
std::atomic<std::uint64_t> seed_of_launches{0};
std::atomic<bool> cuts_of_launches{false};
std::atomic<std::uint64_t> launches{0};

Worker& worker(std::size_t index) {
    static std::vector<std::unique_ptr<Worker>> workers;
    while (workers.size() <= index) workers.push_back(std::make_unique<Worker>());
    return *workers[index];
}

// The limits that every card since compute capability 3.5 has.
void refuse_impossible(const Launch& launch) {
    const auto refuse = [&](const auto&... parts) { throw launch.error(text(parts...)); };
    const dim3 threads = launch.grid.threads;
    const dim3 blocks = launch.grid.blocks;
    const std::uint64_t count = volume(threads);
    if (count == 0 || count > kMaxThreads || threads.z > 64)
        refuse("a block has 1 to 1,024 threads, at most 64 along z, not ", threads.x, " x ",
               threads.y, " x ", threads.z);
    if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > 0x7fffffffu ||
        blocks.y > 65535 || blocks.z > 65535)
        refuse("a grid has 1 to 2,147,483,647 blocks along x and 1 to 65,535 along y and z, not ",
               blocks.x, " x ", blocks.y, " x ", blocks.z);
    if (launch.grid.shared_bytes > kMaxSharedBytes)
        refuse("a block has at most ", kMaxSharedBytes, " bytes of shared memory, not ",
               launch.grid.shared_bytes);
    const unsigned cluster = launch.grid.cluster;
    if (cluster == 1) return;
    if (cluster != kMaxCluster || blocks.x % cluster != 0)
        refuse("a cluster has 2 blocks here, and a grid of clusters an even number along x, not ",
               cluster, " and ", blocks.x);
    if (count % 128 != 0 || cluster * count > kMaxThreads)
        refuse("a block of a cluster has whole warpgroups here, and at most 512 threads, not ",
               count);
}

// Kernels without Hopper's instructions run on every card.
void refuse_what_only_hopper_grants(Launch& launch) {
    const std::size_t bytes = launch.grid.shared_bytes + launch.static_bytes;
    if (!launch.on_hopper && bytes > kSharedOfAnyCard)
        launch.fail(text("a block has at most ", kSharedOfAnyCard,
                         " bytes of shared memory on any card, not ", bytes,
                         ": the kernel uses nothing that Hopper alone has"));
}

std::vector<std::uint32_t> cluster_order(std::uint64_t clusters, std::uint64_t seed) {
    if (seed == 0) return {};
    std::vector<std::uint32_t> order(clusters);
    std::iota(order.begin(), order.end(), 0u);
    Random(seed).shuffle(order.data(), order.size());
    return order;
}

// The checker sees one cluster after the other: it tells races by the rules, not by luck.
std::size_t workers_for(const Launch& launch) {
    if (kChecked || launch.clusters * launch.threads < kThreadsWorthWorkers) return 1;
    const std::uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
    return static_cast<std::size_t>(std::min({cores, launch.clusters, kMaxWorkers}));
}

void run_on_workers(Launch& launch) {
    const std::size_t count = workers_for(launch);
    worker(count - 1); // made before the threads start
    std::vector<std::thread> others;
    others.reserve(count - 1);
    for (std::size_t i = 1; i < count; ++i)
        others.emplace_back([&launch, i] { worker(i).run(launch); });
    worker(0).run(launch);
    for (std::thread& other : others) other.join();
}

} // namespace

void detail::run(const Grid& grid, const char* pretty_function, const Call& call) {
    const std::lock_guard<std::mutex> lock(busy);
    Launch launch(grid, call, kernel_name(pretty_function), seed_of_launches, cuts_of_launches);
    refuse_impossible(launch);
    launch.cluster_order = cluster_order(launch.clusters, launch.seed);
    if (kChecked) check::begin_launch(launch.threads, launch.block_threads);
    run_on_workers(launch);
    refuse_what_only_hopper_grants(launch);
    ++launches;
    if (launch.failed) throw launch.error(launch.failure);
}

void set_schedule(std::uint64_t seed, bool cuts) {
    seed_of_launches = seed;
    cuts_of_launches = cuts;
}

std::uint64_t launch_count() { return launches; }

} // namespace simt

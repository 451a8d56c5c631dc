// Blocks, threads, barriers and shared memory of the emulation.
#include "simt.hpp"

#include "async.hpp"
#include "check.hpp"
#include "copies.hpp"
#include "device.hpp"
#include "fiber.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

namespace simt {

__thread Self self __attribute__((tls_model("initial-exec")));

namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr std::uint32_t kWholeWarp = 0xffffffffu;
constexpr std::size_t kSharedBytes = 48 * 1024; // static shared memory of a block
constexpr std::size_t kMaxSharedArrays = 16;
constexpr std::size_t kSharedFence = kChecked ? 256 : 0; // no array ends where the next begins
constexpr std::size_t kArenaAlignment = 1024;            // a swizzled tile's
constexpr std::size_t kDynamicOffset =
    (kSharedBytes + (kMaxSharedArrays + 1) * kSharedFence + kArenaAlignment - 1) / kArenaAlignment *
    kArenaAlignment;
constexpr std::size_t kMaxSharedBytes = 227 * 1024; // of both kinds together
constexpr std::size_t kArenaBytes = kDynamicOffset + kMaxSharedBytes + kSharedFence;
constexpr unsigned kVainPolls = 1000;                // after so many in a row nothing will come
constexpr std::uint64_t kThreadsWorthWorkers = 4096; // starting a worker costs about 20 us
// A worker's guarded stacks are 2,048 mappings, of which Linux allows a process 65,530.
constexpr std::uint64_t kMaxWorkers = 16;

// splitmix64: a permutation needs few random bits, and none of them secret.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t operator()() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    template <class T> void shuffle(T* values, std::size_t count) {
        for (std::size_t i = count; i > 1; --i) std::swap(values[i - 1], values[(*this)() % i]);
    }

  private:
    std::uint64_t state_;
};

bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}
std::string at(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::uint64_t volume(dim3 extent) { return std::uint64_t{extent.x} * extent.y * extent.z; }

// What all workers of one launch share.
struct Launch {
    Launch(const Grid& grid_, const detail::Call& call_, std::string name_, std::uint64_t seed_)
        : grid(grid_), call(call_), name(std::move(name_)), seed(seed_),
          blocks(volume(grid.blocks)), threads(static_cast<unsigned>(volume(grid.threads))) {}

    const Grid& grid;
    const detail::Call& call;
    std::string name;
    std::uint64_t seed;
    std::uint64_t blocks;
    unsigned threads;
    std::vector<std::uint32_t> block_order; // empty in natural order
    std::atomic<std::uint64_t> next_block{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::string failure; // the first one

    void fail(const std::string& message) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!failed.exchange(true)) failure = message;
    }
};

// What outlasts a launch.
struct Runtime {
    std::mutex mutex; // one launch at a time
    std::uint64_t seed = 0;
    std::uint64_t launches = 0;
};

Runtime& runtime() {
    static Runtime instance;
    return instance;
}

} // namespace

// Runs blocks, one at a time, on one OS thread.
class Worker : public Scheduler {
  public:
    Worker()
        : fibers_(kMaxThreads),
          shared_(new (std::align_val_t(kArenaAlignment)) std::byte[kArenaBytes]) {
        state_ = states_;
    }
    ~Worker() { operator delete[](shared_, std::align_val_t(kArenaAlignment)); }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    void run(Launch& launch);
    void wait(State state, std::uint32_t lanes, void* slot, Exchange exchange, Site site);
    void* shared_memory(const SharedArray& array);
    void* dynamic_shared_memory(const SharedArray& array);
    Copies& copies() {
        copied_ = true;
        return copies_[current_];
    }
    AsyncWork& async() { return async_; }
    void wake(const void* what);
    unsigned threads() const { return total_; }
    std::string element_at(const void* address) const;
    [[noreturn]] void fail(const std::string& message);
    bool on_the_stack(const void* address) const { return fiber_->holds(address); }
    bool in_the_call(const void* address) const;
    bool in_the_arena(const void* address) const;
    std::string where() const;
    unsigned current() const { return current_; }

  private:
    struct Waiting {
        Site site;
        std::uint32_t lanes;
        void* slot;
        Exchange exchange;
    };
    struct Placed {
        const SharedArray* array;
        std::byte* memory;
    };

    static void fiber_main();
    void begin_launch(Launch& launch);
    void run_block(std::uint64_t block);
    void refuse_unfinished();
    void go_on(void** saved);
    bool release();
    bool release_block();
    bool release_warp(unsigned warp);
    bool release_pollers();
    void release_lanes(unsigned warp, std::uint32_t lanes, bool all);
    void resume_later(unsigned thread);
    void arrive_in_whole_warp(unsigned warp);
    std::uint32_t lanes_in(unsigned warp, bool (*wanted)(State)) const;
    [[noreturn]] void report_deadlock();

    FiberPool fibers_;
    std::byte* shared_;
    std::vector<Placed> placed_;
    std::size_t shared_used_ = 0;
    const SharedArray* dynamic_ = nullptr; // the launch's dynamic shared memory, once declared
    bool copied_ = false;                  // a thread of this block has used its copies
    AsyncWork async_;
    unsigned vain_polls_ = 0; // times that all pollers were resumed, with no news for any
    Launch* launch_ = nullptr;
    Random random_{0};
    void* main_ = nullptr; // the worker's own stack, left while a block runs
    Fiber* fiber_ = nullptr;
    unsigned ready_count_ = 0;
    uint3 position_of_[kMaxThreads];
    State states_[kMaxThreads];
    Waiting waiting_[kMaxThreads];
    Fiber* fiber_of_[kMaxThreads];
    Copies copies_[kMaxThreads];
    std::uint16_t ready_[kMaxThreads];      // those released, the next to run last
    unsigned whole_warp_[kMaxThreads / 32]; // lanes that wait in an operation of all 32
    std::uint16_t shuffled_[kMaxThreads];
};

namespace {

Worker& this_worker() { return *static_cast<Worker*>(self.scheduler); }

Worker& worker(std::size_t index) {
    static std::vector<std::unique_ptr<Worker>> workers;
    while (workers.size() <= index) workers.push_back(std::make_unique<Worker>());
    return *workers[index];
}

} // namespace

// ---------------------------------------------------------------------- a worker's blocks

void Worker::begin_launch(Launch& launch) {
    launch_ = &launch;
    placed_.clear();
    shared_used_ = 0;
    dynamic_ = nullptr;
    total_ = launch.threads;
    const dim3 extent = launch.grid.threads;
    for (unsigned i = 0; i < total_; ++i)
        position_of_[i] = {i % extent.x, i / extent.x % extent.y, i / extent.x / extent.y};
    positions_ = position_of_;
    const dim3 blocks = launch.grid.blocks;
    self.threads = {extent.x, extent.y, extent.z};
    self.blocks = {blocks.x, blocks.y, blocks.z};
    self.scheduler = this;
}

void Worker::run(Launch& launch) {
    begin_launch(launch);
    for (;;) {
        const std::uint64_t turn = launch.next_block.fetch_add(1);
        if (turn >= launch.blocks || launch.failed) break;
        run_block(launch.block_order.empty() ? turn : launch.block_order[turn]);
    }
    self.scheduler = nullptr;
}

void Worker::run_block(std::uint64_t block) {
    const dim3 blocks = launch_->grid.blocks;
    self.block = {static_cast<unsigned>(block % blocks.x),
                  static_cast<unsigned>(block / blocks.x % blocks.y),
                  static_cast<unsigned>(block / blocks.x / blocks.y)};
    started_ = exited_ = ready_count_ = 0;
    std::fill_n(states_, total_, State::running);
    std::fill(std::begin(whole_warp_), std::end(whole_warp_), 0u);
    order_ = nullptr;
    if (launch_->seed != 0) {
        random_ = Random(launch_->seed * 0x10001u + block);
        std::iota(shuffled_, shuffled_ + total_, std::uint16_t{0});
        random_.shuffle(shuffled_, total_);
        order_ = shuffled_;
    }
    // A block finds whatever the one before it left. NaNs expose a read before the write.
    if (kChecked || launch_->seed != 0)
        std::memset(shared_, 0xff, kDynamicOffset + launch_->grid.shared_bytes);
    if (copied_)
        for (unsigned thread = 0; thread < total_; ++thread) copies_[thread].forget();
    copied_ = false;
    async_.forget();
    vain_polls_ = 0;
    check::begin_block(static_cast<std::uint32_t>(block));
    go_on(&main_);
    if (!launch_->failed) refuse_unfinished();
    if (launch_->failed) fibers_.take_back_all(); // abandoned where they stood
}

// What is yet to arrive would land in the next block's shared memory.
void Worker::refuse_unfinished() {
    const std::string left = async_.left_behind();
    if (!left.empty()) launch_->fail(left);
}

// The bottom of every fiber: starts threads until none is left to start, then hands over for good.
void Worker::fiber_main() {
    Worker& worker = this_worker();
    worker.launch_->call.rows(worker.launch_->call.arguments);
    worker.fibers_.give_back(worker.fiber_);
    worker.fiber_ = nullptr;
    void* nobody = nullptr;
    worker.go_on(&nobody);
}

// Leaves the present stack for whatever can run: a thread that was released, one not yet started,
// or, when the block is done, the worker itself.
void Worker::go_on(void** saved) {
    if (ready_count_ == 0 && started_ < total_) {
        fiber_ = fibers_.take();
        fiber_->prepare(&Worker::fiber_main);
        simt_switch_fiber(saved, fiber_->stack_pointer);
        return;
    }
    if (ready_count_ == 0 && !release()) {
        simt_switch_fiber(saved, main_);
        return;
    }
    const unsigned thread = ready_[--ready_count_];
    become(thread);
    states_[thread] = State::running;
    Fiber* const present = fiber_;
    fiber_ = fiber_of_[thread];
    if (fiber_ != present) simt_switch_fiber(saved, fiber_->stack_pointer);
}

void Worker::wait(State state, std::uint32_t lanes, void* slot, Exchange exchange, Site site) {
    if ((state == State::at_warp_barrier || state == State::at_exchange) &&
        !(lanes >> (current_ & 31u) & 1u))
        fail("a warp operation at " + at(site) + " leaves out the lane that calls it, " + where());
    waiting_[current_] = {site, lanes, slot, exchange};
    states_[current_] = state;
    fiber_of_[current_] = fiber_;
    if (state == State::at_exchange && lanes == kWholeWarp) arrive_in_whole_warp(current_ / 32);
    go_on(&fiber_->stack_pointer);
}

// In natural order a warp that is complete goes on at once, before any other thread runs: its 32
// stacks are still in the processor's cache. Tensor-core kernels spend most of their time here.
void Worker::arrive_in_whole_warp(unsigned warp) {
    if (++whole_warp_[warp] < 32 || launch_->seed != 0) return;
    release_lanes(warp, kWholeWarp, true);
    std::reverse(ready_ + ready_count_ - 32, ready_ + ready_count_);
}

// ---------------------------------------------------------------------- releasing waiting threads

// Nothing can run: every thread waits or has exited. False when all have exited. Asynchronous work
// arrives only when the threads alone make no progress: as late as it may.
bool Worker::release() {
    if (exited_ == total_) return false;
    if (!release_block()) {
        for (unsigned warp = 0; warp * 32 < total_; ++warp)
            while (release_warp(warp)) {}
    }
    while (ready_count_ == 0 && async_.pending() > 0)
        async_.deliver(launch_->seed == 0 ? 0 : random_() % async_.pending());
    if (ready_count_ > 0)
        vain_polls_ = 0;
    else if (!release_pollers())
        report_deadlock();
    if (launch_->seed != 0) random_.shuffle(ready_, ready_count_);
    std::reverse(ready_, ready_ + ready_count_);
    return true;
}

// Those that test whether a phase has ended, and would do something else if not.
bool Worker::release_pollers() {
    if (++vain_polls_ > kVainPolls) return false;
    for (unsigned t = 0; t < total_; ++t)
        if (states_[t] == State::polling) resume_later(t);
    return ready_count_ > 0;
}

// Wakes the threads that wait for `what`.
void Worker::wake(const void* what) {
    const unsigned before = ready_count_;
    for (unsigned t = total_; t-- > 0;)
        if ((states_[t] == State::parked || states_[t] == State::polling) &&
            waiting_[t].slot == what)
            resume_later(t);
    vain_polls_ = 0;
    if (launch_->seed != 0 && ready_count_ > before) random_.shuffle(ready_, ready_count_);
}

void Worker::resume_later(unsigned thread) {
    states_[thread] = State::running;
    ready_[ready_count_++] = static_cast<std::uint16_t>(thread);
}

bool Worker::release_block() {
    unsigned first = kMaxThreads;
    unsigned waiting = 0;
    for (unsigned t = 0; t < total_; ++t) {
        if (states_[t] != State::at_block_barrier) continue;
        if (waiting++ == 0) first = t;
        const Site ours = waiting_[first].site;
        const Site theirs = waiting_[t].site;
        if (!same(ours, theirs))
            fail("threads of one block meet at different __syncthreads: thread " +
                 std::to_string(first) + " at " + at(ours) + ", thread " + std::to_string(t) +
                 " at " + at(theirs));
    }
    if (waiting == 0 || waiting + exited_ != total_) return false;
    for (unsigned t = 0; t < total_; ++t)
        if (states_[t] == State::at_block_barrier) resume_later(t);
    check::block_barrier();
    return true;
}

std::uint32_t Worker::lanes_in(unsigned warp, bool (*wanted)(State)) const {
    std::uint32_t lanes = 0;
    for (unsigned lane = 0; lane < 32 && warp * 32 + lane < total_; ++lane)
        if (wanted(states_[warp * 32 + lane])) lanes |= 1u << lane;
    return lanes;
}

// Lets these lanes go on, which all wait for one another.
void Worker::release_lanes(unsigned warp, std::uint32_t lanes, bool all) {
    const unsigned first = warp * 32;
    const unsigned leader = first + static_cast<unsigned>(__builtin_ctz(lanes));
    const Waiting& ours = waiting_[leader];
    void* slots[32] = {};
    for (unsigned t = leader; t < first + 32; ++t) {
        if (!(lanes >> (t - first) & 1u)) continue;
        const Waiting& theirs = waiting_[t];
        if (!same(ours.site, theirs.site) || theirs.lanes != ours.lanes)
            fail("lanes of one warp meet in different operations: thread " +
                 std::to_string(leader) + " at " + at(ours.site) + ", thread " + std::to_string(t) +
                 " at " + at(theirs.site));
        slots[t - first] = theirs.slot;
    }
    become(leader); // the one a report names
    if (states_[leader] == State::at_exchange) ours.exchange(slots, lanes);
    // A shuffle moves registers; only __syncwarp orders memory, and only for its participants.
    else if (all)
        check::warp_barrier(warp);
    for (unsigned t = leader; t < first + 32; ++t)
        if (lanes >> (t - first) & 1u) resume_later(t);
    if (ours.lanes == kWholeWarp) whole_warp_[warp] = 0;
}

// Releases one group of lanes that have all arrived, or returns false.
bool Worker::release_warp(unsigned warp) {
    const std::uint32_t live = lanes_in(warp, [](State s) { return s != State::exited; });
    const std::uint32_t arrived = lanes_in(
        warp, [](State s) { return s == State::at_warp_barrier || s == State::at_exchange; });
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(arrived >> lane & 1u)) continue;
        const std::uint32_t group = waiting_[warp * 32 + lane].lanes & live;
        if ((arrived & group) != group) continue;
        release_lanes(warp, group, group == live);
        return true;
    }
    return false;
}

void Worker::report_deadlock() {
    std::string message = "no thread of the block can go on:";
    Site last{nullptr, 0};
    for (unsigned t = 0; t < total_; ++t) {
        if (states_[t] == State::exited) continue;
        const Site site = waiting_[t].site;
        if (last.file && same(site, last)) continue;
        last = site;
        message += " thread " + std::to_string(t) + " waits at " + at(site);
        if (states_[t] == State::parked || states_[t] == State::polling)
            message += " for " + async_.lacking(waiting_[t].slot);
        message += ";";
    }
    message += " " + std::to_string(exited_) + " of " + std::to_string(total_) + " have exited";
    fail(message);
}

// ---------------------------------------------------------------------- errors

std::string Worker::where() const {
    const auto triple = [](uint3 v) {
        return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) +
               ")";
    };
    return "block " + triple(self.block) + " thread " + triple(position_of_[current_]);
}

// Abandons the block: device code owns nothing that would need unwinding.
void Worker::fail(const std::string& message) {
    detail::leave_kernel();
    launch_->fail(message);
    void* nobody = nullptr;
    simt_switch_fiber(&nobody, main_);
    __builtin_unreachable();
}

// "full[1]", as the source has it.
std::string Worker::element_at(const void* address) const {
    const auto* p = static_cast<const std::byte*>(address);
    const auto named = [p](const SharedArray& array, const std::byte* memory) {
        const auto offset = static_cast<std::size_t>(p - memory);
        return std::string(array.name) + "[" + std::to_string(offset / array.element_bytes) + "]";
    };
    for (const Placed& placed : placed_)
        if (p >= placed.memory && p < placed.memory + placed.array->bytes)
            return named(*placed.array, placed.memory);
    if (dynamic_ && p >= shared_ + kDynamicOffset)
        return named(*dynamic_, shared_ + kDynamicOffset);
    return "an address";
}

void fail(const std::string& message) { this_worker().fail(message); }
std::string where() { return this_worker().where(); }
unsigned current_thread() { return this_worker().current(); }
bool is_shared(const void* address) { return this_worker().in_the_arena(address); }
Copies& copies_of_the_thread() { return this_worker().copies(); }
AsyncWork& async_work() { return this_worker().async(); }
std::string element_at(const void* address) { return this_worker().element_at(address); }
unsigned threads_of_the_block() { return this_worker().threads(); }
void wake(const void* what) { this_worker().wake(what); }

void park(const void* what, Site site) {
    this_worker().wait(Scheduler::State::parked, 0, const_cast<void*>(what), nullptr, site);
}
void poll(const void* what, Site site) {
    this_worker().wait(Scheduler::State::polling, 0, const_cast<void*>(what), nullptr, site);
}

bool belongs_to_the_thread(const void* address) {
    const auto* p = static_cast<const std::byte*>(address);
    const auto* own = reinterpret_cast<const std::byte*>(&self);
    return this_worker().on_the_stack(address) || this_worker().in_the_call(address) ||
           (p >= own && p < own + sizeof self);
}

bool Worker::in_the_call(const void* address) const {
    const auto* begin = static_cast<const std::byte*>(launch_->call.arguments);
    return address >= begin && address < begin + launch_->call.argument_bytes;
}

bool Worker::in_the_arena(const void* address) const {
    return address >= shared_ && address < shared_ + kArenaBytes;
}

// ---------------------------------------------------------------------- what kernels call

void block_barrier(Site site) {
    const detail::OutsideKernel outside;
    if (kChecked && !check::meet_barrier(site)) return;
    this_worker().wait(Scheduler::State::at_block_barrier, 0, nullptr, nullptr, site);
}

void warp_barrier(std::uint32_t lanes, Site site) {
    const detail::OutsideKernel outside;
    if (kChecked && !check::meet_barrier(site)) return;
    this_worker().wait(Scheduler::State::at_warp_barrier, lanes, nullptr, nullptr, site);
}

void warp_exchange(std::uint32_t lanes, void* slot, Exchange exchange, Site site) {
    const detail::OutsideKernel outside;
    this_worker().wait(Scheduler::State::at_exchange, lanes, slot, exchange, site);
}

void* shared_memory(const SharedArray& array) {
    const detail::OutsideKernel outside;
    return this_worker().shared_memory(array);
}

void* dynamic_shared_memory(const SharedArray& array) {
    const detail::OutsideKernel outside;
    return this_worker().dynamic_shared_memory(array);
}

void* Worker::shared_memory(const SharedArray& array) {
    for (const Placed& placed : placed_)
        if (placed.array == &array) return placed.memory;
    const std::size_t bytes = (array.bytes + 15) / 16 * 16;
    const std::size_t dynamic = launch_->grid.shared_bytes;
    const std::size_t room = std::min(kSharedBytes, kMaxSharedBytes - dynamic);
    if (shared_used_ + bytes > room || placed_.size() == kMaxSharedArrays)
        fail("shared memory: " + std::string(array.name) + " of " + std::to_string(array.bytes) +
             " bytes does not fit beside " + std::to_string(shared_used_) + " bytes in " +
             std::to_string(room));
    std::byte* memory = shared_ + shared_used_ + (placed_.size() + 1) * kSharedFence;
    shared_used_ += bytes;
    placed_.push_back({&array, memory});
    check::declare_shared(array, memory, array.bytes);
    return memory;
}

void* Worker::dynamic_shared_memory(const SharedArray& array) {
    std::byte* memory = shared_ + kDynamicOffset;
    if (dynamic_ == &array) return memory;
    if (dynamic_)
        fail("dynamic shared memory is one array: it is declared as " +
             std::string(dynamic_->name) + " and again as " + array.name);
    dynamic_ = &array;
    check::declare_shared(array, memory, launch_->grid.shared_bytes);
    return memory;
}

// ---------------------------------------------------------------------- a launch

namespace detail {
namespace {

// The limits that every card since compute capability 3.5 has.
void refuse_impossible(const Launch& launch) {
    const auto refuse = [&](const std::string& what) {
        throw Error(launch.name + " launched at " + at(launch.grid.site) + ": " + what);
    };
    const dim3 threads = launch.grid.threads;
    const dim3 blocks = launch.grid.blocks;
    const std::uint64_t count = volume(threads);
    if (count == 0 || count > kMaxThreads || threads.z > 64)
        refuse("a block has 1 to 1,024 threads, at most 64 along z, not " +
               std::to_string(threads.x) + " x " + std::to_string(threads.y) + " x " +
               std::to_string(threads.z));
    if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > 0x7fffffffu ||
        blocks.y > 65535 || blocks.z > 65535)
        refuse("a grid has 1 to 2,147,483,647 blocks along x and 1 to 65,535 along y and z, not " +
               std::to_string(blocks.x) + " x " + std::to_string(blocks.y) + " x " +
               std::to_string(blocks.z));
    if (launch.grid.shared_bytes > kMaxSharedBytes)
        refuse("a block has at most " + std::to_string(kMaxSharedBytes) +
               " bytes of shared memory, not " + std::to_string(launch.grid.shared_bytes));
}

std::vector<std::uint32_t> block_order(std::uint64_t blocks, std::uint64_t seed) {
    if (seed == 0) return {};
    std::vector<std::uint32_t> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    Random(seed).shuffle(order.data(), order.size());
    return order;
}

// The checker sees one block after the other: it tells races by the rules, not by luck.
std::size_t workers_for(const Launch& launch) {
    if (kChecked || launch.blocks * launch.threads < kThreadsWorthWorkers) return 1;
    const std::uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
    return static_cast<std::size_t>(std::min({cores, launch.blocks, kMaxWorkers}));
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

void run(const Grid& grid, const char* pretty_function, const Call& call) {
    Runtime& state = runtime();
    const std::lock_guard<std::mutex> lock(state.mutex);
    Launch launch(grid, call, kernel_name(pretty_function), state.seed);
    refuse_impossible(launch);
    launch.block_order = block_order(launch.blocks, launch.seed);
    check::begin_launch(launch.threads);
    run_on_workers(launch);
    ++state.launches;
    if (launch.failed)
        throw Error(launch.name + " launched at " + at(grid.site) + ": " + launch.failure);
}

} // namespace detail

void set_schedule(std::uint64_t seed) {
    const std::lock_guard<std::mutex> lock(runtime().mutex);
    runtime().seed = seed;
}

std::uint64_t launch_count() {
    const std::lock_guard<std::mutex> lock(runtime().mutex);
    return runtime().launches;
}

} // namespace simt

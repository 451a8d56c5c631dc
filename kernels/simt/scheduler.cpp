// Blocks, threads, barriers and shared memory of the emulation.
#include "worker.hpp"

#include <algorithm>
#include <numeric>

namespace simt {

__thread Self self __attribute__((tls_model("initial-exec")));

namespace {

constexpr std::uint32_t kWholeWarp = 0xffffffffu;
constexpr unsigned kVainPolls = 1000; // after so many in a row nothing will come

Worker& this_worker() { return *static_cast<Worker*>(self.scheduler); }

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
        fail("a warp operation at " + line_of(site) + " leaves out the lane that calls it, " +
             where());
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
                 std::to_string(first) + " at " + line_of(ours) + ", thread " + std::to_string(t) +
                 " at " + line_of(theirs));
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
                 std::to_string(leader) + " at " + line_of(ours.site) + ", thread " +
                 std::to_string(t) + " at " + line_of(theirs.site));
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
        message += " thread " + std::to_string(t) + " waits at " + line_of(site);
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

} // namespace simt

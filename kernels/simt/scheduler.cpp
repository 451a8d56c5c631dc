// Blocks, threads, barriers and shared memory of the emulation.
#include "worker.hpp"

#include <algorithm>
#include <numeric>

namespace simt {

__thread Self self __attribute__((tls_model("initial-exec")));

namespace {

constexpr std::uint32_t kWholeWarp = 0xffffffffu;

} // namespace

// ---------------------------------------------------------------------- a worker's clusters

void Worker::begin_launch(Launch& launch) {
    launch_ = &launch;
    placed_.clear();
    shared_used_ = 0;
    total_ = launch.threads;
    block_threads_ = launch.block_threads;
    const dim3 extent = launch.grid.threads;
    for (unsigned i = 0; i < total_; ++i) position_of_[i] = position(i % block_threads_, extent);
    const dim3 blocks = launch.grid.blocks;
    self.threads = {extent.x, extent.y, extent.z};
    self.blocks = {blocks.x, blocks.y, blocks.z};
    self.scheduler = this;
}

void Worker::run(Launch& launch) {
    begin_launch(launch);
    for (;;) {
        const std::uint64_t turn = launch.next_cluster.fetch_add(1);
        if (turn >= launch.clusters || launch.failed) break;
        run_cluster(launch.cluster_order.empty() ? turn : launch.cluster_order[turn]);
    }
    self.scheduler = nullptr;
}

void Worker::run_cluster(std::uint64_t cluster) {
    const std::uint64_t block = cluster * cluster_blocks();
    for (unsigned rank = 0; rank < cluster_blocks(); ++rank)
        block_of_[rank] = position(block + rank, launch_->grid.blocks);
    self.block = block_of_[0];
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
        for (unsigned rank = 0; rank < cluster_blocks(); ++rank)
            std::memset(shared_[rank], 0xff, kDynamicOffset + launch_->grid.shared_bytes);
    if (copied_)
        for (unsigned thread = 0; thread < total_; ++thread) copies_[thread].take();
    copied_ = false;
    async_.forget();
    if (kChecked) check::begin_cluster(static_cast<std::uint32_t>(block));
    go_on(&main_);
    // What is yet to arrive would land in the next block's shared memory.
    std::string left = launch_->failed ? "" : async_.left_behind();
    if (kChecked && left.empty() && !launch_->failed) left = check::unheld_arrival();
    if (!left.empty()) launch_->fail(left);
    launch_->static_bytes = shared_used_; // of every block the same
    if (async_.used()) launch_->on_hopper = true;
    if (launch_->failed) fibers_.take_back_all(); // abandoned where they stood
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
// or, when the cluster is done, the worker itself.
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

void Worker::wait(State state, const Waiting& waiting) {
    if ((state == State::at_warp_barrier || state == State::at_exchange) &&
        !(waiting.lanes >> (current_ & 31u) & 1u))
        simt::fail("a warp operation at ", line_of(waiting.site),
                   " leaves out the lane that calls it, ", where());
    waiting_[current_] = waiting;
    states_[current_] = state;
    fiber_of_[current_] = fiber_;
    if (state == State::at_exchange && waiting.lanes == kWholeWarp)
        arrive_in_whole_warp(current_ / 32);
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
    bool met = release_all(State::at_cluster_barrier, 0, total_);
    for (unsigned first = 0; first < total_; first += block_threads_)
        met |= release_all(State::at_block_barrier, first, block_threads_);
    if (!met) {
        for (unsigned warp = 0; warp * 32 < total_; ++warp)
            while (release_warp(warp)) {}
    }
    while (ready_count_ == 0 && async_.pending() > 0)
        async_.deliver(launch_->seed == 0 ? 0 : random_() % async_.pending());
    if (ready_count_ == 0) report_deadlock();
    if (launch_->seed != 0) random_.shuffle(ready_, ready_count_);
    std::reverse(ready_, ready_ + ready_count_);
    return true;
}

// Wakes the threads that wait for `what`.
void Worker::wake(const void* what) {
    const unsigned before = ready_count_;
    for (unsigned t = total_; t-- > 0;)
        if (states_[t] == State::parked && waiting_[t].slot == what) resume_later(t);
    if (launch_->seed != 0 && ready_count_ > before) random_.shuffle(ready_, ready_count_);
}

void Worker::resume_later(unsigned thread) {
    states_[thread] = State::running;
    ready_[ready_count_++] = static_cast<std::uint16_t>(thread);
}

// Lets those of `count` threads go on that have all met at such a barrier, or returns false.
bool Worker::release_all(State barrier, unsigned first, unsigned count) {
    unsigned leader = kMaxThreads, waiting = 0, exited = 0;
    for (unsigned t = first; t < first + count; ++t) {
        if (states_[t] == State::exited) ++exited;
        if (states_[t] != barrier) continue;
        if (waiting++ == 0) leader = t;
        const Site ours = waiting_[leader].site;
        const Site theirs = waiting_[t].site;
        if (!same(ours, theirs))
            simt::fail("threads of one ",
                       barrier == State::at_block_barrier
                           ? "block meet at different __syncthreads"
                           : "cluster meet at different cluster_sync",
                       ": ", thread_name(leader), " at ", line_of(ours), ", ", thread_name(t),
                       " at ", line_of(theirs));
    }
    if (waiting == 0 || waiting + exited != count) return false;
    for (unsigned t = first; t < first + count; ++t)
        if (states_[t] == barrier) resume_later(t);
    if (kChecked) check::barrier(first, first + count);
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
            simt::fail("lanes of one warp meet in different operations: thread ", leader, " at ",
                       line_of(ours.site), ", thread ", t, " at ", line_of(theirs.site));
        slots[t - first] = theirs.slot;
    }
    become(leader); // the one a report names
    // A shuffle moves registers; only __syncwarp orders memory, and only for its participants.
    if (states_[leader] == State::at_exchange)
        ours.exchange(slots, lanes);
    else if (kChecked && all)
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
    std::ostringstream message;
    message << "no thread of the " << (cluster_blocks() > 1 ? "cluster" : "block") << " can go on:";
    Site last{nullptr, 0};
    for (unsigned t = 0; t < total_; ++t) {
        if (states_[t] == State::exited) continue;
        const Site site = waiting_[t].site;
        if (last.file && same(site, last)) continue;
        last = site;
        message << ' ' << thread_name(t) << " waits at " << line_of(site);
        if (states_[t] == State::parked) message << " for " << async_.lacking(waiting_[t].slot);
        message << ";";
    }
    message << " " << exited_ << " of " << total_ << " have exited";
    fail(message.str());
}

// ---------------------------------------------------------------------- errors

std::string Worker::where() const {
    const auto triple = [](uint3 v) { return text('(', v.x, ',', v.y, ',', v.z, ')'); };
    return text("block ", triple(self.block), " thread ", triple(position_of_[current_]));
}

std::string Worker::of_rank(unsigned rank) const {
    return cluster_blocks() > 1 ? text(" of rank ", rank) : "";
}

std::string Worker::thread_name(unsigned thread) const {
    return text("thread ", thread % block_threads_, of_rank(thread / block_threads_));
}

bool Worker::has_ended(unsigned rank) const {
    const State* const first = states_ + rank * block_threads_;
    return started_ == total_ && std::all_of(first, first + block_threads_,
                                             [](State state) { return state == State::exited; });
}

// Abandons the cluster: device code owns nothing that would need unwinding.
void Worker::fail(const std::string& message) {
    if (kChecked) detail::leave_kernel();
    launch_->fail(message);
    void* nobody = nullptr;
    simt_switch_fiber(&nobody, main_);
    __builtin_unreachable();
}

std::string Worker::element_at(const void* address) const {
    const auto* const p = static_cast<const std::byte*>(address);
    for (unsigned rank = 0; rank < cluster_blocks(); ++rank)
        for (const auto& [array, of_first, bytes] : placed_) {
            const std::byte* const memory = of_first + rank * kArenaBytes;
            if (p >= memory && p < memory + bytes)
                return text(array->name, '[', (p - memory) / array->element_bytes, ']',
                            of_rank(rank));
        }
    return "an address";
}

bool Worker::belongs_to_the_thread(const void* address) const {
    const auto within = [address](const void* begin, std::size_t bytes) {
        return address >= begin && address < static_cast<const std::byte*>(begin) + bytes;
    };
    return fiber_->holds(address) || within(&self, sizeof self) ||
           within(launch_->call.arguments, launch_->call.argument_bytes);
}

void fail(const std::string& message) { this_worker().fail(message); }
std::string where() { return this_worker().where(); }

// ---------------------------------------------------------------------- what kernels call

void block_barrier(Site site) {
    const detail::OutsideKernel outside;
    if (check::left_out(site)) return;
    this_worker().wait(Scheduler::State::at_block_barrier, {site});
}

void cluster_sync(Cluster, Site site) {
    const detail::OutsideKernel outside;
    if (check::left_out(site)) return;
    this_worker().wait(Scheduler::State::at_cluster_barrier, {site});
}

void warp_barrier(std::uint32_t lanes, Site site) {
    const detail::OutsideKernel outside;
    if (check::left_out(site)) return;
    this_worker().wait(Scheduler::State::at_warp_barrier, {site, lanes});
}

void warp_exchange(std::uint32_t lanes, void* slot, Exchange exchange, Site site) {
    const detail::OutsideKernel outside;
    this_worker().wait(Scheduler::State::at_exchange, {site, lanes, slot, exchange});
}

void* shared_memory(const SharedArray& array) {
    const detail::OutsideKernel outside;
    return this_worker().shared_memory(array);
}

void* Worker::shared_memory(const SharedArray& array) {
    const std::size_t own = rank() * kArenaBytes;
    for (const Placed& placed : placed_)
        if (placed.array == &array) return placed.memory + own;
    const std::size_t dynamic = launch_->grid.shared_bytes;
    Placed placed{&array, shared_[0] + kDynamicOffset, dynamic};
    if (array.bytes == 0) {
        for (const Placed& other : placed_)
            if (other.array->bytes == 0)
                simt::fail("dynamic shared memory is one array: it is declared as ",
                           other.array->name, " and again as ", array.name);
    } else {
        const std::size_t bytes = (array.bytes + 15) / 16 * 16;
        const std::size_t room = std::min(kSharedBytes, kMaxSharedBytes - dynamic);
        if (shared_used_ + bytes > room || placed_.size() == kMaxSharedArrays)
            simt::fail("shared memory: ", array.name, " of ", array.bytes,
                       " bytes does not fit beside ", shared_used_, " bytes in ", room);
        placed.memory = shared_[0] + shared_used_ + (placed_.size() + 1) * kSharedFence;
        placed.bytes = array.bytes;
        shared_used_ += bytes;
    }
    placed_.push_back(placed);
    for (unsigned rank = 0; kChecked && rank < cluster_blocks(); ++rank)
        check::declare_shared(array, placed.memory + rank * kArenaBytes, placed.bytes,
                              of_rank(rank));
    return placed.memory + own;
}

} // namespace simt

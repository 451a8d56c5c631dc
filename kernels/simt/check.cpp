#include "check.hpp"

#include "clocks.hpp"
#include "device.hpp"
#include "lint.hpp"
#include "memory.hpp"
#include "source_lines.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include <dlfcn.h>

namespace simt::check {
namespace {

// ---------------------------------------------------------------------- who did what, and when

// What carries an access out. All but a thread do so later than the thread that requests it.
enum class By : std::uint8_t {
    thread,
    cp_async,      // not waited for yet: nothing of its launch is ordered after it
    tied_cp_async, // ends with a phase of an mbarrier
    load_tile,     // likewise
    wgmma          // ends with a warpgroup's product
};

// One access, with all that decides whether another one comes after it. `launch` 0: none yet.
struct Event {
    std::uint32_t launch;
    std::uint32_t block;
    std::uint32_t block_epoch; // __syncthreads that came before
    std::uint32_t warp_epoch;  // __syncwarp of its warp, likewise
    Time time;                 // of `actor`, at the access or, if that is no thread, at its end
    std::uint32_t pc;          // offset in the module, for addr2line
    std::uint16_t actor;       // whose time it is (clocks.hpp)
    std::uint16_t thread;      // that did or requested it
    By by;
};

bool same_warp(const Event& a, const Event& b) {
    return a.block == b.block && a.thread / 32 == b.thread / 32;
}

// Whether the tensor cores and the copy engine see it only after a fence.
bool is_generic(const Event& event) {
    return event.by == By::thread || event.by == By::tied_cp_async;
}

// The history of one element. Without mbarriers two readers are enough, of different warps whenever
// readers of two warps exist (docs/checker.md has the proof). With them, all are kept that are not
// ordered before another.
struct Cell {
    Event write;
    Event reads[2];
    std::uint32_t more_reads; // which of the checker's lists has the rest; 0: there are none
};

// ---------------------------------------------------------------------- what may be touched

struct Region {
    std::string name;
    const std::byte* begin;
    std::size_t bytes;
    std::size_t element_bytes;
    Access access;
    int device;   // kShared: the block's own
    bool written; // elements hold a value from the start
    std::vector<Cell> cells;

    bool holds(const std::byte* p) const { return p >= begin && p < begin + bytes; }
};

constexpr int kShared = -2;

struct Checker {
    std::vector<Region> buffers; // of the session
    std::vector<Region> shared;  // of the launch
    Region* last = nullptr;      // where the last access fell: the next one usually does too
    std::vector<std::vector<Event>> more_reads{1};
    Event now{};
    std::array<std::uint32_t, 32> warp_epochs{};
    std::array<Time, 32> times_at_barrier{}; // of each warp's threads, at the last __syncthreads
    Clocks clocks;                           // from the block's first use of them
    const Knowledge* view = nullptr;         // of the accessing actor; null without clocks
    Knowledge common;                        // of a warpgroup
    std::array<Event, kMbarriers> inits{};   // of this block's mbarriers
    std::array<Event, kMbarriers> told{};    // and the fences by which the copy engine knows them
    unsigned threads = 0;                    // of a block
    int device = 0;
    const char* module_begin = simt::module_begin();
    std::set<std::pair<std::string, int>> barriers;
    std::pair<std::string, int> left_out;
    std::string shortened;
    std::unique_ptr<Lint> lint; // while it is switched on
};

Checker& checker() {
    static Checker instance;
    return instance;
}

// Set while kernel code runs; everything else in an instrumented file is ignored.
__thread bool active __attribute__((tls_model("initial-exec"))) = false;

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string source_line(std::uint32_t offset) { return source_lines({offset}).front(); }

std::string describe(const char* verb, const Event& event) {
    return std::string(verb) + " by block " + std::to_string(event.block) + " thread " +
           std::to_string(event.thread) + " at " + source_line(event.pc);
}

// CUDA's order between an earlier access and the one that is being made: a later launch, the same
// thread, a __syncthreads of the block or a __syncwarp of the warp in between, or a path of these
// and of mbarriers and waits. Nothing orders two blocks of one launch.
bool ordered(const Event& before) {
    const Checker& c = checker();
    if (before.launch != c.now.launch) return true;
    if (before.block != c.now.block || before.by == By::cp_async) return false;
    if (before.by == By::thread) {
        if (before.block_epoch < c.now.block_epoch) return true;
        const bool one_thread = c.now.by != By::wgmma; // not 128 of them
        if (one_thread && before.thread == c.now.thread) return true;
        if (one_thread && same_warp(before, c.now) && before.warp_epoch < c.now.warp_epoch)
            return true;
    }
    return c.view && before.time <= c.view->seen[before.actor];
}

void look_as(unsigned thread) {
    Checker& c = checker();
    c.now.thread = c.now.actor = static_cast<std::uint16_t>(thread);
    c.now.by = By::thread;
    c.now.warp_epoch = c.warp_epochs[thread / 32];
    c.now.time = 1 + c.now.block_epoch + c.now.warp_epoch;
    c.view = nullptr;
    if (!c.clocks.running()) return;
    c.now.time = c.clocks.time(thread);
    c.view = &c.clocks.of(thread);
}

// The first thread of a warpgroup that is not ordered after `before`: the one a report names.
void blame(const Event& before) {
    Checker& c = checker();
    if (c.now.by != By::wgmma) return;
    const unsigned first = c.now.thread;
    for (unsigned t = first; t < first + 128; ++t) {
        look_as(t);
        if (!ordered(before)) return;
    }
}

std::string place(const Region& region, std::size_t element) {
    return region.name + "[" + std::to_string(element) + "]";
}

// Until an asynchronous access has been waited for, not even its own thread knows how far it is.
[[noreturn]] void report_race(const Region& region, std::size_t element, const char* verb_before,
                              const Event& before, const char* verb_now) {
    blame(before);
    const std::string now = describe(verb_now, checker().now);
    const std::string begun = describe("begun", before) + ", and not waited for";
    const bool same_block =
        before.launch == checker().now.launch && before.block == checker().now.block;
    if (before.by == By::thread || !same_block)
        fail("data race on " + place(region, element) + ": " + now + ", " +
             describe(verb_before, before) + ", and no barrier orders the two");
    if (before.by == By::wgmma)
        fail(now + " of " + place(region, element) + ", which a wgmma still reads: " + begun);
    fail(now + " of " + place(region, element) + ", to which a " +
         (before.by == By::load_tile ? "load_tile" : "cp.async") + " is under way: " + begun);
}

void require_ordered(const Region& region, std::size_t element, const char* verb_before,
                     const Event& before, const char* verb_now) {
    if (before.launch != 0 && !ordered(before))
        report_race(region, element, verb_before, before, verb_now);
}

// The tensor cores and the copy engine may miss what a thread wrote, even after a barrier.
void require_fenced(const Region& region, std::size_t element, const char* verb_now) {
    const Event& before = region.cells[element].write;
    const Checker& c = checker();
    if (before.launch != c.now.launch || before.block != c.now.block || !is_generic(before)) return;
    if (before.time <= c.view->fenced[before.actor]) return;
    fail(describe(verb_now, c.now) + " of " + place(region, element) + ", " +
         describe("written", before) + ", and no fence_proxy_async between the two");
}

// ---------------------------------------------------------------------- one element

// Two readers without clocks: a read takes the place of one that is ordered before it; the other
// stays unless it is, too. Two readers of one warp stand for that warp alone.
void keep_read(Cell& cell) {
    const Event& now = checker().now;
    for (Event& seen : cell.reads) {
        if (seen.launch == 0 || ordered(seen)) {
            seen = now;
            Event& other = &seen == &cell.reads[0] ? cell.reads[1] : cell.reads[0];
            if (other.launch != 0 && ordered(other)) other.launch = 0;
            return;
        }
    }
    if (same_warp(cell.reads[0], cell.reads[1]) && !same_warp(cell.reads[0], now))
        cell.reads[1] = now;
}

// With clocks: `event`, and those that are not ordered before it.
void keep_every_read(Cell& cell, const Event& event) {
    Checker& c = checker();
    for (Event& seen : cell.reads)
        if (seen.launch != 0 && ordered(seen)) seen.launch = 0;
    if (cell.more_reads != 0) {
        std::vector<Event>& more = c.more_reads[cell.more_reads];
        more.erase(std::remove_if(more.begin(), more.end(), ordered), more.end());
    }
    for (Event& seen : cell.reads)
        if (seen.launch == 0) {
            seen = event;
            return;
        }
    if (cell.more_reads == 0) {
        cell.more_reads = static_cast<std::uint32_t>(c.more_reads.size());
        c.more_reads.emplace_back();
    }
    c.more_reads[cell.more_reads].push_back(event);
}

// A read by the actor of `now`; kept as `event`, which says when it is over.
void read_element(Region& region, std::size_t element, const Event& event) {
    Cell& cell = region.cells[element];
    const Checker& c = checker();
    const bool own_block = cell.write.launch == c.now.launch && cell.write.block == c.now.block;
    const bool has_value =
        region.device == kShared ? own_block : region.written || cell.write.launch != 0;
    if (!has_value)
        fail("uninitialised read of " + place(region, element) + " at " + source_line(c.now.pc) +
             ", " + where() + ": nothing has been written there yet");
    require_ordered(region, element, "write", cell.write, "read");
    if (event.by == By::wgmma) require_fenced(region, element, "read");
    if (c.clocks.running())
        keep_every_read(cell, event);
    else
        keep_read(cell);
}

void write_element(Region& region, std::size_t element, const Event& event) {
    Cell& cell = region.cells[element];
    const Checker& c = checker();
    const bool stale = region.device == kShared &&
                       (cell.write.launch != c.now.launch || cell.write.block != c.now.block);
    if (stale) cell = Cell{}; // another block's copy of the array
    require_ordered(region, element, "write", cell.write, "write");
    for (const Event& seen : cell.reads) require_ordered(region, element, "read", seen, "write");
    if (cell.more_reads != 0)
        for (const Event& seen : c.more_reads[cell.more_reads])
            require_ordered(region, element, "read", seen, "write");
    if (event.by == By::load_tile) require_fenced(region, element, "write");
    cell = Cell{event, {}, 0};
}

// ---------------------------------------------------------------------- one access

Region* find(const std::byte* p) {
    Checker& c = checker();
    if (c.last && c.last->holds(p)) return c.last;
    for (auto* regions : {&c.shared, &c.buffers})
        for (Region& region : *regions)
            if (region.holds(p)) return c.last = &region;
    return nullptr;
}

std::size_t element_of(const Region& region, const void* address) {
    const auto offset = static_cast<const std::byte*>(address) - region.begin;
    return static_cast<std::size_t>(offset) / region.element_bytes;
}

// How far `p` lies outside the region, in bytes.
std::ptrdiff_t distance(const Region& region, const std::byte* p) {
    if (p < region.begin) return region.begin - p;
    return p - (region.begin + region.bytes);
}

[[noreturn]] void report_outside(const std::byte* p, std::size_t bytes, const char* verb) {
    Checker& c = checker();
    const Region* nearest = nullptr;
    for (const auto* regions : {&c.shared, &c.buffers})
        for (const Region& region : *regions)
            if (!nearest || distance(region, p) < distance(*nearest, p)) nearest = &region;
    std::string message = "out-of-bounds " + std::string(verb) + " of " + std::to_string(bytes) +
                          " bytes at " + source_line(c.now.pc) + ", " + where();
    if (nearest)
        message += ", " + std::to_string(distance(*nearest, p)) + " bytes " +
                   (p < nearest->begin ? "before the begin of " : "after the end of ") +
                   nearest->name + " (" + std::to_string(nearest->bytes) + " bytes)";
    fail(message);
}

std::uint32_t offset_of(const void* pc) {
    return static_cast<std::uint32_t>(static_cast<const char*>(pc) - checker().module_begin);
}

void begin_access(const void* pc) {
    look_as(current_thread());
    checker().now.pc = offset_of(pc);
}

// The array that holds these bytes, all of them.
Region& hold(Region* region, const std::byte* p, std::size_t bytes, const char* verb) {
    if (!region) report_outside(p, bytes, verb);
    const std::byte* const end = region->begin + region->bytes;
    if (p + bytes > end) report_outside(end, static_cast<std::size_t>(p + bytes - end), verb);
    return *region;
}

void require_access(const Region& region, bool is_write) {
    const Checker& c = checker();
    if (region.device != kShared && region.device != c.device && region.device != kHost &&
        !peers_enabled(c.device, region.device))
        fail("a kernel on device " + std::to_string(c.device) + " touches " + region.name +
             " of device " + std::to_string(region.device) +
             ", to which no peer access is enabled, at " + source_line(c.now.pc));
    if (is_write && region.access == Access::read)
        fail("write to the input " + region.name + " at " + source_line(c.now.pc) + ", " + where());
}

template <class Each>
void for_elements(Region& region, const void* address, std::size_t bytes, Each each) {
    const auto offset =
        static_cast<std::size_t>(static_cast<const std::byte*>(address) - region.begin);
    const std::size_t end = (offset + bytes + region.element_bytes - 1) / region.element_bytes;
    for (std::size_t e = offset / region.element_bytes; e < end; ++e) each(e);
}

// Whether it lies in this module itself, as a kernel's constants do. (Allowing any module would not
// do: far from an array there may be a library.)
bool is_constant(const void* address) {
    Dl_info info;
    return dladdr(address, &info) && info.dli_fbase == checker().module_begin;
}

// A thread's access, kept as `event`, or as the thread's own where there is none.
void access(const void* address, std::size_t bytes, bool is_write, const void* pc,
            const Event* event = nullptr) {
    const auto* p = static_cast<const std::byte*>(address);
    Region* const found = find(p);
    if (!found) {
        if (belongs_to_the_thread(address)) return;
        if (!is_write && is_constant(address)) return;
    }
    begin_access(pc);
    Region& region = hold(found, p, bytes, is_write ? "write" : "read");
    require_access(region, is_write);
    Checker& c = checker();
    const Event& kept = event ? *event : c.now;
    for_elements(region, address, bytes, [&](std::size_t element) {
        if (is_write)
            write_element(region, element, kept);
        else
            read_element(region, element, kept);
    });
    if (c.lint && (!event || event->by == By::cp_async))
        c.lint->access({c.now.pc, region.device == kShared, is_write, bytes}, region.name,
                       region.begin, c.now.thread, p);
}

// What the compiler's hooks call.
void hooked(const void* address, std::size_t bytes, bool is_write, const void* pc) {
    const detail::OutsideKernel outside;
    access(address, bytes, is_write, pc);
}

// Only clocks can tell what mbarriers and asynchronous copies order: started at the first one.
Clocks& clocks() {
    Checker& c = checker();
    if (c.clocks.running()) return c.clocks;
    const auto time_of = [&c](unsigned t) { return 1 + c.now.block_epoch + c.warp_epochs[t / 32]; };
    c.clocks.start(c.threads, time_of, [&](unsigned t, unsigned u) {
        return t / 32 == u / 32 ? time_of(u) - 1 : c.times_at_barrier[u / 32];
    });
    return c.clocks;
}

// An event of the running thread, carried out by another actor and over at that actor's time.
Event event_of(By by, unsigned actor, Time time, const void* pc) {
    begin_access(pc);
    Event event = checker().now;
    event.by = by;
    event.actor = static_cast<std::uint16_t>(actor);
    event.time = time;
    return event;
}

} // namespace

// ---------------------------------------------------------------------- what the scheduler tells

namespace {
void forget_more_reads() {
    Checker& c = checker();
    c.more_reads.resize(1);
    for (Region& region : c.buffers)
        for (Cell& cell : region.cells) cell.more_reads = 0;
}
} // namespace

void begin_launch(unsigned threads) {
    Checker& c = checker();
    c.threads = threads;
    if (c.lint) c.lint->end_launch();
    c.shared.clear();
    c.last = nullptr;
    if (c.more_reads.size() > 1) forget_more_reads();
    ++c.now.launch;
    c.device = current_device();
}

void begin_block(std::uint32_t block) {
    Checker& c = checker();
    if (c.lint) c.lint->end_epoch();
    c.now.block = block;
    c.now.block_epoch = 0;
    c.warp_epochs.fill(0);
    c.times_at_barrier.fill(0);
    c.clocks.stop();
    c.told.fill(Event{});
}

void block_barrier() {
    Checker& c = checker();
    if (c.lint) c.lint->end_epoch();
    for (unsigned warp = 0; warp < 32; ++warp)
        c.times_at_barrier[warp] = 1 + c.now.block_epoch + c.warp_epochs[warp];
    ++c.now.block_epoch;
    if (c.clocks.running()) c.clocks.meet_all();
}

void warp_barrier(unsigned warp) {
    Checker& c = checker();
    ++c.warp_epochs[warp];
    if (c.clocks.running()) c.clocks.meet(32 * warp, 32 * (warp + 1));
}

void declare_shared(const SharedArray& array, const void* memory, std::size_t bytes) {
    Checker& c = checker();
    const std::size_t elements = (bytes + array.element_bytes - 1) / array.element_bytes;
    c.shared.push_back({array.name, static_cast<const std::byte*>(memory), bytes,
                        array.element_bytes, Access::read_write, kShared, false,
                        std::vector<Cell>(elements)});
    c.last = nullptr;
}

std::string place_of(const void* address) {
    const auto* p = static_cast<const std::byte*>(address);
    if (const Region* region = find(p))
        return region->name + " + " + std::to_string(p - region->begin) + " bytes";
    char text[32];
    std::snprintf(text, sizeof text, "%p", address);
    return text;
}

void read(const void* address, std::size_t bytes, const void* pc) {
    access(address, bytes, false, pc);
}

void begin_copy(const void* address, std::size_t bytes, const void* pc) {
    begin_access(pc);
    const Event event = event_of(By::cp_async, checker().now.thread, checker().now.time, pc);
    access(address, bytes, true, pc, &event);
}

namespace {
// Nothing touched the memory meanwhile, or there had been a report: all that is left to do is to
// check later accesses against this moment, or against the end of a barrier's phase.
void replace_write(const void* address, std::size_t bytes, const Event& event) {
    Region& region = *find(static_cast<const std::byte*>(address));
    for_elements(region, address, bytes,
                 [&](std::size_t element) { region.cells[element] = Cell{event, {}, 0}; });
}
} // namespace

void end_copy(const void* address, std::size_t bytes, const void* pc) {
    begin_access(pc);
    replace_write(address, bytes, checker().now);
}

// ---------------------------------------------------------------------- what Hopper adds

void mbarrier_init(unsigned barrier, const void* address, const void* pc) {
    clocks();
    access(address, sizeof(std::uint64_t), true, pc);
    checker().inits[barrier] = checker().now;
    checker().told[barrier] = Event{};
}

void mbarrier_fence_init() {
    clocks();
    begin_access(nullptr);
    Checker& c = checker();
    for (unsigned barrier = 0; barrier < kMbarriers; ++barrier)
        if (c.inits[barrier].launch == c.now.launch && c.inits[barrier].block == c.now.block &&
            c.inits[barrier].thread == c.now.thread)
            c.told[barrier] = c.now;
}

void mbarrier_use(unsigned barrier, const void* address, const void* pc) {
    clocks();
    begin_access(pc);
    const Event& init = checker().inits[barrier];
    if (ordered(init)) return;
    const Region& region = *find(static_cast<const std::byte*>(address));
    report_race(region, element_of(region, address), "initialised", init, "used");
}

// The copy engine sees the barrier only after a fence.
void mbarrier_use_by_engine(unsigned barrier, const void* address) {
    Checker& c = checker();
    const Event& init = c.inits[barrier];
    const Event& told = c.told[barrier];
    if ((told.launch != 0 && ordered(told)) || init.time <= c.view->fenced[init.actor]) return;
    const Region& region = *find(static_cast<const std::byte*>(address));
    fail(describe("used", c.now) + " of " + place(region, element_of(region, address)) +
         " for a load_tile, " + describe("initialised", init) +
         ", and no mbarrier_fence_init between the two");
}

void mbarrier_arrive(unsigned barrier) { clocks().arrive(barrier, current_thread()); }
void mbarrier_phase_ends(unsigned barrier) { clocks().end_phase(barrier); }
void mbarrier_acquire(unsigned barrier) { clocks().acquire(barrier, current_thread()); }
void fence() { clocks().fence(current_thread()); }

// A copy's bytes come with the end of the barrier's phase.
void tie_copy(const void* address, std::size_t bytes, unsigned barrier, const void* pc) {
    Clocks& c = clocks();
    replace_write(
        address, bytes,
        event_of(By::tied_cp_async, c.actor_of_mbarrier(barrier), c.phase_under_way(barrier), pc));
}

void load(const void* address, std::size_t bytes, unsigned barrier, const void* pc) {
    Clocks& c = clocks();
    const Event event =
        event_of(By::load_tile, c.actor_of_mbarrier(barrier), c.phase_under_way(barrier), pc);
    access(address, bytes, true, pc, &event);
}

void load_from(const void* address, std::size_t bytes, const void* pc) {
    clocks();
    begin_access(pc);
    const Event event = checker().now;
    access(address, bytes, false, pc, &event);
    Region& region = *find(static_cast<const std::byte*>(address));
    for_elements(region, address, bytes,
                 [&](std::size_t element) { require_fenced(region, element, "read"); });
}

void begin_product(unsigned warpgroup, const void* pc) {
    clocks();
    begin_access(pc);
    Checker& c = checker();
    c.common = c.clocks.of_warpgroup(warpgroup);
}

void read_operand(const void* address, std::size_t bytes, unsigned warpgroup,
                  std::uint32_t number) {
    Checker& c = checker();
    const auto* p = static_cast<const std::byte*>(address);
    c.now.thread = static_cast<std::uint16_t>(128 * warpgroup);
    c.now.actor = static_cast<std::uint16_t>(c.clocks.actor_of_warpgroup(warpgroup));
    c.now.by = By::wgmma;
    c.now.time = number;
    c.view = &c.common;
    Region& region = hold(find(p), p, bytes, "read");
    for_elements(region, address, bytes,
                 [&](std::size_t element) { read_element(region, element, c.now); });
}

void products_ended(unsigned warpgroup, std::uint32_t last) {
    clocks().products_ended(warpgroup, last, current_thread());
}

bool meet_barrier(Site site) {
    Checker& c = checker();
    const std::pair<std::string, int> here(site.file, site.line);
    c.barriers.insert(here);
    return here != c.left_out;
}

void declare(const Buffer& buffer, const void* placed) {
    for (Region& region : checker().buffers) {
        if (region.begin != placed) continue;
        region.name += "/" + buffer.name; // an output in place of an input
        if (buffer.access != Access::read) region.access = buffer.access;
        return;
    }
    const bool shortened = buffer.name == checker().shortened;
    const std::size_t bytes = buffer.bytes - (shortened ? buffer.element_bytes : 0);
    checker().buffers.push_back(
        {buffer.name, static_cast<const std::byte*>(placed), bytes, buffer.element_bytes,
         buffer.access, buffer.device,
         buffer.access == Access::read || buffer.access == Access::read_write,
         std::vector<Cell>(bytes / buffer.element_bytes)});
}

void forget_buffers() {
    checker().buffers.clear();
    checker().last = nullptr;
}

// An output is the whole array: an element that no thread wrote is a result left to chance.
std::string unwritten_output() {
    for (const Region& region : checker().buffers) {
        if (region.access != Access::write) continue;
        for (std::size_t e = 0; e < region.cells.size(); ++e)
            if (region.cells[e].write.launch == 0)
                return region.name + "[" + std::to_string(e) + "] was never written";
    }
    return "";
}

} // namespace simt::check

namespace simt {

std::vector<std::string> barriers_met() {
    std::vector<std::string> names;
    for (const auto& [file, line] : check::checker().barriers)
        names.push_back(file + ":" + std::to_string(line));
    return names;
}

void leave_out_barrier(const std::string& file_and_line) {
    auto& left_out = check::checker().left_out;
    left_out = {"", 0};
    const std::size_t colon = file_and_line.rfind(':');
    if (colon != std::string::npos)
        left_out = {file_and_line.substr(0, colon), std::stoi(file_and_line.substr(colon + 1))};
}

void shorten_buffer(const std::string& name) { check::checker().shortened = name; }

void begin_lint() { check::checker().lint = std::make_unique<check::Lint>(); }

std::vector<LintRow> end_lint() {
    const std::unique_ptr<check::Lint> lint = std::move(check::checker().lint);
    return lint ? lint->rows() : std::vector<LintRow>();
}

namespace detail {
void enter_kernel() { check::active = true; }
void leave_kernel() { check::active = false; }
} // namespace detail

} // namespace simt

// ---------------------------------------------------------------------- the compiler's hooks

using simt::check::active;
using simt::check::hooked;

#define SIMT_ACCESS(name, bytes, is_write)                                                         \
    extern "C" void name(void* address) {                                                          \
        if (active) hooked(address, bytes, is_write, __builtin_return_address(0));                 \
    }
#define SIMT_ACCESSES(bytes)                                                                       \
    SIMT_ACCESS(__tsan_read##bytes, bytes, false)                                                  \
    SIMT_ACCESS(__tsan_write##bytes, bytes, true)                                                  \
    SIMT_ACCESS(__tsan_unaligned_read##bytes, bytes, false)                                        \
    SIMT_ACCESS(__tsan_unaligned_write##bytes, bytes, true)                                        \
    SIMT_ACCESS(__tsan_volatile_read##bytes, bytes, false)                                         \
    SIMT_ACCESS(__tsan_volatile_write##bytes, bytes, true)
SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)

extern "C" {

void __tsan_read_range(void* address, std::size_t bytes) {
    if (active) hooked(address, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
    if (active) hooked(address, bytes, true, __builtin_return_address(0));
}
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
    if (active) hooked(from, bytes, false, __builtin_return_address(0));
    if (active) hooked(to, bytes, true, __builtin_return_address(0));
    return std::memcpy(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
    if (active) hooked(to, bytes, true, __builtin_return_address(0));
    return std::memset(to, value, bytes);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// -fsanitize=alignment calls this before an access whose address does not suit its type. The layout
// of its argument is fixed by the compilers' common run-time interface.
struct TypeMismatch {
    const char* file;
    std::uint32_t line;
    std::uint32_t column;
    const void* type;
    unsigned char log_alignment;
    unsigned char kind;
};
void __ubsan_handle_type_mismatch_v1(TypeMismatch* mismatch, void* address) {
    if (!active) return;
    const simt::detail::OutsideKernel outside;
    simt::fail("misaligned access to " + simt::check::place_of(address) +
               ", which should be a multiple of " + std::to_string(1u << mismatch->log_alignment) +
               " bytes, at " + simt::check::file_name(mismatch->file) + ":" +
               std::to_string(mismatch->line) + ", " + simt::where());
}
void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* mismatch, void* address) {
    __ubsan_handle_type_mismatch_v1(mismatch, address);
}

} // extern "C"

// The checker's rules: which accesses are in bounds, in order, and of something that was written.
#include "checker.hpp"

#include <algorithm>

#include <dlfcn.h>

namespace simt::check {

__thread bool active __attribute__((tls_model("initial-exec"))) = false;

Checker& checker() {
    static Checker instance;
    return instance;
}

static std::string source_line(std::uint32_t offset) { return source_lines({offset}).front(); }

std::string describe(const char* verb, const Event& event) {
    const unsigned of_a_block = checker().block_threads;
    return text(verb, " by block ", event.block + event.thread / of_a_block, " thread ",
                event.thread % of_a_block, " at ", source_line(event.pc));
}

bool of_this_block(const Event& event) {
    return event.launch == checker().now.launch && event.block == checker().now.block;
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

static void look_as(unsigned thread) {
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
static void blame(const Event& before) {
    Checker& c = checker();
    if (c.now.by != By::wgmma) return;
    const unsigned first = c.now.thread;
    for (unsigned t = first; t < first + 128; ++t) {
        look_as(t);
        if (!ordered(before)) return;
    }
}

std::string place(const Region& region, std::size_t element) {
    return text(region.name, '[', element, ']', region.of_rank);
}

// Until an asynchronous access has been waited for, not even its own thread knows how far it is.
[[noreturn]] void report_race(const Region& region, std::size_t element, const char* verb_before,
                              const Event& before, const char* verb_now) {
    blame(before);
    const std::string now = describe(verb_now, checker().now), what = place(region, element);
    if (before.by == By::thread || !of_this_block(before))
        fail("data race on ", what, ": ", now, ", ", describe(verb_before, before),
             ", and no barrier orders the two");
    const std::string state = before.by == By::wgmma       ? ", which a wgmma still reads: "
                              : before.by == By::load_tile ? ", to which a load_tile is under way: "
                                                           : ", to which a cp.async is under way: ";
    fail(now, " of ", what, state, describe("begun", before), ", and not waited for");
}

static void require_ordered(const Region& region, std::size_t element, const char* verb_before,
                            const Event& before, const char* verb_now) {
    if (before.launch != 0 && !ordered(before))
        report_race(region, element, verb_before, before, verb_now);
}

void require_fenced(const Region& region, std::size_t element, const char* verb_now) {
    const Event& before = region.cells[element].write;
    const Checker& c = checker();
    if (!of_this_block(before) || !is_generic(before)) return;
    if (before.time <= c.view->fenced[before.actor]) return;
    fail(describe(verb_now, c.now), " of ", place(region, element), ", ",
         describe("written", before), ", and no fence_proxy_async between the two");
}

// ---------------------------------------------------------------------- one element

// Two readers without clocks: a read takes the place of one that is ordered before it; the other
// stays unless it is, too. Two readers of one warp stand for that warp alone.
static void keep_read(Cell& cell) {
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
static void keep_every_read(Cell& cell, const Event& event) {
    for (Event& seen : cell.reads)
        if (seen.launch != 0 && ordered(seen)) seen.launch = 0;
    std::vector<Event>& more = cell.more_reads;
    more.erase(std::remove_if(more.begin(), more.end(), ordered), more.end());
    for (Event& seen : cell.reads)
        if (seen.launch == 0) {
            seen = event;
            return;
        }
    more.push_back(event);
}

void read_element(Region& region, std::size_t element, const Event& event) {
    Cell& cell = region.cells[element];
    const Checker& c = checker();
    const bool has_value = region.device == kShared ? of_this_block(cell.write)
                                                    : region.written || cell.write.launch != 0;
    if (!has_value)
        fail("uninitialised read of ", place(region, element), " at ", source_line(c.now.pc), ", ",
             where(), ": nothing has been written there yet");
    require_ordered(region, element, "write", cell.write, "read");
    if (event.by == By::wgmma) require_fenced(region, element, "read");
    if (c.clocks.running())
        keep_every_read(cell, event);
    else
        keep_read(cell);
}

static void write_element(Region& region, std::size_t element, const Event& event) {
    Cell& cell = region.cells[element];
    if (region.device == kShared && !of_this_block(cell.write))
        cell = Cell{}; // another block's copy of the array
    require_ordered(region, element, "write", cell.write, "write");
    for (const Event& seen : cell.reads) require_ordered(region, element, "read", seen, "write");
    for (const Event& seen : cell.more_reads)
        require_ordered(region, element, "read", seen, "write");
    if (event.by == By::load_tile) require_fenced(region, element, "write");
    cell = Cell{event, {}, {}};
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
static std::ptrdiff_t distance(const Region& region, const std::byte* p) {
    if (p < region.begin) return region.begin - p;
    return p - (region.begin + region.bytes);
}

[[noreturn]] static void report_outside(const std::byte* p, std::size_t bytes, const char* verb) {
    Checker& c = checker();
    const Region* nearest = nullptr;
    for (const auto* regions : {&c.shared, &c.buffers})
        for (const Region& region : *regions)
            if (!nearest || distance(region, p) < distance(*nearest, p)) nearest = &region;
    const std::string what = text("out-of-bounds ", verb, " of ", bytes, " bytes at ",
                                  source_line(c.now.pc), ", ", where());
    if (!nearest) fail(what);
    fail(what, ", ", distance(*nearest, p), " bytes ",
         p < nearest->begin ? "before the begin of " : "after the end of ", nearest->name, " (",
         nearest->bytes, " bytes)");
}

void begin_access(const void* pc) {
    look_as(this_worker().current());
    checker().now.pc =
        static_cast<std::uint32_t>(static_cast<const char*>(pc) - checker().module_begin);
}

void begin_clocked(const void* pc) {
    clocks();
    begin_access(pc);
}

Region& hold(Region* region, const std::byte* p, std::size_t bytes, const char* verb) {
    if (!region) report_outside(p, bytes, verb);
    const std::byte* const end = region->begin + region->bytes;
    if (p + bytes > end) report_outside(end, static_cast<std::size_t>(p + bytes - end), verb);
    return *region;
}

static void require_access(const Region& region, bool is_write) {
    const Checker& c = checker();
    if (region.device != kShared && region.device != c.device && region.device != kHost &&
        !peers_enabled(c.device, region.device))
        fail("a kernel on device ", c.device, " touches ", region.name, " of device ",
             region.device, ", to which no peer access is enabled, at ", source_line(c.now.pc));
    if (is_write && region.access == Access::read)
        fail("write to the input ", region.name, " at ", source_line(c.now.pc), ", ", where());
}

// Whether it lies in this module itself, as a kernel's constants do. (Allowing any module would not
// do: far from an array there may be a library.)
static bool is_constant(const void* address) {
    Dl_info info;
    return dladdr(address, &info) && info.dli_fbase == checker().module_begin;
}

void access(const void* address, std::size_t bytes, bool is_write, const void* pc,
            const Event* event) {
    const auto* p = static_cast<const std::byte*>(address);
    Region* const found = find(p);
    if (!found && this_worker().belongs_to_the_thread(address)) return;
    if (!found && !is_write && is_constant(address)) return;
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

Clocks& clocks() {
    Checker& c = checker();
    if (c.clocks.running()) return c.clocks;
    const auto time_of = [&c](unsigned t) { return 1 + c.now.block_epoch + c.warp_epochs[t / 32]; };
    c.clocks.start(c.threads, time_of, [&](unsigned t, unsigned u) {
        return t / 32 == u / 32 ? time_of(u) - 1 : c.times_at_barrier[u / 32];
    });
    return c.clocks;
}

Event event_of(By by, unsigned actor, Time time, const void* pc) {
    begin_access(pc);
    Event event = checker().now;
    event.by = by;
    event.actor = static_cast<std::uint16_t>(actor);
    event.time = time;
    return event;
}

} // namespace simt::check

#include "check.hpp"

#include "device.hpp"
#include "lint.hpp"
#include "memory.hpp"
#include "source_lines.hpp"

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

// The block_epoch of a write that is still to come: nothing of its launch is ordered after it.
constexpr std::uint32_t kUnderWay = 0xffffffffu;

// One access, with all that decides whether another one comes after it. `launch` 0: none yet.
struct Event {
    std::uint32_t launch;
    std::uint32_t block;
    std::uint32_t block_epoch; // __syncthreads that lie behind it, or kUnderWay
    std::uint32_t warp_epoch;  // __syncwarp of its warp, likewise
    std::uint32_t thread;
    std::uint32_t pc; // offset in the module, for addr2line
};

bool same_warp(const Event& a, const Event& b) {
    return a.block == b.block && a.thread / 32 == b.thread / 32;
}

// CUDA's order: a later launch, the same thread, a __syncthreads of the block between, or a
// __syncwarp of the warp between. Nothing orders two blocks of one launch.
bool ordered(const Event& before, const Event& after) {
    if (before.launch != after.launch) return true;
    if (before.block != after.block) return false;
    if (before.thread == after.thread || before.block_epoch < after.block_epoch) return true;
    return same_warp(before, after) && before.warp_epoch < after.warp_epoch;
}

// The history of one element. Two readers are enough if they are of different warps wherever
// readers of two warps are to be had (docs/checker.md has the proof).
struct Cell {
    Event write;
    Event reads[2];
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
    Region* last = nullptr;      // where the last access fell: the next one mostly falls there too
    Event now{};
    std::array<std::uint32_t, 32> warp_epochs{};
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

// Set while kernel code runs; everything else in an instrumented file is none of our business.
__thread bool active __attribute__((tls_model("initial-exec"))) = false;

std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string source_line(std::uint32_t offset) { return source_lines({offset}).front(); }

std::string describe(const char* verb, const Event& event) {
    return std::string(verb) + " by block " + std::to_string(event.block) + " thread " +
           std::to_string(event.thread) + " at " + source_line(event.pc);
}

[[noreturn]] void report_race(const Region& region, std::size_t element, const char* verb_before,
                              const Event& before, const char* verb_now) {
    fail("data race on " + region.name + "[" + std::to_string(element) +
         "]: " + describe(verb_now, checker().now) + ", " + describe(verb_before, before) +
         ", and no barrier orders the two");
}

// Until a copy has been waited for, not even its own thread knows what lies there.
void refuse_under_way(const Region& region, std::size_t element, const char* verb_now) {
    const Event& copy = region.cells[element].write;
    const Event& now = checker().now;
    if (copy.block_epoch != kUnderWay || copy.launch != now.launch || copy.block != now.block)
        return;
    fail(describe(verb_now, now) + " of " + region.name + "[" + std::to_string(element) +
         "], to which a cp.async is under way: " + describe("begun", copy) +
         ", and not waited for");
}

// ---------------------------------------------------------------------- one element

void read_element(Region& region, std::size_t element) {
    refuse_under_way(region, element, "read");
    Cell& cell = region.cells[element];
    const Event& now = checker().now;
    const bool own_block = cell.write.launch == now.launch && cell.write.block == now.block;
    const bool has_value =
        region.device == kShared ? own_block : region.written || cell.write.launch != 0;
    if (!has_value)
        fail("uninitialised read of " + region.name + "[" + std::to_string(element) + "] at " +
             source_line(now.pc) + ", " + where() + ": nothing has been written there yet");
    if (cell.write.launch != 0 && !ordered(cell.write, now))
        report_race(region, element, "write", cell.write, "read");
    for (Event& seen : cell.reads) {
        if (seen.launch == 0 || ordered(seen, now)) {
            seen = now;
            // One entry is enough for this read; the other stays if nothing orders it before now.
            Event& other = &seen == &cell.reads[0] ? cell.reads[1] : cell.reads[0];
            if (other.launch != 0 && ordered(other, now)) other.launch = 0;
            return;
        }
    }
    // Two readers of one warp vouch for that warp alone.
    if (same_warp(cell.reads[0], cell.reads[1]) && !same_warp(cell.reads[0], now))
        cell.reads[1] = now;
}

void write_element(Region& region, std::size_t element) {
    refuse_under_way(region, element, "write");
    Cell& cell = region.cells[element];
    const Event& now = checker().now;
    const bool stale = region.device == kShared &&
                       (cell.write.launch != now.launch || cell.write.block != now.block);
    if (stale) cell = Cell{}; // another block's copy of the array
    if (cell.write.launch != 0 && !ordered(cell.write, now))
        report_race(region, element, "write", cell.write, "write");
    for (const Event& seen : cell.reads)
        if (seen.launch != 0 && !ordered(seen, now))
            report_race(region, element, "read", seen, "write");
    cell = Cell{now, {}};
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

void begin_access(const void* pc) {
    Checker& c = checker();
    c.now.thread = current_thread();
    c.now.warp_epoch = c.warp_epochs[c.now.thread / 32];
    c.now.pc = static_cast<std::uint32_t>(static_cast<const char*>(pc) - c.module_begin);
}

enum class What { read, write, copy };

void element_access(Region& region, std::size_t element, What what) {
    if (what == What::read) return read_element(region, element);
    write_element(region, element);
    if (what == What::copy) region.cells[element].write.block_epoch = kUnderWay;
}

void access(const void* address, std::size_t bytes, What what, const void* pc) {
    const auto* p = static_cast<const std::byte*>(address);
    const bool is_write = what != What::read;
    const char* verb = is_write ? "write" : "read";
    Region* region = find(p);
    if (!region) {
        if (belongs_to_the_thread(address)) return;
        Dl_info info; // a constant of the program
        if (!is_write && dladdr(address, &info)) return;
        begin_access(pc);
        report_outside(p, bytes, verb);
    }
    begin_access(pc);
    if (p + bytes > region->begin + region->bytes)
        report_outside(region->begin + region->bytes,
                       static_cast<std::size_t>(p + bytes - (region->begin + region->bytes)), verb);
    Checker& c = checker();
    if (region->device != kShared && region->device != c.device && region->device != kHost &&
        !peers_enabled(c.device, region->device))
        fail("a kernel on device " + std::to_string(c.device) + " touches " + region->name +
             " of device " + std::to_string(region->device) +
             ", to which no peer access is enabled, at " + source_line(c.now.pc));
    if (is_write && region->access == Access::read)
        fail("write to the input " + region->name + " at " + source_line(c.now.pc) + ", " +
             where());
    const auto offset = static_cast<std::size_t>(p - region->begin);
    const std::size_t end = (offset + bytes + region->element_bytes - 1) / region->element_bytes;
    for (std::size_t e = offset / region->element_bytes; e < end; ++e)
        element_access(*region, e, what);
    if (c.lint)
        c.lint->access({c.now.pc, region->device == kShared, is_write, bytes}, region->name,
                       region->begin, c.now.thread, p);
}

// What the compiler's hooks call.
void hooked(const void* address, std::size_t bytes, bool is_write, const void* pc) {
    const detail::OutsideKernel outside;
    access(address, bytes, is_write ? What::write : What::read, pc);
}

} // namespace

// ---------------------------------------------------------------------- what the scheduler tells

void begin_launch() {
    Checker& c = checker();
    if (c.lint) c.lint->end_launch();
    c.shared.clear();
    c.last = nullptr;
    ++c.now.launch;
    c.device = current_device();
}

void begin_block(std::uint32_t block) {
    Checker& c = checker();
    if (c.lint) c.lint->end_epoch();
    c.now.block = block;
    c.now.block_epoch = 0;
    c.warp_epochs.fill(0);
}

void block_barrier() {
    Checker& c = checker();
    if (c.lint) c.lint->end_epoch();
    ++c.now.block_epoch;
}

void warp_barrier(unsigned warp) { ++checker().warp_epochs[warp]; }

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
    access(address, bytes, What::read, pc);
}

void begin_copy(const void* address, std::size_t bytes, const void* pc) {
    access(address, bytes, What::copy, pc);
}

// Nothing touched the memory meanwhile, or there had been a report: all that is left to do is to
// hold later accesses against this moment.
void end_copy(const void* address, std::size_t bytes, const void* pc) {
    begin_access(pc);
    const auto* p = static_cast<const std::byte*>(address);
    Region& region = *find(p);
    const auto offset = static_cast<std::size_t>(p - region.begin);
    const std::size_t last = (offset + bytes - 1) / region.element_bytes;
    for (std::size_t e = offset / region.element_bytes; e <= last; ++e)
        region.cells[e] = Cell{checker().now, {}};
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
        region.name += "/" + buffer.name; // an output in the place of an input
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

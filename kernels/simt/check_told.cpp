// What the scheduler and the emulated instructions tell the checker.
#include "checker.hpp"

namespace simt::check {

// ---------------------------------------------------------------------- launches and blocks

void begin_launch(unsigned threads, unsigned of_a_block) {
    Checker& c = checker();
    c.threads = threads;
    c.block_threads = of_a_block;
    c.shared.clear();
    c.last = nullptr;
    ++c.now.launch;
    c.device = current_device();
}

void begin_cluster(std::uint32_t first_block) {
    Checker& c = checker();
    if (c.lint) c.lint->end_epoch();
    c.now.block = first_block;
    c.now.block_epoch = 0;
    c.warp_epochs.fill(0);
    c.times_at_barrier.fill(0);
    c.clocks.stop();
    c.told.fill(Event{});
    c.holds.clear();
    if (c.threads > c.block_threads) clocks();
}

void barrier(unsigned first, unsigned last) {
    Checker& c = checker();
    if (c.lint) c.lint->end_epoch();
    if (last - first < c.threads) return c.clocks.meet(first, last);
    for (unsigned warp = 0; warp < 32; ++warp)
        c.times_at_barrier[warp] = 1 + c.now.block_epoch + c.warp_epochs[warp];
    ++c.now.block_epoch;
    if (c.clocks.running()) c.clocks.meet(first, last);
}

void warp_barrier(unsigned warp) {
    Checker& c = checker();
    ++c.warp_epochs[warp];
    if (c.clocks.running()) c.clocks.meet(32 * warp, 32 * (warp + 1));
}

void declare_shared(const SharedArray& array, const void* memory, std::size_t bytes,
                    const std::string& of_rank) {
    Checker& c = checker();
    const std::size_t elements = (bytes + array.element_bytes - 1) / array.element_bytes;
    c.shared.push_back({array.name, static_cast<const std::byte*>(memory), bytes,
                        array.element_bytes, Access::read_write, kShared, false,
                        std::vector<Cell>(elements), of_rank});
    c.last = nullptr;
}

std::string place_of(const void* address) {
    const auto* p = static_cast<const std::byte*>(address);
    if (const Region* region = find(p))
        return text(region->name, " + ", p - region->begin, " bytes", region->of_rank);
    return text(address);
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
                 [&](std::size_t element) { region.cells[element] = Cell{event, {}, {}}; });
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
    begin_clocked(nullptr);
    Checker& c = checker();
    for (unsigned barrier = 0; barrier < kMbarriers; ++barrier)
        if (of_this_block(c.inits[barrier]) && c.inits[barrier].thread == c.now.thread)
            c.told[barrier] = c.now;
}

void mbarrier_use(unsigned barrier, const void* address, const void* pc) {
    begin_clocked(pc);
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
    fail(describe("used", c.now), " of ", place(region, element_of(region, address)),
         " for a load_tile, ", describe("initialised", init),
         ", and no mbarrier_fence_init between the two");
}

// Of a thread's arrivals at one block the last is enough: whoever knows of it knows of all.
void mbarrier_hold(const void* address, unsigned rank) {
    Checker& c = checker();
    const Checker::Hold hold{c.now, address, rank};
    for (Checker::Hold& known : c.holds)
        if (known.arrival.thread == c.now.thread && known.rank == rank) {
            known = hold;
            return;
        }
    c.holds.push_back(hold);
}

// All threads have exited. The block lasts until one does that knows of the arrival.
std::string unheld_arrival() {
    const Checker& c = checker();
    for (const auto& [arrival, barrier, rank] : c.holds) {
        bool held = false;
        for (unsigned t = rank * c.block_threads; t < (rank + 1) * c.block_threads; ++t)
            held |= c.clocks.of(t).seen[arrival.actor] >= arrival.time;
        if (!held)
            return text(this_worker().element_at(barrier), " is ", describe("used", arrival),
                        ", and nothing keeps its block from ending before");
    }
    return "";
}

void mbarrier_arrive(unsigned barrier) { clocks().arrive(barrier, this_worker().current()); }
void mbarrier_phase_ends(unsigned barrier) { clocks().end_phase(barrier); }
void mbarrier_acquire(unsigned barrier) { clocks().acquire(barrier, this_worker().current()); }
void fence() { clocks().fence(this_worker().current()); }

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
    begin_clocked(pc);
    const Event event = checker().now;
    access(address, bytes, false, pc, &event);
    Region& region = *find(static_cast<const std::byte*>(address));
    for_elements(region, address, bytes,
                 [&](std::size_t element) { require_fenced(region, element, "read"); });
}

void begin_product(unsigned warpgroup, const void* pc) {
    begin_clocked(pc);
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
    clocks().products_ended(warpgroup, last, this_worker().current());
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
         std::vector<Cell>(bytes / buffer.element_bytes), ""});
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
            if (region.cells[e].write.launch == 0) return place(region, e) + " was never written";
    }
    return "";
}

} // namespace simt::check

namespace simt {

std::vector<std::string> barriers_met() {
    std::vector<std::string> names;
    for (const auto& [file, line] : check::checker().barriers)
        names.push_back(text(file, ':', line));
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

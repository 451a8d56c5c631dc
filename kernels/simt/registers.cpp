// Registers that warpgroups hand to one another, in the emulation: how many each thread has, and
// how many lie in their block's pool.
#include "hopper.hpp"

#include "refusals.hpp"

#include <algorithm>

namespace simt {
namespace {

constexpr unsigned kWarp = 32, kGroup = 4; // lanes, warps

// As launch bounds give them: all registers of a multiprocessor, in eights.
unsigned at_entry(unsigned threads) { return std::min(65536 / threads / 8 * 8, 256u); }

bool same(const Registers::Change& a, const Registers::Change& b) {
    return same(a.site, b.site) && a.count == b.count;
}

void begin_to_change(void* const slots[kWarp], std::uint32_t lanes) {
    const auto& change = *static_cast<Registers::Change*>(slots[__builtin_ctz(lanes)]);
    Worker& worker = this_worker();
    Registers& all = worker.async().registers();
    const unsigned warp = worker.current() / kWarp, first = warp / kGroup * kGroup;
    if (lanes != 0xffffffffu || (first + kGroup) * kWarp > worker.threads())
        fail("registers are handed over by warpgroups, four whole warps", at(change.site));
    auto& own = all.changes[warp];
    for (unsigned i = first; i < first + kGroup; ++i)
        if (const auto& other = all.changes[i];
            other.size() > own.size() && !same(other[own.size()], change))
            fail("warps of one warpgroup change their registers differently: one at ",
                 place(other[own.size()].site), ", another at ", place(change.site), ", ", where());
    unsigned& has = all.of_thread[warp];
    if (own.empty()) has = at_entry(worker.threads() / worker.cluster_blocks() * change.blocks);
    own.push_back(change);
    if (change.more ? change.count < has : change.count > has)
        fail("a thread has ", has, " registers, which cannot be ",
             change.more ? "raised to " : "lowered to ", change.count, at(change.site));
    if (change.more) return;
    unsigned& pool = all.pool[worker.rank()];
    pool += (has - change.count) * kWarp;
    has = change.count;
    worker.wake(&pool);
}

} // namespace

// A warp's first lane to find enough in the pool takes them for all of it.
void detail::change_registers(unsigned count, bool more, unsigned blocks, Site site) {
    const OutsideKernel outside;
    Worker& worker = this_worker();
    Registers::Change change{site, count, more, blocks};
    worker.wait(Scheduler::State::at_exchange, {site, 0xffffffffu, &change, &begin_to_change});
    Registers& all = worker.async().registers();
    unsigned& pool = all.pool[worker.rank()];
    unsigned& has = all.of_thread[worker.current() / kWarp];
    while (pool < (count - has) * kWarp) worker.wait(Scheduler::State::parked, {site, 0, &pool});
    pool -= (count - has) * kWarp;
    has = count;
}

std::string Registers::left_undone() const {
    for (std::size_t i = 0; i < changes.size(); ++i) {
        const auto &own = changes[i], &first = changes[i / kGroup * kGroup];
        if (own.size() != first.size())
            return text("the block ends, and not all warps of a warpgroup have changed their "
                        "registers at ",
                        place((own.size() > first.size() ? own : first).back().site));
    }
    return "";
}

} // namespace simt

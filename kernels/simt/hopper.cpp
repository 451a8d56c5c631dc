// Hopper's machinery in the emulation: barriers on which threads are parked, and tiles that arrive
// when no thread can go on without them. Products are in wgmma.cpp.
#include "hopper.hpp"

#include "refusals.hpp"

#include <algorithm>
#include <cstring>

namespace simt {
namespace {

constexpr std::uint64_t kMark = 0x6d62617272696572u & ~0xffffu; // of an mbarrier's word
constexpr unsigned kMaxArrivals = (1u << 20) - 1;
constexpr std::size_t kMaxBytes = (1u << 20) - 1; // that a phase can expect

// ---------------------------------------------------------------------- barriers

std::string element_at(const void* address) { return this_worker().element_at(address); }

MbarrierState& used(const Mbarrier& barrier, Site site, const void* pc, bool own = true) {
    Worker& worker = this_worker();
    MbarrierState* const state =
        !own || worker.in_the_arena(&barrier) ? worker.async().find(barrier) : nullptr;
    if (!state)
        fail(element_at(&barrier), " is no mbarrier: mbarrier_init has not been called", at(site));
    if (kChecked) check::mbarrier_use(state->index, &barrier, pc);
    return *state;
}

// The barrier in the same place of another block of the cluster.
MbarrierState& used_at(const Mbarrier& barrier, unsigned rank, Site site, const void* pc) {
    const Worker& worker = this_worker();
    require_shared(&barrier, site);
    if (rank >= worker.cluster_blocks())
        fail("there is no rank ", rank, " in a cluster of ", worker.cluster_blocks(), at(site));
    const Mbarrier& there = *worker.at_rank(&barrier, rank);
    if (worker.has_ended(rank))
        fail(element_at(&there), " is used after the end of its block", at(site));
    return used(there, site, pc, false);
}

void refuse_more_bytes(const MbarrierState& state) {
    if (state.missing == 0 && state.begun > state.expected)
        fail(element_at(state.where), " expects ", state.expected, " bytes in its phase ",
             state.phase, ", to which tiles of ", state.begun, " bytes come, the last begun at ",
             place(state.unawaited));
}

void end_phase_if_complete(MbarrierState& state) {
    refuse_more_bytes(state);
    if (state.missing != 0 || state.come != state.expected) return;
    ++state.phase;
    state.missing = state.arrivals;
    state.expected = state.begun = state.come = 0;
    state.ended_unawaited = state.unawaited.file != nullptr;
    if (kChecked) check::mbarrier_phase_ends(state.index);
    this_worker().wake(&state);
}

void count_arrival(MbarrierState& state) {
    if (state.missing == 0)
        fail(element_at(state.where), " takes ", state.arrivals, " arrivals in a phase, and phase ",
             state.phase, " gets one more, by ", where());
    --state.missing;
    end_phase_if_complete(state);
}

void arrive(MbarrierState& state) {
    if (kChecked) check::mbarrier_arrive(state.index);
    count_arrival(state);
}

void acquire(MbarrierState& state) {
    if (state.ended_unawaited) state.unawaited = {};
    state.ended_unawaited = false;
    if (kChecked) check::mbarrier_acquire(state.index);
}

} // namespace

void mbarrier_init(Mbarrier& barrier, unsigned arrivals, Site site) {
    const detail::OutsideKernel outside;
    require_multiple(&barrier, sizeof barrier, site);
    require_shared(&barrier, site);
    if (arrivals == 0 || arrivals > kMaxArrivals)
        fail("an mbarrier takes 1 to ", kMaxArrivals, " arrivals, not ", arrivals, at(site));
    const MbarrierState* const state = this_worker().async().init(barrier, arrivals);
    if (!state) fail("a block has at most ", kMaxMbarriers, " mbarriers here", at(site));
    if (kChecked) check::mbarrier_init(state->index, &barrier, __builtin_return_address(0));
}

void mbarrier_fence_init(Site site) {
    const detail::OutsideKernel outside;
    if (kChecked && !check::left_out(site)) check::mbarrier_fence_init();
}

void mbarrier_arrive(Mbarrier& barrier, Site site) {
    const detail::OutsideKernel outside;
    arrive(used(barrier, site, __builtin_return_address(0)));
}

void mbarrier_arrive_expect(Mbarrier& barrier, unsigned count, Site site) {
    const detail::OutsideKernel outside;
    MbarrierState& state = used(barrier, site, __builtin_return_address(0));
    state.expected += count;
    if (state.expected > kMaxBytes)
        fail("a phase of ", element_at(&barrier), " can expect ", kMaxBytes, " bytes, not ",
             state.expected, " bytes", at(site));
    arrive(state);
}

void mbarrier_wait(Mbarrier& barrier, unsigned parity, Site site) {
    const detail::OutsideKernel outside;
    if (check::left_out(site)) return;
    MbarrierState& state = used(barrier, site, __builtin_return_address(0));
    while (state.phase % 2 == parity % 2)
        this_worker().wait(Scheduler::State::parked, {site, 0, &state});
    acquire(state);
}

void mbarrier_arrive_at(Cluster, Mbarrier& barrier, unsigned rank, Site site) {
    const detail::OutsideKernel outside;
    MbarrierState& state = used_at(barrier, rank, site, __builtin_return_address(0));
    if (kChecked) check::mbarrier_hold(state.where, rank);
    arrive(state);
}

void cp_async_mbarrier_arrive(Mbarrier& barrier, Site site) {
    const detail::OutsideKernel outside;
    MbarrierState& state = used(barrier, site, __builtin_return_address(0));
    Coming coming{&state, nullptr, {}, 0, 0, this_worker().copies().take()};
    if (kChecked)
        for (const Copy& copy : coming.copies)
            check::tie_copy(copy.to, kCopyBytes, state.index, copy.pc);
    this_worker().async().begin(std::move(coming));
}

void fence_proxy_async(Site site) {
    const detail::OutsideKernel outside;
    if (kChecked && !check::left_out(site)) check::fence();
}

Cluster cluster_of(unsigned blocks, Site site) {
    const detail::OutsideKernel outside;
    const unsigned has = this_worker().cluster_blocks();
    if (has != blocks)
        fail("a kernel for clusters of ", blocks, " is launched in clusters of ", has, at(site));
    return {blocks};
}

unsigned cluster_rank(Cluster) {
    const detail::OutsideKernel outside;
    return this_worker().rank();
}

// ---------------------------------------------------------------------- tiles

TensorMap tensor_map(const void* matrix, std::int64_t rows, std::int64_t columns,
                     std::int64_t row_elements, int tile_rows) {
    constexpr std::int64_t most = std::int64_t{1} << 32; // rows or columns
    const std::int64_t row_bytes = row_elements * 2;
    if (reinterpret_cast<std::uintptr_t>(matrix) % 16 != 0 || row_bytes % 16 != 0 ||
        row_bytes >= most << 8 || rows < 1 || rows > most || columns < 1 || columns > most ||
        row_elements < columns || tile_rows < 1 || tile_rows > kMaxTileRows)
        throw Error(text("no tensor map of ", rows, " x ", columns, " bf16, ", row_elements,
                         " a row, in tiles of ", tile_rows,
                         " rows: rows begin at multiples of 16 bytes less than 2^40 apart, both "
                         "extents are 1 to 2^32, tiles have 1 to 256 rows"));
    return {static_cast<const std::byte*>(matrix), rows, columns, row_bytes, tile_rows};
}

namespace {

// Hands each row of a tile to `each`, with the part of it in the matrix and how many bytes that is.
template <class Each> void for_rows(const TensorMap& map, int row, int column, Each each) {
    for (int r = 0; r < map.tile_rows; ++r) {
        const std::int64_t i = std::int64_t{row} + r;
        const std::int64_t first = std::max(0, column);
        const std::int64_t last = std::min<std::int64_t>(map.columns, column + kTileColumns);
        const bool inside = i >= 0 && i < map.rows && first < last;
        const std::size_t count = inside ? static_cast<std::size_t>(last - first) * 2 : 0;
        each(r, inside ? map.matrix + i * map.row_bytes + first * 2 : nullptr,
             static_cast<std::size_t>(first - column) * 2, count);
    }
}

void deliver_tile(const Coming& tile) {
    for_rows(tile.map, tile.row, tile.column,
             [&](int r, const std::byte* from, std::size_t skipped, std::size_t count) {
                 std::byte line[kRowBytes] = {};
                 if (count > 0) std::memcpy(line + skipped, from, count);
                 for (std::size_t c = 0; c < kRowBytes; c += 16)
                     std::memcpy(swizzled(tile.to + static_cast<std::size_t>(r) * kRowBytes + c),
                                 line + c, 16);
             });
}

// Until it has come, the tile holds NaN.
void begin_tile(void* shared, const TensorMap& map, int row, int column, MbarrierState& state,
                Site site, const void* pc) {
    const unsigned count = tile_bytes(map.tile_rows);
    if (kChecked) {
        check::mbarrier_use_by_engine(state.index, state.where);
        check::load(shared, count, state.index, pc);
        for_rows(map, row, column, [&](int, const std::byte* from, std::size_t, std::size_t some) {
            if (some > 0) check::load_from(from, some, pc);
        });
    }
    std::memset(shared, 0xff, count);
    state.begun += count;
    if (!state.ended_unawaited) state.unawaited = site;
    refuse_more_bytes(state);
    this_worker().async().begin({&state, static_cast<std::byte*>(shared), map, row, column, {}});
}

} // namespace

void load_tile(void* shared, const TensorMap& map, int row, int column, Mbarrier& barrier,
               Site site) {
    const detail::OutsideKernel outside;
    const void* const pc = __builtin_return_address(0);
    require_shared(shared, site);
    require_multiple(shared, kTileAlignment, site);
    begin_tile(shared, map, row, column, used(barrier, site, pc), site, pc);
}

void load_tile_multicast(Cluster cluster, void* shared, const TensorMap& map, int row, int column,
                         Mbarrier& barrier, Site site) {
    const detail::OutsideKernel outside;
    const void* const pc = __builtin_return_address(0);
    const Worker& worker = this_worker();
    require_shared(shared, site);
    require_multiple(shared, kTileAlignment, site);
    for (unsigned rank = 0; rank < cluster.blocks; ++rank)
        begin_tile(worker.at_rank(shared, rank), map, row, column, used_at(barrier, rank, site, pc),
                   site, pc);
}

// ---------------------------------------------------------------------- what is in flight

void AsyncWork::forget() {
    mbarrier_count_ = 0;
    coming_.clear();
    warpgroups_.clear();
    registers_.reset();
}

MbarrierState* AsyncWork::init(Mbarrier& barrier, unsigned arrivals) {
    const MbarrierState* const before = find(barrier);
    if (!before && mbarrier_count_ == kMaxMbarriers) return nullptr;
    const unsigned index = before ? before->index : mbarrier_count_++;
    MbarrierState& state = mbarriers_[index] = {};
    state.where = &barrier;
    state.index = index;
    state.arrivals = state.missing = arrivals;
    barrier.state = kMark | index;
    return &state;
}

MbarrierState* AsyncWork::find(const Mbarrier& barrier) {
    const std::uint64_t index = barrier.state ^ kMark;
    if (index >= mbarrier_count_ || mbarriers_[index].where != &barrier) return nullptr;
    return &mbarriers_[index];
}

void AsyncWork::deliver(std::size_t index) {
    const Coming coming = std::move(coming_[index]);
    coming_.erase(coming_.begin() + static_cast<std::ptrdiff_t>(index));
    MbarrierState& barrier = *coming.barrier;
    if (!coming.to) {
        for (const Copy& copy : coming.copies) std::memcpy(copy.to, copy.bytes, kCopyBytes);
        count_arrival(barrier);
        return;
    }
    deliver_tile(coming);
    barrier.come += tile_bytes(coming.map.tile_rows);
    end_phase_if_complete(barrier);
}

Warpgroup& AsyncWork::warpgroup(unsigned index) {
    while (warpgroups_.size() <= index) warpgroups_.push_back(std::make_unique<Warpgroup>());
    return *warpgroups_[index];
}

std::string AsyncWork::left_behind() const {
    for (unsigned i = 0; i < mbarrier_count_; ++i)
        if (const MbarrierState& state = mbarriers_[i]; state.unawaited.file)
            return text("the block ends, and nobody has waited for the load_tile begun at ",
                        place(state.unawaited), ", by ", element_at(state.where));
    return registers_ ? registers_->left_undone() : "";
}

std::string AsyncWork::lacking(const void* what) const {
    if (registers_)
        for (const unsigned& pool : registers_->pool)
            if (what == &pool)
                return text("more registers than the ", pool, " in its block's pool");
    const auto* const state = static_cast<const MbarrierState*>(what);
    if (state < mbarriers_.data() || state >= mbarriers_.data() + mbarrier_count_)
        return "another warp of its warpgroup to begin the same wgmma";
    return text("phase ", state->phase, " of ", element_at(state->where), ", which lacks ",
                state->missing, " arrivals and ", state->expected - state->come, " bytes");
}

} // namespace simt

// Hopper's machinery in the emulation: barriers on which threads are parked, and tiles that arrive
// when no thread can go on without them. Products are in wgmma.cpp.
#include "hopper.hpp"

#include "async.hpp"
#include "refusals.hpp"

#include <algorithm>
#include <cstring>

namespace simt {
namespace {

constexpr std::uint64_t kMark = 0x6d62617272696572u & ~0xffffu; // of an mbarrier's word
constexpr unsigned kMaxArrivals = (1u << 20) - 1;
constexpr std::size_t kMaxBytes = (1u << 20) - 1; // that a phase can expect

// ---------------------------------------------------------------------- barriers

MbarrierState& used(const Mbarrier& barrier, Site site, const void* pc) {
    MbarrierState* const state = is_shared(&barrier) ? async_work().find(barrier) : nullptr;
    if (!state)
        fail(element_at(&barrier) + " is no mbarrier: mbarrier_init has not been called" +
             at(site));
    check::mbarrier_use(state->index, &barrier, pc);
    return *state;
}

std::string bytes(std::size_t count) { return std::to_string(count) + " bytes"; }

void refuse_more_bytes(const MbarrierState& state) {
    if (state.missing == 0 && state.begun > state.expected)
        fail(element_at(state.where) + " expects " + bytes(state.expected) + " in its phase " +
             std::to_string(state.phase) + ", to which tiles of " + bytes(state.begun) +
             " come, the last begun at " + place({state.unawaited, state.unawaited_line}));
}

void end_phase_if_complete(MbarrierState& state) {
    refuse_more_bytes(state);
    if (state.missing != 0 || state.come != state.expected) return;
    ++state.phase;
    state.missing = state.arrivals;
    state.expected = state.begun = state.come = 0;
    state.ended_unawaited = state.unawaited != nullptr;
    check::mbarrier_phase_ends(state.index);
    wake(&state);
}

void count_arrival(MbarrierState& state) {
    if (state.missing == 0)
        fail(element_at(state.where) + " takes " + std::to_string(state.arrivals) +
             " arrivals in a phase, and phase " + std::to_string(state.phase) +
             " gets one more, by " + where());
    --state.missing;
    end_phase_if_complete(state);
}

bool has_ended(const MbarrierState& state, unsigned parity) {
    return state.phase % 2 != parity % 2;
}

void acquire(MbarrierState& state) {
    if (state.ended_unawaited) {
        state.unawaited = nullptr;
        state.ended_unawaited = false;
    }
    check::mbarrier_acquire(state.index);
}

} // namespace

void mbarrier_init(Mbarrier& barrier, unsigned arrivals, const char* file, int line) {
    const detail::OutsideKernel outside;
    const Site site{file, line};
    require_multiple(&barrier, sizeof barrier, site);
    require_shared(&barrier, site);
    if (arrivals == 0 || arrivals > kMaxArrivals)
        fail("an mbarrier takes 1 to " + std::to_string(kMaxArrivals) + " arrivals, not " +
             std::to_string(arrivals) + at(site));
    const MbarrierState* const state = async_work().init(barrier, arrivals);
    if (!state)
        fail("a block has at most " + std::to_string(kMaxMbarriers) + " mbarriers here" + at(site));
    check::mbarrier_init(state->index, &barrier, __builtin_return_address(0));
}

void mbarrier_fence_init(const char* file, int line) {
    const detail::OutsideKernel outside;
    if (kChecked && !check::meet_barrier({file, line})) return;
    check::mbarrier_fence_init();
}

void mbarrier_arrive(Mbarrier& barrier, const char* file, int line) {
    const detail::OutsideKernel outside;
    MbarrierState& state = used(barrier, {file, line}, __builtin_return_address(0));
    check::mbarrier_arrive(state.index);
    count_arrival(state);
}

void mbarrier_arrive_expect(Mbarrier& barrier, unsigned count, const char* file, int line) {
    const detail::OutsideKernel outside;
    const Site site{file, line};
    MbarrierState& state = used(barrier, site, __builtin_return_address(0));
    state.expected += count;
    if (state.expected > kMaxBytes)
        fail("a phase of " + element_at(&barrier) + " can expect " + bytes(kMaxBytes) + ", not " +
             bytes(state.expected) + at(site));
    check::mbarrier_arrive(state.index);
    count_arrival(state);
}

bool mbarrier_try_wait(Mbarrier& barrier, unsigned parity, const char* file, int line) {
    const detail::OutsideKernel outside;
    const Site site{file, line};
    MbarrierState& state = used(barrier, site, __builtin_return_address(0));
    if (!has_ended(state, parity)) poll(&state, site);
    if (!has_ended(state, parity)) return false;
    acquire(state);
    return true;
}

void mbarrier_wait(Mbarrier& barrier, unsigned parity, const char* file, int line) {
    const detail::OutsideKernel outside;
    const Site site{file, line};
    if (kChecked && !check::meet_barrier(site)) return;
    MbarrierState& state = used(barrier, site, __builtin_return_address(0));
    while (!has_ended(state, parity)) park(&state, site);
    acquire(state);
}

void cp_async_mbarrier_arrive(Mbarrier& barrier, const char* file, int line) {
    const detail::OutsideKernel outside;
    MbarrierState& state = used(barrier, {file, line}, __builtin_return_address(0));
    Coming coming{&state, nullptr, {}, 0, 0, copies_of_the_thread().take()};
    for (const Copy& copy : coming.copies)
        check::tie_copy(copy.to, kCopyBytes, state.index, copy.pc);
    async_work().begin(std::move(coming));
}

void fence_proxy_async(const char* file, int line) {
    const detail::OutsideKernel outside;
    if (kChecked && !check::meet_barrier({file, line})) return;
    check::fence();
}

// ---------------------------------------------------------------------- tiles

TensorMap tensor_map(const void* matrix, std::int64_t rows, std::int64_t columns,
                     std::int64_t row_elements, int tile_rows) {
    const std::int64_t row_bytes = row_elements * 2;
    if (reinterpret_cast<std::uintptr_t>(matrix) % 16 != 0 || row_bytes % 16 != 0 || rows < 1 ||
        columns < 1 || row_elements < columns || tile_rows < 1 || tile_rows > kMaxTileRows)
        throw Error("no tensor map of " + std::to_string(rows) + " x " + std::to_string(columns) +
                    " bf16, " + std::to_string(row_elements) + " a row, in tiles of " +
                    std::to_string(tile_rows) + " rows");
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

} // namespace

// Until it has come, the tile holds NaN.
void load_tile(void* shared, const TensorMap& map, int row, int column, Mbarrier& barrier,
               const char* file, int line) {
    const detail::OutsideKernel outside;
    const Site site{file, line};
    const void* const pc = __builtin_return_address(0);
    const unsigned count = tile_bytes(map.tile_rows);
    require_shared(shared, site);
    require_multiple(shared, kTileAlignment, site);
    MbarrierState& state = used(barrier, site, pc);
    check::mbarrier_use_by_engine(state.index, &barrier);
    check::load(shared, count, state.index, pc);
    for_rows(map, row, column, [&](int, const std::byte* from, std::size_t, std::size_t some) {
        if (some > 0) check::load_from(from, some, pc);
    });
    std::memset(shared, 0xff, count);
    state.begun += count;
    if (!state.unawaited || !state.ended_unawaited) {
        state.unawaited = site.file;
        state.unawaited_line = site.line;
    }
    refuse_more_bytes(state);
    async_work().begin({&state, static_cast<std::byte*>(shared), map, row, column, {}});
}

// ---------------------------------------------------------------------- what is in flight

void AsyncWork::forget() {
    mbarrier_count_ = 0;
    coming_.clear();
    warpgroups_.clear();
}

MbarrierState* AsyncWork::init(Mbarrier& barrier, unsigned arrivals) {
    MbarrierState* state = find(barrier);
    if (!state) {
        if (mbarrier_count_ == kMaxMbarriers) return nullptr;
        state = &mbarriers_[mbarrier_count_];
        *state = {};
        state->index = mbarrier_count_++;
    }
    const unsigned index = state->index;
    *state = {};
    state->where = &barrier;
    state->index = index;
    state->arrivals = state->missing = arrivals;
    barrier.state = kMark | index;
    return state;
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
    for (unsigned i = 0; i < mbarrier_count_; ++i) {
        const MbarrierState& state = mbarriers_[i];
        if (state.unawaited)
            return "the block ends, and nobody has waited for the load_tile begun at " +
                   place({state.unawaited, state.unawaited_line}) + ", by " +
                   element_at(state.where);
    }
    return "";
}

std::string AsyncWork::lacking(const void* what) const {
    const auto* const state = static_cast<const MbarrierState*>(what);
    if (state < mbarriers_.data() || state >= mbarriers_.data() + mbarrier_count_)
        return "another warp of its warpgroup to begin the same wgmma";
    return "phase " + std::to_string(state->phase) + " of " + element_at(state->where) +
           ", which lacks " + std::to_string(state->missing) + " arrivals and " +
           bytes(state->expected - state->come);
}

} // namespace simt

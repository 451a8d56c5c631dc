// Hopper's machinery in the emulation: barriers on which threads are parked, tiles that arrive when
// no thread can go on without them, products that are carried out when they are waited for.
#include "hopper.hpp"

#include "async.hpp"
#include "check.hpp"

#include <algorithm>
#include <cstring>

namespace simt {
namespace {

constexpr std::uint64_t kMark = 0x6d62617272696572u & ~0xffffu; // of an mbarrier's word
constexpr std::size_t kRowBytes = kTileColumns * 2;             // of a tile
constexpr std::size_t kEightRows = 8 * kRowBytes;
constexpr unsigned kMaxArrivals = (1u << 20) - 1;
constexpr std::size_t kMaxBytes = (1u << 20) - 1; // that a phase can expect

std::string place(Site site) {
    const std::string file(site.file);
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}
std::string at(Site site) { return ", at " + place(site) + ", " + where(); }

// Where the 16 bytes lie that would be here in a tile without swizzling.
std::byte* swizzled(const void* plain) {
    const auto p = reinterpret_cast<std::uintptr_t>(plain);
    return reinterpret_cast<std::byte*>(p ^ (p >> 7 & 7u) << 4);
}

void require_multiple(const void* address, std::size_t bytes, Site site) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
        fail("misaligned access to " + check::place_of(address) +
             ", which should be a multiple of " + std::to_string(bytes) + " bytes" + at(site));
}

void require_shared(const void* address, Site site) {
    if (!is_shared(address))
        fail(check::place_of(address) + " is not in shared memory, as it should be" + at(site));
}

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

// ---------------------------------------------------------------------- products

namespace {

constexpr unsigned kWarp = 32;

// The running warp, as one of four.
struct Place {
    unsigned group;
    unsigned warp;
};

Place place_of_warp(Site site) {
    const unsigned warp = current_thread() / kWarp;
    if ((warp / 4 + 1) * 4 * kWarp > threads_of_the_block())
        fail("a warpgroup is four whole warps" + at(site));
    return {warp / 4, warp % 4};
}

struct WarpCall {
    float* d;
    const detail::AnyOperand* a;
    const detail::AnyOperand* b;
    std::size_t groups_left;
    Site site;
    const void* pc;
};

const WarpCall& call(void* const slots[kWarp], unsigned lane = 0) {
    return *static_cast<const WarpCall*>(slots[lane]);
}

WarpOfGroup& calling_warp(void* const slots[kWarp], std::uint32_t lanes) {
    const WarpCall& first = call(slots, static_cast<unsigned>(__builtin_ctz(lanes)));
    if (lanes != 0xffffffffu) fail("wgmma needs all 32 lanes of a warp" + at(first.site));
    const Place here = place_of_warp(first.site);
    return async_work().warpgroup(here.group).warps[here.warp];
}

bool same(const detail::AnyOperand& a, const detail::AnyOperand& b) {
    return a.element == b.element && a.next == b.next && a.major == b.major && a.lines == b.lines;
}

// ------------------------------------------------------------------ operands in shared memory

void require_operand(const detail::AnyOperand& operand, Site site) {
    if (operand.major == Major::mn) {
        require_multiple(operand.element, kEightRows, site);
        if (operand.next % kEightRows != 0)
            fail("the next tile of an operand lies at a multiple of 1024 bytes, not " +
                 std::to_string(operand.next) + at(site));
        return;
    }
    require_multiple(operand.element, 32, site);
    const auto row = reinterpret_cast<std::uintptr_t>(operand.element) % kEightRows;
    if (row >= kRowBytes)
        fail("a K-major operand begins in the first of eight rows, not at " +
             check::place_of(operand.element) + at(site));
}

// Hands each 16 bytes of an operand to `each`, with the line and the depth of the first element.
template <class Each> void for_pieces(const detail::AnyOperand& operand, Each each) {
    const auto* const begin = static_cast<const std::byte*>(operand.element);
    const auto lines = static_cast<std::size_t>(operand.lines);
    if (operand.major == Major::k)
        for (std::size_t line = 0; line < lines; ++line)
            for (std::size_t k = 0; k < kProductDepth; k += 8)
                each(swizzled(begin + line * kRowBytes + k * 2), line, k);
    else
        for (std::size_t k = 0; k < kProductDepth; ++k)
            for (std::size_t line = 0; line < lines; line += 8)
                each(swizzled(begin + line / kTileColumns * operand.next + k * kRowBytes +
                              line % kTileColumns * 2),
                     line, k);
}

void gather(const detail::AnyOperand& operand, Factor& to) {
    for_pieces(operand, [&](const std::byte* from, std::size_t line, std::size_t k) {
        std::uint16_t eight[8];
        std::memcpy(eight, from, sizeof eight);
        for (std::size_t i = 0; i < 8; ++i) {
            const std::uint32_t bits = std::uint32_t{eight[i]} << 16;
            float* const place = operand.major == Major::k ? &to[k + i][line] : &to[k][line + i];
            std::memcpy(place, &bits, sizeof bits);
        }
    });
}

// ------------------------------------------------------------------ the arithmetic

using Four = float __attribute__((vector_size(16)));

// As in mma_m16n8k16: the products, which are exact, are added one after another.
void multiply(Warpgroup& group, const Product& product) {
    Factor& a = group.a;
    Factor& b = group.b;
    alignas(16) std::array<float, kMaxColumns> row;
    gather(product.a, a);
    gather(product.b, b);
    const auto columns = static_cast<std::size_t>(product.b.lines);
    for (unsigned r = 0; r < 64; ++r) {
        Sums& sums = *product.sums[r / 16];
        // Of row g or g + 8 of the warp's 16, lane 4 g + t / 2 has columns 8 j + t and the next.
        const unsigned first = r % 8 * 4, half = r / 8 % 2 * 2;
        const auto value = [&](std::size_t c) -> float& {
            const std::size_t lane = first + c % 8 / 2;
            return sums.values[lane * sums.count + c / 8 * 4 + half + c % 2];
        };
        for (std::size_t c = 0; c < columns; ++c) row[c] = value(c);
        for (std::size_t k = 0; k < kProductDepth; ++k)
            for (std::size_t c = 0; c < columns; c += 4)
                *reinterpret_cast<Four*>(&row[c]) +=
                    a[k][r] * *reinterpret_cast<const Four*>(&b[k][c]);
        for (std::size_t c = 0; c < columns; ++c) value(c) = row[c];
    }
}

// ------------------------------------------------------------------ beginning

Sums& sums_of(WarpOfGroup& warp, void* const slots[kWarp]) {
    const WarpCall& first = call(slots);
    const std::size_t count = static_cast<std::size_t>(first.b->lines) / 2;
    for (const auto& sums : warp.sums) {
        if (sums->d[0] != first.d) continue;
        if (sums->count != count)
            fail("sums of products of different sizes are under way" + at(first.site));
        return *sums;
    }
    if (!warp.fenced)
        fail("no wgmma_fence since the sums of this wgmma were last waited for" + at(first.site));
    auto sums = std::make_unique<Sums>();
    sums->count = count;
    sums->delivered = 0;
    sums->values.resize(kWarp * count);
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        float* const d = sums->d[lane] = call(slots, lane).d;
        std::copy(d, d + count, sums->values.data() + lane * count);
        std::memset(d, 0xff, count * sizeof *d);
    }
    warp.sums.push_back(std::move(sums));
    return *warp.sums.back();
}

void read_operands(unsigned group, const Product& product, std::uint64_t number, const void* pc) {
    check::begin_product(group, pc);
    for (const detail::AnyOperand* operand : {&product.a, &product.b})
        for_pieces(*operand, [&](const std::byte* from, std::size_t, std::size_t) {
            check::read_operand(from, 16, group, static_cast<std::uint32_t>(number));
        });
}

void begin(void* const slots[kWarp], std::uint32_t lanes) {
    WarpOfGroup& warp = calling_warp(slots, lanes);
    const WarpCall& first = call(slots);
    const Place here = place_of_warp(first.site);
    Warpgroup& group = async_work().warpgroup(here.group);
    for (unsigned lane = 1; lane < kWarp; ++lane)
        if (!same(*call(slots, lane).a, *first.a) || !same(*call(slots, lane).b, *first.b))
            fail("lanes of one warp give a wgmma different operands" + at(first.site));
    const std::uint64_t number = ++warp.begun;
    const auto index = static_cast<std::size_t>(number - group.ended - 1);
    if (index == group.products.size()) {
        require_operand(*first.a, first.site);
        require_operand(*first.b, first.site);
        group.products.push_back({*first.a, *first.b, first.site, 0, {}});
    }
    Product& product = group.products[index];
    if (!same(product.a, *first.a) || !same(product.b, *first.b))
        fail("warps of one warpgroup begin different products: one at " + place(product.site) +
             ", another at " + place(first.site) + ", " + where());
    Sums& sums = sums_of(warp, slots);
    sums.last = number;
    product.sums[here.warp] = &sums;
    product.warps |= 1u << here.warp;
    if (product.warps != 15) return;
    read_operands(here.group, product, number, first.pc);
    if (kChecked)
        for (const detail::AnyOperand* operand : {first.a, first.b})
            require_shared(operand->element, first.site);
    wake(&group);
}

void commit(void* const slots[kWarp], std::uint32_t lanes) {
    WarpOfGroup& warp = calling_warp(slots, lanes);
    warp.groups.push_back(warp.begun);
}

void fence(void* const slots[kWarp], std::uint32_t lanes) {
    calling_warp(slots, lanes).fenced = true;
}

// ------------------------------------------------------------------ waiting

void begin_to_wait(void* const slots[kWarp], std::uint32_t lanes) {
    WarpOfGroup& warp = calling_warp(slots, lanes);
    const std::size_t left = call(slots).groups_left;
    warp.fenced = false;
    if (warp.groups.size() <= left) return;
    const std::size_t count = warp.groups.size() - left;
    warp.awaited = warp.groups[count - 1];
    warp.groups.erase(warp.groups.begin(),
                      warp.groups.begin() + static_cast<std::ptrdiff_t>(count));
}

bool begun_by_all(const Warpgroup& group, std::uint64_t last) {
    return std::all_of(group.warps.begin(), group.warps.end(),
                       [&](const WarpOfGroup& warp) { return warp.begun >= last; });
}

// A product is over for all four warps when one of them has waited for it.
void carry_out(Warpgroup& group, std::uint64_t last) {
    if (group.ended >= last) return;
    const auto count = static_cast<std::ptrdiff_t>(last - group.ended);
    std::for_each(group.products.begin(), group.products.begin() + count,
                  [&](const Product& product) { multiply(group, product); });
    group.products.erase(group.products.begin(), group.products.begin() + count);
    group.ended = last;
}

void deliver_sums(WarpOfGroup& warp, unsigned lane) {
    for (std::size_t i = warp.sums.size(); i-- > 0;) {
        Sums& sums = *warp.sums[i];
        if (sums.last > warp.awaited) continue;
        const float* const from = sums.values.data() + lane * sums.count;
        std::copy(from, from + sums.count, sums.d[lane]);
        sums.delivered |= 1u << lane;
        if (sums.delivered == 0xffffffffu)
            warp.sums.erase(warp.sums.begin() + static_cast<std::ptrdiff_t>(i));
    }
}

} // namespace

void detail::begin_product(float* d, const AnyOperand& a, const AnyOperand& b, Site site,
                           const void* pc) {
    WarpCall slot{d, &a, &b, 0, site, pc};
    warp_exchange(0xffffffffu, &slot, &begin, site);
}

void detail::wait_for_products(std::size_t groups_left, Site site) {
    {
        const OutsideKernel outside;
        if (kChecked && !check::meet_barrier(site)) return;
    }
    WarpCall slot{nullptr, nullptr, nullptr, groups_left, site, nullptr};
    warp_exchange(0xffffffffu, &slot, &begin_to_wait, site);
    const OutsideKernel outside;
    const Place here = place_of_warp(site);
    Warpgroup& group = async_work().warpgroup(here.group);
    WarpOfGroup& warp = group.warps[here.warp];
    const std::uint64_t last = warp.awaited;
    while (!begun_by_all(group, last)) park(&group, site);
    carry_out(group, last);
    deliver_sums(warp, current_thread() % kWarp);
    check::products_ended(here.group, static_cast<std::uint32_t>(last));
}

void wgmma_fence(const char* file, int line) {
    {
        const detail::OutsideKernel outside;
        if (kChecked && !check::meet_barrier({file, line})) return;
    }
    WarpCall slot{nullptr, nullptr, nullptr, 0, {file, line}, nullptr};
    warp_exchange(0xffffffffu, &slot, &fence, slot.site);
}

void wgmma_commit(const char* file, int line) {
    WarpCall slot{nullptr, nullptr, nullptr, 0, {file, line}, nullptr};
    warp_exchange(0xffffffffu, &slot, &commit, slot.site);
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

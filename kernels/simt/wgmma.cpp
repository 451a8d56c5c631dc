// Hopper's products in the emulation: begun by the four warps of a warpgroup, carried out when one
// of them waits for it.
#include "hopper.hpp"

#include "refusals.hpp"

#include <algorithm>
#include <cstring>

namespace simt {
namespace {

constexpr std::size_t kEightRows = 8 * kRowBytes; // of a tile
constexpr std::size_t kPiece = 16;                // bytes
constexpr unsigned kDescribed = 1u << 18;         // what a matrix descriptor can hold

constexpr unsigned kWarp = 32;

// One of the four warps of a warpgroup.
struct Warp {
    unsigned group, warp;

    Warpgroup& warpgroup() const { return this_worker().async().warpgroup(group); }
    WarpOfGroup& own() const { return warpgroup().warps[warp]; }
};

// The running one.
Warp running_warp(Site site) {
    const unsigned warp = this_worker().current() / kWarp;
    if ((warp / 4 + 1) * 4 * kWarp > this_worker().threads())
        fail("a warpgroup is four whole warps", at(site));
    return {warp / 4, warp % 4};
}

struct WarpCall {
    Site site;
    std::size_t groups_left = 0;
    float* d = nullptr;
    const detail::AnyOperand* a = nullptr;
    const detail::AnyOperand* b = nullptr;
    const void* pc = nullptr;
};

void meet(WarpCall call, Exchange exchange) {
    this_worker().wait(Scheduler::State::at_exchange, {call.site, 0xffffffffu, &call, exchange});
}

const WarpCall& call_of(void* const slots[kWarp], unsigned lane = 0) {
    return *static_cast<const WarpCall*>(slots[lane]);
}

Warp calling(void* const slots[kWarp], std::uint32_t lanes) {
    const Site site = call_of(slots, static_cast<unsigned>(__builtin_ctz(lanes))).site;
    if (lanes != 0xffffffffu) fail("wgmma needs all 32 lanes of a warp", at(site));
    return running_warp(site);
}

bool same(const detail::AnyOperand& a, const detail::AnyOperand& b) {
    return a.element == b.element && a.next == b.next && a.major == b.major &&
           a.packing == b.packing && a.lines == b.lines;
}

// ------------------------------------------------------------------ operands in shared memory

void require_operand(const detail::AnyOperand& operand, Site site) {
    if (operand.packing == Packing::planes) {
        require_multiple(operand.element, kPiece, site);
        if (operand.next % kPiece != 0 || operand.next >= kDescribed)
            fail("the next plane of an operand lies at a multiple of 16 bytes below ", kDescribed,
                 ", not ", operand.next, at(site));
        return;
    }
    if (operand.major == Major::mn) {
        require_multiple(operand.element, kEightRows, site);
        if (operand.next % kEightRows != 0)
            fail("the next tile of an operand lies at a multiple of 1024 bytes, not ", operand.next,
                 at(site));
        return;
    }
    require_multiple(operand.element, 32, site);
    const auto row = reinterpret_cast<std::uintptr_t>(operand.element) % kEightRows;
    if (row >= kRowBytes)
        fail("a K-major operand begins in the first of eight rows, not at ", named(operand.element),
             at(site));
}

// Hands each 16 bytes of an operand to `each`, with the line and the depth of the first element.
template <class Each> void for_pieces(const detail::AnyOperand& operand, Each each) {
    const auto* const begin = static_cast<const std::byte*>(operand.element);
    const auto lines = static_cast<std::size_t>(operand.lines);
    const bool k_major = operand.major == Major::k;
    if (operand.packing == Packing::planes)
        for (std::size_t plane = 0; plane < (k_major ? kProductDepth : lines); plane += 8)
            for (std::size_t i = 0; i < (k_major ? lines : kProductDepth); ++i)
                each(begin + plane / 8 * operand.next + i * kPiece, k_major ? i : plane,
                     k_major ? plane : i);
    else if (k_major)
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
        float of_row[kProductDepth];
        for (std::size_t k = 0; k < kProductDepth; ++k) of_row[k] = a[k][r];
        add_products(row.data(), columns, of_row, b[0].data(), kMaxColumns, kHopper);
        for (std::size_t c = 0; c < columns; ++c) value(c) = row[c];
    }
}

// ------------------------------------------------------------------ beginning

Sums& sums_of(WarpOfGroup& warp, void* const slots[kWarp]) {
    const WarpCall& first = call_of(slots);
    const std::size_t count = static_cast<std::size_t>(first.b->lines) / 2;
    for (const auto& sums : warp.sums) {
        if (sums->d[0] != first.d) continue;
        if (sums->count != count)
            fail("sums of products of different sizes are under way", at(first.site));
        return *sums;
    }
    if (!warp.fenced)
        fail("no wgmma_fence since the sums of this wgmma were last waited for", at(first.site));
    auto sums = std::make_unique<Sums>();
    sums->count = count;
    sums->delivered = 0;
    sums->values.resize(kWarp * count);
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        float* const d = sums->d[lane] = call_of(slots, lane).d;
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
    const Warp here = calling(slots, lanes);
    const WarpCall& first = call_of(slots);
    for (unsigned lane = 1; lane < kWarp; ++lane)
        if (!same(*call_of(slots, lane).a, *first.a) || !same(*call_of(slots, lane).b, *first.b))
            fail("lanes of one warp give a wgmma different operands", at(first.site));
    Warpgroup& group = here.warpgroup();
    const std::uint64_t number = ++here.own().begun;
    const auto index = static_cast<std::size_t>(number - group.ended - 1);
    if (index == group.products.size()) {
        require_operand(*first.a, first.site);
        require_operand(*first.b, first.site);
        group.products.push_back({*first.a, *first.b, first.site, 0, {}});
    }
    Product& product = group.products[index];
    if (!same(product.a, *first.a) || !same(product.b, *first.b))
        fail("warps of one warpgroup begin different products: one at ", place(product.site),
             ", another at ", place(first.site), ", ", where());
    Sums& sums = sums_of(here.own(), slots);
    sums.last = number;
    product.sums[here.warp] = &sums;
    product.warps |= 1u << here.warp;
    if (product.warps != 15) return;
    if (kChecked) {
        read_operands(here.group, product, number, first.pc);
        require_shared(first.a->element, first.site);
        require_shared(first.b->element, first.site);
    }
    this_worker().wake(&group);
}

void commit(void* const slots[kWarp], std::uint32_t lanes) {
    WarpOfGroup& warp = calling(slots, lanes).own();
    warp.groups.push_back(warp.begun);
}

void fence(void* const slots[kWarp], std::uint32_t lanes) {
    calling(slots, lanes).own().fenced = true;
}

// ------------------------------------------------------------------ waiting

void begin_to_wait(void* const slots[kWarp], std::uint32_t lanes) {
    WarpOfGroup& warp = calling(slots, lanes).own();
    const std::size_t left = call_of(slots).groups_left;
    warp.fenced = false;
    if (warp.groups.size() <= left) return;
    const auto ended = warp.groups.end() - static_cast<std::ptrdiff_t>(left);
    warp.awaited = ended[-1];
    warp.groups.erase(warp.groups.begin(), ended);
}

// A product is over for all four warps when one of them has waited for it.
void carry_out(Warpgroup& group, std::uint64_t last) {
    if (group.ended >= last) return;
    const auto end = group.products.begin() + static_cast<std::ptrdiff_t>(last - group.ended);
    for (auto product = group.products.begin(); product != end; ++product)
        multiply(group, *product);
    group.products.erase(group.products.begin(), end);
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
    const OutsideKernel outside;
    meet({site, 0, d, &a, &b, pc}, &begin);
}

void detail::wait_for_products(std::size_t groups_left, Site site) {
    const OutsideKernel outside;
    if (check::left_out(site)) return;
    meet({site, groups_left}, &begin_to_wait);
    const Warp here = running_warp(site);
    Warpgroup& group = here.warpgroup();
    const std::uint64_t last = here.own().awaited;
    const auto has_begun = [last](const WarpOfGroup& warp) { return warp.begun >= last; };
    while (!std::all_of(group.warps.begin(), group.warps.end(), has_begun))
        this_worker().wait(Scheduler::State::parked, {site, 0, &group});
    carry_out(group, last);
    deliver_sums(here.own(), this_worker().current() % kWarp);
    if (kChecked) check::products_ended(here.group, static_cast<std::uint32_t>(last));
}

void wgmma_fence(Site site) {
    const detail::OutsideKernel outside;
    if (!check::left_out(site)) meet({site}, &fence);
}

void wgmma_commit(Site site) {
    const detail::OutsideKernel outside;
    meet({site}, &commit);
}

} // namespace simt

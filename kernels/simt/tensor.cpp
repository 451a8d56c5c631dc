// What feeds the tensor cores, in the emulation: copies that arrive as late as they may, and
// matrices that the last lane to arrive moves or multiplies for its whole warp.
#include "simt.hpp"

#include "products.hpp"
#include "refusals.hpp"

#include <cstring>

namespace simt {
namespace {

constexpr unsigned kWarp = 32;

template <class Slot> const Slot& slot_of(void* const slots[kWarp], unsigned lane) {
    return *static_cast<const Slot*>(slots[lane]);
}

template <class Slot> void require_whole_warp(void* const slots[kWarp], std::uint32_t lanes) {
    if (lanes == 0xffffffffu) return;
    const Site site = slot_of<Slot>(slots, static_cast<unsigned>(__builtin_ctz(lanes))).site;
    fail("ldmatrix and mma need all 32 lanes of a warp", at(site));
}

} // namespace

// ---------------------------------------------------------------------- copies

// Until the copy is waited for `shared` holds NaN, whether the card would already show the new
// values or still the old ones.
void cp_async_16(void* shared, const void* global, bool inside, Site site) {
    const detail::OutsideKernel outside;
    Copy copy{shared, __builtin_return_address(0), {}};
    require_multiple(shared, kCopyBytes, site);
    if (kChecked) check::begin_copy(shared, kCopyBytes, copy.pc);
    require_shared(shared, site);
    if (inside) {
        require_multiple(global, kCopyBytes, site);
        if (kChecked) check::read(global, kCopyBytes, copy.pc);
        if (this_worker().in_the_arena(global))
            fail(named(global), " is in shared memory, as it should not be", at(site));
        std::memcpy(copy.bytes, global, kCopyBytes);
    }
    std::memset(shared, 0xff, kCopyBytes);
    this_worker().copies().begin(copy);
}

void cp_async_commit() {
    const detail::OutsideKernel outside;
    this_worker().copies().commit();
}

void detail::wait_for_copies(std::size_t groups_left, Site site) {
    const OutsideKernel outside;
    if (check::left_out(site)) return;
    this_worker().copies().wait(groups_left, [](const Copy& copy) {
        if (kChecked) check::end_copy(copy.to, kCopyBytes, copy.pc);
        std::memcpy(copy.to, copy.bytes, kCopyBytes);
    });
}

// ---------------------------------------------------------------------- matrices from memory

namespace {

struct LoadedMatrices {
    std::uint32_t* r;
    const void* row;
    Site site;
};

template <bool transposed> void load_matrices(void* const slots[kWarp], std::uint32_t lanes) {
    require_whole_warp<LoadedMatrices>(slots, lanes);
    for (unsigned m = 0; m < 4; ++m) {
        std::uint16_t matrix[8][8];
        for (unsigned i = 0; i < 8; ++i)
            std::memcpy(matrix[i], slot_of<LoadedMatrices>(slots, 8 * m + i).row, sizeof matrix[i]);
        for (unsigned lane = 0; lane < kWarp; ++lane) {
            const unsigned g = lane / 4, t = lane % 4 * 2;
            const std::uint32_t low = transposed ? matrix[t][g] : matrix[g][t];
            const std::uint32_t high = transposed ? matrix[t + 1][g] : matrix[g][t + 1];
            slot_of<LoadedMatrices>(slots, lane).r[m] = high << 16 | low;
        }
    }
}

void ldmatrix(std::uint32_t* r, const void* row, Exchange load, Site site, const void* pc) {
    const detail::OutsideKernel outside;
    require_multiple(row, 16, site);
    if (kChecked) check::read(row, 16, pc);
    require_shared(row, site);
    LoadedMatrices slot{r, row, site};
    this_worker().wait(Scheduler::State::at_exchange, {site, 0xffffffffu, &slot, load});
}

} // namespace

void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, Site site) {
    ldmatrix(r, row, &load_matrices<false>, site, __builtin_return_address(0));
}

void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, Site site) {
    ldmatrix(r, row, &load_matrices<true>, site, __builtin_return_address(0));
}

// ---------------------------------------------------------------------- products

namespace {

struct Factors {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
    Site site;
};

float widen(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

void multiply(void* const slots[kWarp], std::uint32_t lanes) {
    require_whole_warp<Factors>(slots, lanes);
    float a[16][16];
    alignas(16) float b[16][8];
    alignas(16) float d[16][8];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        const auto& slot = slot_of<Factors>(slots, lane);
        const unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned i = 0; i < 4; ++i) {
            float* pair = &a[g + i % 2 * 8][t + i / 2 * 8];
            pair[0] = widen(slot.a[i] << 16);
            pair[1] = widen(slot.a[i] & 0xffff0000u);
            d[g + i / 2 * 8][t + i % 2] = slot.d[i];
        }
        for (unsigned i = 0; i < 2; ++i) {
            b[t + i * 8][g] = widen(slot.b[i] << 16);
            b[t + i * 8 + 1][g] = widen(slot.b[i] & 0xffff0000u);
        }
    }
    for (unsigned row = 0; row < 16; ++row) add_products(d[row], 8, a[row], b[0], 8, kAmpere);
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        const auto& slot = slot_of<Factors>(slots, lane);
        const unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned i = 0; i < 4; ++i) slot.d[i] = d[g + i / 2 * 8][t + i % 2];
    }
}

} // namespace

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  Site site) {
    Factors slot{d, a, b, site};
    warp_exchange(0xffffffffu, &slot, &multiply, site);
}

} // namespace simt

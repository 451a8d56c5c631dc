// hopper.hpp as a C++ compiler sees it (hopper.cpp and wgmma.cpp hold the other half).
//
// As in emu_tensor.hpp, nothing that touches memory is inline.
#pragma once

#include <cstddef>
#include <cstdint>

#define __grid_constant__

#define SIMT_TILES(type, name) SIMT_DYN_SHARED(type, name)

namespace simt {

constexpr unsigned kTileSlack = 0; // shared memory begins at such a multiple

struct alignas(8) Mbarrier {
    std::uint64_t state; // which of the block's barriers it is
};

#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void mbarrier_init(Mbarrier& barrier, unsigned arrivals, SIMT_SITE);
void mbarrier_fence_init(SIMT_SITE);
void mbarrier_arrive(Mbarrier& barrier, SIMT_SITE);
void mbarrier_arrive_expect(Mbarrier& barrier, unsigned bytes, SIMT_SITE);
bool mbarrier_try_wait(Mbarrier& barrier, unsigned parity, SIMT_SITE);
void mbarrier_wait(Mbarrier& barrier, unsigned parity, SIMT_SITE);
void cp_async_mbarrier_arrive(Mbarrier& barrier, SIMT_SITE);
void fence_proxy_async(SIMT_SITE);

struct TensorMap {
    const std::byte* matrix;
    std::int64_t rows, columns, row_bytes;
    int tile_rows;
};

TensorMap tensor_map(const void* matrix, std::int64_t rows, std::int64_t columns,
                     std::int64_t row_elements, int tile_rows);
void load_tile(void* shared, const TensorMap& map, int row, int column, Mbarrier& barrier,
               SIMT_SITE);

template <Major> struct Operand {
    const void* element;
    unsigned next; // of an MN-major one: bytes from one tile to the next
};

inline Operand<Major::k> k_major(const void* element) { return {element, 0}; }
inline Operand<Major::mn> mn_major(const void* element, unsigned next) { return {element, next}; }

namespace detail {

// An operand whose lines are its rows of a, or its columns of b.
struct AnyOperand {
    const void* element;
    unsigned next;
    Major major;
    int lines;
};
void begin_product(float* d, const AnyOperand& a, const AnyOperand& b, Site site, const void* pc);
void wait_for_products(std::size_t groups_left, Site site);

} // namespace detail

void wgmma_fence(SIMT_SITE);
void wgmma_commit(SIMT_SITE);

template <int n, Major of_a, Major of_b> __attribute__((noinline)) void
wgmma(float (&d)[n / 2], Operand<of_a> a, Operand<of_b> b, SIMT_SITE) {
    static_assert(n % 8 == 0 && n >= 8 && n <= 256, "");
    detail::begin_product(d, {a.element, a.next, of_a, 64}, {b.element, b.next, of_b, n},
                          {file, line}, __builtin_return_address(0));
}

template <int left, int count> void wgmma_wait(float (&)[count], SIMT_SITE) {
    detail::wait_for_products(left, {file, line});
}

template <int count> void lower_registers() {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "");
}
template <int count> void raise_registers() {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "");
}

#undef SIMT_SITE

} // namespace simt

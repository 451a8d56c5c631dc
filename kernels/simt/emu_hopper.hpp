// hopper.hpp as a C++ compiler sees it (hopper.cpp and wgmma.cpp hold the other half).
//
// As in emu_tensor.hpp, nothing that touches memory is inline.
#pragma once

#include <cstddef>
#include <cstdint>

#define __grid_constant__

#define SIMT_TILES(type, name) SIMT_DYN_SHARED(type, name)
#define SIMT_CLUSTER(blocks)

namespace simt {

constexpr unsigned kTileSlack = 0; // shared memory begins at such a multiple

struct alignas(8) Mbarrier {
    std::uint64_t state; // which of the block's barriers it is
};

void mbarrier_init(Mbarrier& barrier, unsigned arrivals, Site site = Site::here());
void mbarrier_fence_init(Site site = Site::here());
void mbarrier_arrive(Mbarrier& barrier, Site site = Site::here());
void mbarrier_arrive_expect(Mbarrier& barrier, unsigned bytes, Site site = Site::here());
void mbarrier_wait(Mbarrier& barrier, unsigned parity, Site site = Site::here());
void cp_async_mbarrier_arrive(Mbarrier& barrier, Site site = Site::here());
void fence_proxy_async(Site site = Site::here());

// Of one type, so that code for one block and for two is compiled once.
struct Cluster {
    unsigned blocks;
};

inline bool launches_clusters() { return true; }
Cluster cluster_of(unsigned blocks, Site site);
template <unsigned blocks> Cluster cluster(Site site = Site::here()) {
    return cluster_of(blocks, site);
}
unsigned cluster_rank(Cluster cluster);
void cluster_sync(Cluster cluster, Site site = Site::here());
void mbarrier_arrive_at(Cluster cluster, Mbarrier& barrier, unsigned rank,
                        Site site = Site::here());

struct TensorMap {
    const std::byte* matrix;
    std::int64_t rows, columns, row_bytes;
    int tile_rows;
};

TensorMap tensor_map(const void* matrix, std::int64_t rows, std::int64_t columns,
                     std::int64_t row_elements, int tile_rows);
void load_tile(void* shared, const TensorMap& map, int row, int column, Mbarrier& barrier,
               Site site = Site::here());
void load_tile_multicast(Cluster cluster, void* shared, const TensorMap& map, int row, int column,
                         Mbarrier& barrier, Site site = Site::here());

template <Major, Packing = Packing::tiles> struct Operand {
    const void* element;
    unsigned next; // bytes from one tile or plane to the next; of a K-major one in tiles, 0
};

inline Operand<Major::k> k_major(const void* element) { return {element, 0}; }
inline Operand<Major::mn> mn_major(const void* element, unsigned next) { return {element, next}; }
inline Operand<Major::k, Packing::planes> k_planes(const void* element, unsigned next) {
    return {element, next};
}
inline Operand<Major::mn, Packing::planes> mn_planes(const void* element, unsigned next) {
    return {element, next};
}
template <Major major>
Operand<major, Packing::planes> further(Operand<major, Packing::planes> operand, unsigned pieces) {
    return {static_cast<const std::byte*>(operand.element) + 16 * std::size_t{pieces},
            operand.next};
}

namespace detail {

// An operand whose lines are its rows of a, or its columns of b.
struct AnyOperand {
    const void* element;
    unsigned next;
    Major major;
    Packing packing;
    int lines;
};
void begin_product(float* d, const AnyOperand& a, const AnyOperand& b, Site site, const void* pc);
void wait_for_products(std::size_t groups_left, Site site);
void change_registers(unsigned count, bool more, unsigned blocks, Site site);

} // namespace detail

void wgmma_fence(Site site = Site::here());
void wgmma_commit(Site site = Site::here());

template <int n, Major of_a, Packing pack_a, Major of_b, Packing pack_b>
__attribute__((noinline)) void wgmma(float (&d)[n / 2], Operand<of_a, pack_a> a,
                                     Operand<of_b, pack_b> b, Site site = Site::here()) {
    expect_product<n, of_b, pack_b>();
    detail::begin_product(d, {a.element, a.next, of_a, pack_a, 64},
                          {b.element, b.next, of_b, pack_b, n}, site, __builtin_return_address(0));
}

template <int left, int count> void wgmma_wait(float (&)[count], Site site = Site::here()) {
    detail::wait_for_products(left, site);
}

template <int count, unsigned blocks = 1> void lower_registers(Site site = Site::here()) {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "");
    detail::change_registers(count, false, blocks, site);
}
template <int count, unsigned blocks = 1> void raise_registers(Site site = Site::here()) {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "");
    detail::change_registers(count, true, blocks, site);
}

} // namespace simt

// What feeds the tensor cores, as a C++ compiler sees it (tensor.cpp holds the other half).
//
// None of the functions that touch memory is inline: their return address is the line of the
// kernel that a report names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace simt {

void cp_async_16(void* shared, const void* global, bool inside, Site site = Site::here());
void cp_async_commit();
void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, Site site = Site::here());
void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, Site site = Site::here());
void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  Site site = Site::here());

namespace detail {
void wait_for_copies(std::size_t groups_left, Site site);
} // namespace detail

template <int left> void cp_async_wait(Site site = Site::here()) {
    detail::wait_for_copies(left, site);
}

} // namespace simt

// What feeds the tensor cores, as a C++ compiler sees it (tensor.cpp holds the other half).
//
// None of the functions that touch memory is inline: their return address is the line of the
// kernel that a report names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace simt {

void cp_async_16(void* shared, const void* global, bool inside, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
void cp_async_commit();
void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE());
void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const char* file = __builtin_FILE(), int line = __builtin_LINE());

namespace detail {
void wait_for_copies(std::size_t groups_left, Site site);
} // namespace detail

template <int left>
void cp_async_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    detail::wait_for_copies(left, {file, line});
}

} // namespace simt

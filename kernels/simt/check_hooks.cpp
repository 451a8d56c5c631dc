// The functions that the compiler calls before each access of a kernel file: -fsanitize=thread, and
// -fsanitize=alignment where the address does not suit the type.
#include "checker.hpp"

#include <cstring>

using simt::check::active;

namespace {
void hooked(const void* address, std::size_t bytes, bool is_write, const void* pc) {
    const simt::detail::OutsideKernel outside;
    simt::check::access(address, bytes, is_write, pc);
}
} // namespace

#define SIMT_ACCESS(name, bytes, is_write)                                                         \
    extern "C" void name(void* address) {                                                          \
        if (active) hooked(address, bytes, is_write, __builtin_return_address(0));                 \
    }
#define SIMT_ACCESSES(bytes)                                                                       \
    SIMT_ACCESS(__tsan_read##bytes, bytes, false)                                                  \
    SIMT_ACCESS(__tsan_write##bytes, bytes, true)                                                  \
    SIMT_ACCESS(__tsan_unaligned_read##bytes, bytes, false)                                        \
    SIMT_ACCESS(__tsan_unaligned_write##bytes, bytes, true)                                        \
    SIMT_ACCESS(__tsan_volatile_read##bytes, bytes, false)                                         \
    SIMT_ACCESS(__tsan_volatile_write##bytes, bytes, true)
SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)

extern "C" {

void __tsan_read_range(void* address, std::size_t bytes) {
    if (active) hooked(address, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
    if (active) hooked(address, bytes, true, __builtin_return_address(0));
}
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
    if (active) hooked(from, bytes, false, __builtin_return_address(0));
    if (active) hooked(to, bytes, true, __builtin_return_address(0));
    return std::memcpy(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
    if (active) hooked(to, bytes, true, __builtin_return_address(0));
    return std::memset(to, value, bytes);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// -fsanitize=alignment calls this before an access whose address does not suit its type. The layout
// of its argument is fixed by the compilers' common run-time interface.
struct TypeMismatch {
    const char* file;
    std::uint32_t line;
    std::uint32_t column;
    const void* type;
    unsigned char log_alignment;
    unsigned char kind;
};
void __ubsan_handle_type_mismatch_v1(TypeMismatch* mismatch, void* address) {
    if (!active) return;
    const simt::detail::OutsideKernel outside;
    const std::string file(mismatch->file);
    simt::fail("misaligned access to ", simt::check::place_of(address),
               ", which should be a multiple of ", 1u << mismatch->log_alignment, " bytes, at ",
               file.substr(file.rfind('/') + 1), ':', mismatch->line, ", ", simt::where());
}
void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* mismatch, void* address) {
    __ubsan_handle_type_mismatch_v1(mismatch, address);
}

} // extern "C"

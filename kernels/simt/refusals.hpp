// Refusals that the emulated instructions share; each ends the launch with a sentence.
#pragma once

#include "worker.hpp"

#include <cstdint>
#include <string>

namespace simt {

// "lrn.cu:48"
inline std::string place(Site site) {
    const std::string file(site.file);
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}
inline std::string at(Site site) { return text(", at ", place(site), ", ", where()); }

inline std::string named(const void* address) {
    return kChecked ? check::place_of(address) : "an address";
}

inline void require_multiple(const void* address, std::size_t bytes, Site site) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
        fail("misaligned access to ", named(address), ", which should be a multiple of ", bytes,
             " bytes", at(site));
}

inline void require_shared(const void* address, Site site) {
    if (!this_worker().in_the_arena(address))
        fail(named(address), " is not in shared memory, as it should be", at(site));
}

} // namespace simt

// Refusals that the emulated instructions share; each ends the launch with a sentence.
#pragma once

#include "check.hpp"

#include <cstdint>
#include <string>

namespace simt {

// "lrn.cu:48"
inline std::string place(Site site) {
    const std::string file(site.file);
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}
inline std::string at(Site site) { return ", at " + place(site) + ", " + where(); }

inline void require_multiple(const void* address, std::size_t bytes, Site site) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
        fail("misaligned access to " + check::place_of(address) +
             ", which should be a multiple of " + std::to_string(bytes) + " bytes" + at(site));
}

inline void require_shared(const void* address, Site site) {
    if (!is_shared(address))
        fail(check::place_of(address) + " is not in shared memory, as it should be" + at(site));
}

} // namespace simt

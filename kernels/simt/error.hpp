// What a failed launch throws. Host code may include this without the rest.
#pragma once

#include <stdexcept>

namespace simt {

// A kernel that could not be launched, or that broke a rule while it ran (emulation).
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

} // namespace simt

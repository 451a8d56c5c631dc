// Where in the source an instruction of this module comes from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace simt {

// The address where this module was loaded: an offset counts from here.
const char* module_begin();

// "file.cu:12" of each of some calls, given their return addresses' offsets in the module. By
// addr2line; the bare offset where that is not installed.
std::vector<std::string> source_lines(const std::vector<std::uint32_t>& offsets);

} // namespace simt

#include "simt.hpp"

namespace simt {

// Both compilers spell it "... kernel = some::space::name<arguments>; Arguments = ...]".
std::string kernel_name(const char* pretty_function) {
    std::string name(pretty_function);
    const std::string key = "kernel = ";
    const std::size_t begin = name.find(key);
    if (begin == std::string::npos) return name;
    name = name.substr(begin + key.size());
    name = name.substr(0, name.find_first_of(";]"));
    const std::size_t space = name.substr(0, name.find('<')).rfind("::");
    if (space != std::string::npos) name = name.substr(space + 2);
    return name;
}

} // namespace simt

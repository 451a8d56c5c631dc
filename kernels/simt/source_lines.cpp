#include "source_lines.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdio>

#include <dlfcn.h>

namespace simt {
namespace {

constexpr std::size_t kAddressesPerCommand = 1000; // a shell takes 128 KiB

// This module, with its file's name and the address where it was loaded.
const Dl_info& this_module() {
    static const Dl_info info = [] {
        Dl_info found{};
        dladdr(reinterpret_cast<const void*>(&this_module), &found);
        return found;
    }();
    return info;
}

std::string hexadecimal(std::uint32_t offset) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%x", offset);
    return text;
}

// "file.cu:12" from "/a/b/file.cu:12 (discriminator 3)"; "" where the line is not known.
std::string file_and_line(const std::string& told) {
    const std::string place = told.substr(0, told.find_first_of(" \n"));
    if (place.empty() || place[0] == '?') return "";
    return place.substr(place.rfind('/') + 1);
}

// What addr2line says of offsets [first, last), a line each; fewer where it is not installed.
std::vector<std::string> ask(const std::uint32_t* first, const std::uint32_t* last) {
    std::string command = "addr2line -e '" + std::string(this_module().dli_fname) + "'";
    for (; first != last; ++first)
        command += " " + hexadecimal(*first - 1); // the call before the return address
    command += " 2>/dev/null";
    std::vector<std::string> told;
    if (FILE* pipe = popen(command.c_str(), "r")) {
        char line[4200];
        while (std::fgets(line, sizeof line, pipe)) told.emplace_back(line);
        pclose(pipe);
    }
    return told;
}

} // namespace

const char* module_begin() { return static_cast<const char*>(this_module().dli_fbase); }

std::vector<std::string> source_lines(const std::vector<std::uint32_t>& offsets) {
    std::vector<std::string> lines;
    for (std::size_t first = 0; first < offsets.size(); first += kAddressesPerCommand) {
        const std::size_t last = std::min(first + kAddressesPerCommand, offsets.size());
        std::vector<std::string> told = ask(&offsets[first], &offsets[first] + (last - first));
        told.resize(last - first);
        for (std::size_t i = first; i < last; ++i) {
            const std::string line = file_and_line(told[i - first]);
            lines.push_back(line.empty() ? "module offset " + hexadecimal(offsets[i]) : line);
        }
    }
    return lines;
}

} // namespace simt

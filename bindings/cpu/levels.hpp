// The _cpu modules that a processor can run.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace pyalexnet {

// The suffixes after _cpu of the modules that this processor can run, from the least to the most,
// and what each is compiled for.
inline std::vector<std::pair<std::string, std::string>> levels() {
#if defined(__x86_64__)
    std::vector<std::pair<std::string, std::string>> found{{"", "x86-64"}};
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
        found.emplace_back("_v3", "x86-64-v3");
    else
        return found;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.emplace_back("_v4", "x86-64-v4");
    return found;
#else
    return {{"", "aarch64"}};
#endif
}

} // namespace pyalexnet

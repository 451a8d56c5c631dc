// Scripts of random actions, which a test writes as numbers to a program's standard input.
#pragma once

#include "simt/device.hpp"
#include "simt/error.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace scripts {

// The program ends where the input does.
inline int next_number() {
    int number = 0;
    if (std::scanf("%d", &number) != 1) std::exit(0);
    return number;
}

// Thread i does the actions from begins[i] up to begins[i + 1].
struct Actions {
    std::vector<int> all, begins{0};

    explicit Actions(int threads) {
        for (int thread = 0; thread < threads; ++thread) {
            for (int left = next_number(); left > 0; --left) all.push_back(next_number());
            begins.push_back(static_cast<int>(all.size()));
        }
        all.push_back(0); // so that no buffer is empty
    }
};

// Has `run` read and run one script after another, in the schedule that each begins with, and
// prints a line for each.
template <class Run> [[noreturn]] void run_all(Run run) {
    for (;;) {
        simt::set_schedule(static_cast<std::uint64_t>(next_number()));
        try {
            run();
            std::printf("no report\n");
        } catch (const simt::Error& error) {
            std::printf("%s\n", error.what());
        }
        std::fflush(stdout);
    }
}

} // namespace scripts

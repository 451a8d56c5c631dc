// The performance lint: what the accesses that the checker sees would cost in a card's memory.
//
// A warp's accesses by one instruction are one request. In global memory it moves whole sectors of
// 32 bytes; in shared memory it takes a pass for each different word of the busiest bank.
#pragma once

#include "device.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace simt::check {

// What all executions of one instruction on one array have in common.
struct Instruction {
    std::uint32_t pc; // return address of its hook, as an offset in the module
    bool shared;
    bool write;
    std::size_t bytes; // of one lane's access
};

// Counts requests while it lives.
class Lint {
  public:
    // One access of a thread, to an array that begins at `array`.
    void access(const Instruction& instruction, const std::string& name, const std::byte* array,
                unsigned thread, const std::byte* address);

    // A barrier of the block, or its end: the next execution is the first one again.
    void end_epoch();

    // What was counted since the start.
    std::vector<LintRow> rows();

  private:
    // The lanes of a warp that executed an instruction as often before.
    struct Request {
        std::uint32_t lanes = 0;
        std::array<std::uintptr_t, 32> addresses; // of the lanes set
    };
    // What an instruction did on an array in this epoch.
    struct Executions {
        Instruction instruction;
        std::string name;                          // of the array
        std::array<std::uint32_t, 1024> of_thread; // how often each has executed it
        std::array<std::vector<Request>, 32> of_warp;
    };
    struct Counts {
        std::uint64_t requests, transfers, ideal;

        void operator+=(const Counts& other);
    };
    using Counted = std::tuple<std::uint32_t, std::string, bool, bool, std::size_t>;

    static Counts counts_of(const Request& request, const Instruction& instruction);

    std::map<std::tuple<std::uint32_t, const std::byte*, bool, std::size_t>, Executions> epoch_;
    std::map<Counted, Counts> counted_;
};

} // namespace simt::check

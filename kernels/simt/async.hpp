// What a block has in flight besides its threads: mbarriers, tiles being copied, products. What
// kernels call is in hopper.cpp and wgmma.cpp.
#pragma once

#include "copies.hpp"
#include "hopper.hpp"
#include "products.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace simt {

constexpr unsigned kMaxMbarriers = 64;
constexpr std::size_t kRowBytes = kTileColumns * 2; // of a tile

// Where the 16 bytes that would be here without swizzling lie in a tile.
inline std::byte* swizzled(const void* plain) {
    const auto p = reinterpret_cast<std::uintptr_t>(plain);
    return reinterpret_cast<std::byte*>(p ^ (p >> 7 & 7u) << 4);
}

struct MbarrierState {
    const Mbarrier* where;
    unsigned index;
    unsigned arrivals;    // of a phase
    unsigned phase;       // those that have ended
    unsigned missing;     // arrivals of the present one
    std::size_t expected; // its bytes; then those begun, and those that have come
    std::size_t begun;
    std::size_t come;
    Site unawaited; // where a tile was begun in a phase not waited for yet; file null: nowhere
    bool ended_unawaited; // whether that phase has ended
};

// A tile on its way, or all copies of a thread, which together count as an arrival.
struct Coming {
    MbarrierState* barrier;
    std::byte* to; // of a tile, or null
    TensorMap map;
    int row, column;
    std::vector<Copy> copies;
};

// d of the lanes of a warp, from its first product until it has been waited for.
struct Sums {
    std::array<float*, 32> d;
    std::size_t count;         // of each lane
    std::vector<float> values; // lane by lane
    std::uint64_t last;        // product
    std::uint32_t delivered;   // lanes
};

// One product of a warpgroup, which each of its warps begins for itself.
struct Product {
    detail::AnyOperand a, b;
    Site site;
    unsigned warps; // bits of those that have begun it
    std::array<Sums*, 4> sums;
};

struct WarpOfGroup {
    std::uint64_t begun = 0;           // products
    std::vector<std::uint64_t> groups; // the last product of each that has not been waited for
    std::uint64_t awaited = 0;         // all products up to this one
    bool fenced = false;               // since the last wait
    std::vector<std::unique_ptr<Sums>> sums;
};

constexpr std::size_t kMaxColumns = 256;

// a or b of a product in float32: by depth, then line.
struct alignas(16) Factor {
    std::array<std::array<float, kMaxColumns>, kProductDepth> values;
    std::array<float, kMaxColumns>& operator[](std::size_t k) { return values[k]; }
};

struct Warpgroup {
    std::array<WarpOfGroup, 4> warps;
    std::vector<Product> products; // those after the first `ended`
    std::uint64_t ended = 0;
    Factor a, b; // of the product that is being carried out
};

// Of blocks whose warpgroups hand registers to one another.
struct Registers {
    struct Change {
        Site site;
        unsigned count; // that each thread shall have
        bool more;
        unsigned blocks; // on a multiprocessor
    };
    static constexpr unsigned kWarps = kMaxThreads / 32;

    std::array<std::vector<Change>, kWarps> changes; // of each warp
    std::array<unsigned, kWarps> of_thread{};        // since the warp's first change
    std::array<unsigned, kMaxCluster> pool{};        // of each block

    // What an ending block lacks, in a sentence; empty if nothing.
    std::string left_undone() const;
};

class AsyncWork {
  public:
    void forget(); // at a block's begin

    MbarrierState* init(Mbarrier& barrier, unsigned arrivals); // null: there are too many
    MbarrierState* find(const Mbarrier& barrier);              // null: not one
    void begin(Coming coming) { coming_.push_back(std::move(coming)); }
    std::size_t pending() const { return coming_.size(); }
    void deliver(std::size_t index);
    Warpgroup& warpgroup(unsigned index);
    Registers& registers() { return registers_ ? *registers_ : registers_.emplace(); }

    // Whether the block has used any of this.
    bool used() const { return mbarrier_count_ > 0 || !warpgroups_.empty() || registers_; }
    // What an ending block has not waited for, in a sentence; empty if nothing.
    std::string left_behind() const;
    // What is still missing for a waiting thread.
    std::string lacking(const void* what) const;

  private:
    std::array<MbarrierState, kMaxMbarriers> mbarriers_{};
    unsigned mbarrier_count_ = 0;
    std::vector<Coming> coming_;
    std::vector<std::unique_ptr<Warpgroup>> warpgroups_;
    std::optional<Registers> registers_; // once a warp changes its own
};

} // namespace simt

// The copies that one CUDA thread has in flight (cp.async), oldest first.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace simt {

constexpr std::size_t kCopyBytes = 16;

struct Copy {
    void* to;
    const void* pc; // of the call
    std::byte bytes[kCopyBytes];
};

class Copies {
  public:
    void begin(const Copy& copy) { copies_.push_back(copy); }

    // All begun since the last commit are one group; there may be none.
    void commit() {
        groups_.push_back(copies_.size() - committed_);
        committed_ = copies_.size();
    }

    // Ends every group but the last `left`: hands their copies to `arrive` and forgets them.
    template <class Arrive> void wait(std::size_t left, Arrive arrive) {
        if (groups_.size() <= left) return;
        const std::size_t ended = groups_.size() - left;
        std::size_t count = 0;
        for (std::size_t g = 0; g < ended; ++g) count += groups_[g];
        for (std::size_t i = 0; i < count; ++i) arrive(copies_[i]);
        groups_.erase(groups_.begin(), groups_.begin() + static_cast<std::ptrdiff_t>(ended));
        copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(count));
        committed_ -= count;
    }

    // All in flight, in groups or not: something else waits for them.
    std::vector<Copy> take() {
        groups_.clear();
        committed_ = 0;
        return std::exchange(copies_, {});
    }

  private:
    std::vector<Copy> copies_;
    std::vector<std::size_t> groups_; // their sizes
    std::size_t committed_ = 0;       // copies that belong to a group
};

} // namespace simt

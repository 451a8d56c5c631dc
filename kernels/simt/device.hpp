// The emulated devices as host code sees them: their memory, and the part that a launch may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace simt {

constexpr int kDevices = 2; // logical devices, as many as the paper had
constexpr int kHost = -1;   // the "device" of memory that no device allocated

// Memory of one device, filled with NaNs (on a card it may hold anything).
void* allocate(int device, std::size_t bytes);
void release(void* pointer);
int device_of(const void* pointer);

// Lets kernels on `device` touch the memory of `peer`. Until then the checker refuses it.
void enable_peers(int device, int peer);

// Order in which blocks and threads run: 0 is the natural one; any other seed permutes the blocks,
// the threads of a block, and which thread goes first after each barrier. And how tensor cores add:
// see products.hpp.
void set_schedule(std::uint64_t seed, bool cuts = false);

enum class Access { read, write, read_write, scratch };

// One array that a launch was given.
struct Buffer {
    std::string name;
    void* pointer;
    std::size_t bytes;
    std::size_t element_bytes;
    Access access;
    int device;
};

// What the launches of one call may touch, from construction to destruction. The checker works on
// copies of the buffers that it keeps between fences: nothing outside is ever read or written, and
// a stray access never meets a neighbour by luck. Otherwise the buffers stay where they are.
class Session {
  public:
    Session(int device, std::vector<Buffer> buffers);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // Where the kernel finds buffer `index`.
    void* operator[](std::size_t index) const { return placed_[index]; }

    // To be called after the last launch: outputs go back to their places.
    void finish();

  private:
    std::size_t first_in_place(std::size_t index) const;

    std::unique_lock<std::mutex> turn_;
    std::vector<Buffer> buffers_;
    std::vector<void*> placed_;
};

// For the mutation test: every barrier that kernels have met since the start, as "file:line", and
// the one to leave out from now on (none when empty).
std::vector<std::string> barriers_met();
void leave_out_barrier(const std::string& file_and_line);

// For the bounds test: from now on the last element of every buffer of this name is out of bounds
// (of none when empty).
void shorten_buffer(const std::string& name);

// What the warps' requests to one array from one source line cost, over all executions.
struct LintRow {
    std::string line;  // "file.cu:12"
    std::string array; // as the checker's reports name it
    bool shared;       // shared memory of the block; otherwise global
    bool write;
    std::size_t bytes; // that one lane reads or writes at once
    std::uint64_t requests;
    std::uint64_t transfers; // 32-byte sectors; in shared memory passes over the banks
    std::uint64_t ideal;     // the fewest that could hold the same bytes
};

// For the performance lint: counts from the first of these to the second, which is to be called
// while no kernel runs. Without the first there is nothing to report.
void begin_lint();
std::vector<LintRow> end_lint();

// The launches of this process so far, which tell a test that a kernel really ran.
std::uint64_t launch_count();

} // namespace simt

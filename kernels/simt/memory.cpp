#include "check.hpp"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace simt {
namespace {

constexpr std::size_t kAlignment = 256; // cudaMalloc's
constexpr std::size_t kFence = 4096;    // on either side of a checked buffer

struct Allocation {
    std::size_t bytes;
    int device;
};

// Which device owns which memory.
struct Memory {
    std::mutex mutex;
    std::map<const std::byte*, Allocation> allocations; // by address
    bool peers[kDevices][kDevices] = {};
};

Memory& memory() {
    static Memory instance;
    return instance;
}

thread_local int device_of_session = 0;

// The checker keeps one list of buffers, so one session is open at a time.
std::unique_lock<std::mutex> turn_to_check() {
    static std::mutex mutex;
    return kChecked ? std::unique_lock<std::mutex>(mutex) : std::unique_lock<std::mutex>();
}

std::byte* aligned(std::size_t bytes) {
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    auto* block = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded + kAlignment));
    if (!block) throw std::bad_alloc();
    return block;
}

std::size_t offset_of(const Buffer& buffer) {
    return reinterpret_cast<std::uintptr_t>(buffer.pointer) % kAlignment;
}

// A copy between fences, at the same offset from the alignment as the original.
std::byte* fenced_copy(const Buffer& buffer) {
    std::byte* block = aligned(buffer.bytes + 2 * kFence + kAlignment);
    std::byte* copy = block + kFence + offset_of(buffer);
    if (buffer.access == Access::read || buffer.access == Access::read_write)
        std::memcpy(copy, buffer.pointer, buffer.bytes);
    else
        std::memset(copy, 0xff, buffer.bytes);
    return copy;
}

} // namespace

void* allocate(int device, std::size_t bytes) {
    std::byte* block = aligned(bytes);
    std::memset(block, 0xff, bytes);
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    m.allocations[block] = {bytes, device};
    return block;
}

void release(void* pointer) {
    Memory& m = memory();
    {
        const std::lock_guard<std::mutex> lock(m.mutex);
        m.allocations.erase(static_cast<const std::byte*>(pointer));
    }
    std::free(pointer);
}

int device_of(const void* pointer) {
    const auto* p = static_cast<const std::byte*>(pointer);
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    auto next = m.allocations.upper_bound(p);
    if (next == m.allocations.begin()) return kHost;
    const auto& [begin, allocation] = *--next;
    return p < begin + allocation.bytes ? allocation.device : kHost;
}

int current_device() { return device_of_session; }

bool peers_enabled(int device, int peer) {
    const std::lock_guard<std::mutex> lock(memory().mutex);
    return memory().peers[device][peer];
}

void enable_peers(int device, int peer) {
    const std::lock_guard<std::mutex> lock(memory().mutex);
    memory().peers[device][peer] = true;
}

// ---------------------------------------------------------------------- sessions

Session::Session(int device, std::vector<Buffer> buffers)
    : turn_(turn_to_check()), buffers_(std::move(buffers)) {
    device_of_session = device;
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
        void* place = buffers_[i].pointer;
        if (kChecked && place) {
            const std::size_t first = first_in_place(i);
            place = first < i ? placed_[first] : fenced_copy(buffers_[i]);
            check::declare(buffers_[i], place);
        }
        placed_.push_back(place);
    }
}

// The first buffer at the same memory, where an op works in place; else the buffer itself.
std::size_t Session::first_in_place(std::size_t index) const {
    for (std::size_t i = 0; i < index; ++i)
        if (buffers_[i].pointer == buffers_[index].pointer &&
            buffers_[i].bytes == buffers_[index].bytes)
            return i;
    return index;
}

void Session::finish() {
    if (!kChecked) return;
    const std::string unwritten = check::unwritten_output();
    if (!unwritten.empty()) throw Error("after the last launch, output " + unwritten);
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
        const Access access = buffers_[i].access;
        if (placed_[i] && (access == Access::write || access == Access::read_write))
            std::memcpy(buffers_[i].pointer, placed_[i], buffers_[i].bytes);
    }
}

Session::~Session() {
    if (!kChecked) return;
    check::forget_buffers();
    for (std::size_t i = 0; i < buffers_.size(); ++i)
        if (placed_[i] && first_in_place(i) == i)
            std::free(static_cast<std::byte*>(placed_[i]) - offset_of(buffers_[i]) - kFence);
}

} // namespace simt

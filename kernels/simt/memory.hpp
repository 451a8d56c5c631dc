// The emulated devices' memory, as the emulation itself uses it.
#pragma once

#include "device.hpp"

namespace simt {

// The device that the calling thread launches on: the one of its session.
int current_device();

// Whether kernels on `device` may touch the memory of `peer`.
bool peers_enabled(int device, int peer);

namespace check {
// The session's buffers, at the places where the kernel finds them.
void declare(const Buffer& buffer, const void* placed);
void forget_buffers();
std::string unwritten_output(); // empty when all is written
} // namespace check

} // namespace simt

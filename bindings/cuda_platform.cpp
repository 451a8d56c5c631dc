// NVIDIA's devices: arrays are any with a __cuda_array_interface__ (CuPy, PyTorch, Numba, JAX).
#include "array.hpp"

#include "simt/error.hpp"

#include <cuda_runtime_api.h>

#include <stdexcept>

namespace pyalexnet {
namespace {

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();
    throw simt::Error(std::string(what) + ": " + cudaGetErrorString(status));
}

// The interface may leave strides out (None) where the array is C-contiguous.
bool is_contiguous(const py::dict& interface, const ArrayInfo& array) {
    if (!interface.contains("strides") || interface["strides"].is_none()) return true;
    const auto strides = interface["strides"].cast<std::vector<std::int64_t>>();
    auto expected = static_cast<std::int64_t>(array.element_bytes);
    for (std::size_t i = array.shape.size(); i > 0; --i) {
        if (array.shape[i - 1] != 1 && strides[i - 1] != expected) return false;
        expected *= array.shape[i - 1];
    }
    return true;
}

int device_of(const void* pointer) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
    const bool on_device =
        attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
    if (!on_device) throw std::invalid_argument("does not point to memory of a CUDA device");
    return attributes.device;
}

bool peer_access_possible(int device, int peer) {
    int possible = 0;
    check(cudaDeviceCanAccessPeer(&possible, device, peer), "cudaDeviceCanAccessPeer");
    return possible != 0;
}

void enable_peers(int device, int peer) {
    check(cudaSetDevice(device), "cudaSetDevice");
    const cudaError_t status = cudaDeviceEnablePeerAccess(peer, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled)
        cudaGetLastError();
    else
        check(status, "cudaDeviceEnablePeerAccess");
}

} // namespace

ArrayInfo describe(handle object) {
    if (!py::hasattr(object, "__cuda_array_interface__"))
        throw std::invalid_argument("is " + std::string(py::str(py::type::of(object))) +
                                    "; an array on a CUDA device was expected");
    const auto interface = object.attr("__cuda_array_interface__").cast<py::dict>();
    const auto data = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
    const auto type = interface["typestr"].cast<std::string>();
    ArrayInfo array;
    array.pointer = reinterpret_cast<void*>(data.first);
    array.writable = !data.second;
    array.kind = type.at(0) == '>' ? '>' : is_bfloat16(object) ? 'b' : type.at(1);
    array.element_bytes = static_cast<std::size_t>(std::stoul(type.substr(2)));
    array.shape = interface["shape"].cast<std::vector<std::int64_t>>();
    array.contiguous = is_contiguous(interface, array);
    if (array.pointer) array.device = device_of(array.pointer);
    return array;
}

void run(int device, Stream stream, std::deque<ArrayInfo>& arrays, const Launchers& launchers) {
    check(cudaSetDevice(device), "cudaSetDevice"); // the current device of this runtime
    for (ArrayInfo& array : arrays) array.kernel_pointer = array.pointer;
    launchers(stream);
}

void order(int device, Stream first, Stream second) {
    check(cudaSetDevice(device), "cudaSetDevice");
    cudaEvent_t reached = nullptr;
    check(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming), "cudaEventCreate");
    cudaError_t status = cudaEventRecord(reached, static_cast<cudaStream_t>(first));
    if (status == cudaSuccess)
        status = cudaStreamWaitEvent(static_cast<cudaStream_t>(second), reached, 0);
    cudaEventDestroy(reached); // the wait keeps what it needs of it
    check(status, "cudaStreamWaitEvent");
}

int device_count() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    return count;
}

bool multiplies(int device, Unit unit) {
    if (unit != Unit::wgmma) return unit != Unit::winograd;
    const auto capability = [&](cudaDeviceAttr attribute) {
        int value = 0;
        check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
        return value;
    };
    return PYALEXNET_HOPPER && capability(cudaDevAttrComputeCapabilityMajor) == 9 &&
           capability(cudaDevAttrComputeCapabilityMinor) == 0;
}

void register_platform(py::module_& module) {
    module.def("device_count", &device_count, "CUDA devices; KernelError says why there are none.");
    module.def("peer_access_possible", &peer_access_possible, "device"_a, "peer"_a,
               "Whether kernels on `device` could touch the memory of `peer`.");
    module.def("enable_peers", &enable_peers, "device"_a, "peer"_a,
               "Lets kernels on `device` touch the memory of `peer`.");
}

} // namespace pyalexnet

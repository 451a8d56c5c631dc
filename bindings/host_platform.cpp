// The emulated devices: arrays are NumPy's, in memory of the emulation or of the host.
#include "array.hpp"

#include <pybind11/numpy.h>

#include "simt/device.hpp"

namespace pyalexnet {

ArrayInfo describe(handle object) {
    ArrayInfo array = describe_numpy(object);
    array.device = simt::device_of(array.pointer);
    return array;
}

namespace {

simt::Buffer buffer_of(const ArrayInfo& array, int device) {
    using simt::Access;
    constexpr Access accesses[] = {Access::read,  Access::read,       Access::write,
                                   Access::write, Access::read_write, Access::scratch};
    return {array.name,
            array.pointer,
            array.bytes(),
            array.element_bytes,
            accesses[static_cast<int>(array.access)],
            array.device < 0 ? device : array.device};
}

void expect_device(const std::string& function, int device) {
    if (device < 0 || device >= simt::kDevices)
        throw py::value_error(function + ": device is " + std::to_string(device) + "; there are " +
                              std::to_string(simt::kDevices));
}

// Memory of an emulated device as a NumPy array.
py::array empty(const std::vector<py::ssize_t>& shape, const py::dtype& type, int device) {
    expect_device("empty", device);
    if (type.attr("hasobject").cast<bool>()) // NumPy would follow uninitialised pointers
        throw py::value_error("empty: the dtype holds Python objects; numbers were expected");
    py::ssize_t bytes = type.itemsize();
    for (const py::ssize_t extent : shape) {
        if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes))
            throw py::value_error("empty: the shape is negative or too large");
    }
    void* memory = simt::allocate(device, static_cast<std::size_t>(bytes));
    const py::capsule owner(memory, [](void* pointer) { simt::release(pointer); });
    return py::array(type, shape, memory, owner);
}

#if defined(SIMT_CHECK)
py::list end_lint() {
    py::list rows;
    for (const simt::LintRow& row : simt::end_lint())
        rows.append(py::make_tuple(row.line, row.array, row.shared ? "shared" : "global",
                                   row.write ? "write" : "read", row.bytes, row.requests,
                                   row.transfers, row.ideal));
    return rows;
}
#endif

void enable_peers(int device, int peer) {
    expect_device("enable_peers", device);
    expect_device("enable_peers", peer);
    simt::enable_peers(device, peer);
}

int device_of(const py::array& array) { return simt::device_of(array.data()); }

} // namespace

void run(int device, Stream stream, std::deque<ArrayInfo>& arrays, const Launchers& launchers) {
    std::vector<simt::Buffer> buffers;
    for (const ArrayInfo& array : arrays) buffers.push_back(buffer_of(array, device));
    simt::Session session(device, std::move(buffers));
    for (std::size_t i = 0; i < arrays.size(); ++i) arrays[i].kernel_pointer = session[i];
    launchers(stream);
    session.finish();
}

void order(int, Stream, Stream) {} // a launch has ended when it returns

int device_count() { return simt::kDevices; }

bool multiplies(int, Unit unit) { return unit != Unit::winograd; }

void register_platform(py::module_& module) {
    module.def("empty", &empty, "shape"_a, "dtype"_a, "device"_a,
               "Uninitialised memory of an emulated device, as a NumPy array.");
    module.def("device_of", &device_of, "array"_a,
               "The emulated device whose memory the array is; -1 for the host's.");
    module.def("enable_peers", &enable_peers, "device"_a, "peer"_a,
               "Lets kernels on `device` touch the memory of `peer`.");
    module.def("set_schedule", &simt::set_schedule, "seed"_a, "cuts"_a = false,
               "Order of blocks and threads: 0 is the natural one, another seed a permutation; and "
               "whether tensor cores cut the sums of products as a card does.");
    module.def("launch_count", &simt::launch_count, "Kernels launched so far in this process.");
#if defined(SIMT_CHECK)
    module.def("barriers_met", &simt::barriers_met, "Every barrier met so far, as 'file:line'.");
    module.def("leave_out_barrier", &simt::leave_out_barrier, "file_and_line"_a,
               "Makes one barrier do nothing, for the mutation test; '' puts all back.");
    module.def("shorten_buffer", &simt::shorten_buffer, "name"_a,
               "Puts the last element of the buffers of this name out of bounds, for the bounds "
               "test; '' puts all back.");
    module.def("begin_lint", &simt::begin_lint,
               "Counts from now on what the requests of warps cost. Slow.");
    module.def("end_lint", &end_lint,
               "Counts no more. Returns (line, array, 'global' or 'shared', 'read' or 'write', "
               "bytes a lane, requests, sectors or passes, the fewest possible) for each line.");
#endif
}

} // namespace pyalexnet

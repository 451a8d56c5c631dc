// The extension modules, which differ in the platform linked to them: one file has the entries of
// all, since each file that includes pybind11 takes long to compile.
#include "array.hpp"

#include "simt/error.hpp"

namespace pyalexnet {
namespace {

void define_all(py::module_& m) {
    py::register_local_exception<simt::Error>(m, "KernelError", PyExc_RuntimeError);
    register_platform(m);
    m.def(
        "has_hopper", [](int device) { return multiplies(device, Unit::wgmma); }, "device"_a,
        "Whether this device can do what Hopper alone has, and the module has code for it.");
    py::class_<Recording, std::shared_ptr<Recording>>(
        m, "Recording", py::module_local(),
        "Calls that were checked once: an op that gets one in place of a stream is added to it.")
        .def(py::init<>())
        .def("set_aside", &Recording::set_aside, "aside"_a,
             "Whether the calls that follow may run beside those that come after them.")
        .def("run", &Recording::run, "stream"_a, "beside"_a,
             "Launches everything on the stream with this address, in the order of the calls; what "
             "was set aside on the other, where that is another.")
        .def("__len__", &Recording::size);
    for (const Ops::Define family : Ops::all()) family(m);
}

} // namespace
} // namespace pyalexnet

PYBIND11_MODULE(_cpu, m) { pyalexnet::define_all(m); }
PYBIND11_MODULE(_cpu_v3, m) { pyalexnet::define_all(m); }
PYBIND11_MODULE(_cpu_v4, m) { pyalexnet::define_all(m); }
PYBIND11_MODULE(_sim, m) { pyalexnet::define_all(m); }
PYBIND11_MODULE(_simcheck, m) { pyalexnet::define_all(m); }
PYBIND11_MODULE(_cuda, m) { pyalexnet::define_all(m); }

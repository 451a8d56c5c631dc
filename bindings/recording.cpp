#include "array.hpp"
#include "register.hpp"

namespace pyalexnet {

void register_recording(py::module_& m) {
    py::class_<Recording, std::shared_ptr<Recording>>(
        m, "Recording", py::module_local(),
        "Calls that were checked once: an op that gets one in place of a stream is added to it.")
        .def(py::init<>())
        .def("run", &Recording::run, py::arg("stream"),
             "Launches everything on the stream with this address, in the order of the calls.")
        .def("__len__", &Recording::size);
}

} // namespace pyalexnet

#include "array.hpp"
#include "register.hpp"

namespace pyalexnet {

void register_recording(py::module_& m) {
    py::class_<Recording, std::shared_ptr<Recording>>(
        m, "Recording", py::module_local(),
        "Calls that were checked once: an op that gets one in place of a stream is added to it.")
        .def(py::init<>())
        .def("set_aside", &Recording::set_aside, py::arg("aside"),
             "Whether the calls that follow may run beside those that come after them.")
        .def("run", &Recording::run, py::arg("stream"), py::arg("beside"),
             "Launches everything on the stream with this address, in the order of the calls; what "
             "was set aside on the other, where that is another.")
        .def("__len__", &Recording::size);
}

} // namespace pyalexnet

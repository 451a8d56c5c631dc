// The extension modules, which differ in what is linked to them: each has the entries of all, since
// compiling an entry takes as long as compiling any file that includes pybind11.
#include "array.hpp"
#include "register.hpp"

#include "simt/error.hpp"

namespace pyalexnet {
namespace {

void register_all(py::module_& m) {
    pybind11::register_local_exception<simt::Error>(m, "KernelError", PyExc_RuntimeError);
    register_platform(m);
    register_recording(m);
    register_augment(m);
    register_depth(m);
    register_conv(m);
    register_linear(m);
    register_activation(m);
    register_lrn(m);
    register_rnorm(m);
    register_pool(m);
    register_lrn_pool(m);
    register_dropout(m);
    register_softmax(m);
    register_sgd(m);
    register_exchange(m);
}

} // namespace
} // namespace pyalexnet

PYBIND11_MODULE(_cpu, m) { pyalexnet::register_all(m); }
PYBIND11_MODULE(_cpu_v3, m) { pyalexnet::register_all(m); }
PYBIND11_MODULE(_cpu_v4, m) { pyalexnet::register_all(m); }
PYBIND11_MODULE(_sim, m) { pyalexnet::register_all(m); }
PYBIND11_MODULE(_simcheck, m) { pyalexnet::register_all(m); }
PYBIND11_MODULE(_cuda, m) { pyalexnet::register_all(m); }

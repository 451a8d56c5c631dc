// The extension module: _sim, _simcheck or _cuda, by what it is compiled with.
#include "array.hpp"
#include "register.hpp"

#include "simt/error.hpp"

PYBIND11_MODULE(PYALEXNET_MODULE, m) {
    using namespace pyalexnet;
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

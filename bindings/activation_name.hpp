#pragma once

#include "array.hpp"

namespace pyalexnet {

// The neuron that Python names: None, "relu" or "tanh".
inline Activation activation_of(const Call& call, const py::object& name) {
    if (name.is_none()) return Activation::none;
    if (name.equal(py::str("relu"))) return Activation::relu;
    if (name.equal(py::str("tanh"))) return Activation::tanh;
    call.refuse("activation is " + std::string(py::repr(name)) +
                "; None, 'relu' or 'tanh' was expected");
}

} // namespace pyalexnet

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

// What multiplies, by its name in Python.
inline Unit unit_of(const Call& call, const std::string& name) {
    if (name == "fma") return Unit::fma;
    if (name == "mma") return Unit::mma;
    if (name == "wgmma") return Unit::wgmma;
    if (name == "winograd") return Unit::winograd;
    call.refuse("unit is '" + name + "'; 'fma', 'mma', 'wgmma' or 'winograd' was expected");
}

// The same, checked against the device, which the kernels would do too late.
inline Unit unit_of(const Call& call, const std::string& name, int device) {
    const Unit unit = unit_of(call, name);
    call.expect(multiplies(device, unit), "unit is '" + name + "'; device " +
                                              std::to_string(device) +
                                              " has none, or the module was built without it");
    return unit;
}

} // namespace pyalexnet

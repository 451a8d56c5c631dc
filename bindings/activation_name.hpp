#pragma once

#include "array.hpp"

namespace pyalexnet {

// The neuron that Python names: None, "relu" or "tanh".
inline Activation activation_of(const Call& call, const py::object& name) {
    if (name.is_none()) return Activation::none;
    const auto text = py::str(name).cast<std::string>();
    if (text == "relu") return Activation::relu;
    if (text == "tanh") return Activation::tanh;
    call.refuse("activation is '" + text + "'; None, 'relu' or 'tanh' was expected");
}

} // namespace pyalexnet

// What a NumPy array says about itself, for the platforms whose arrays are NumPy's.
#pragma once

#include "array.hpp"

#include <pybind11/numpy.h>

#include <stdexcept>

namespace pyalexnet {

// All but the device.
inline Given describe_numpy(py::handle object) {
    if (!py::isinstance<py::array>(object))
        throw std::invalid_argument("is " + std::string(py::str(py::type::of(object))) +
                                    "; a NumPy array was expected");
    const auto array = py::reinterpret_borrow<py::array>(object);
    const py::dtype type = array.dtype();
    Given given;
    given.pointer = const_cast<void*>(array.data());
    given.kind = type.byteorder() == '>' ? '>' : is_bfloat16(object) ? 'b' : type.kind();
    given.element_bytes = static_cast<std::size_t>(type.itemsize());
    given.shape.assign(array.shape(), array.shape() + array.ndim());
    given.contiguous = (array.flags() & py::array::c_style) != 0;
    given.writable = array.writeable();
    return given;
}

} // namespace pyalexnet

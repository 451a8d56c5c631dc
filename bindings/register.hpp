// For each family of ops, the function that adds it to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace pyalexnet {

void register_recording(pybind11::module_& m);
void register_augment(pybind11::module_& m);
void register_depth(pybind11::module_& m);
void register_conv(pybind11::module_& m);
void register_linear(pybind11::module_& m);
void register_activation(pybind11::module_& m);
void register_lrn(pybind11::module_& m);
void register_rnorm(pybind11::module_& m);
void register_pool(pybind11::module_& m);
void register_lrn_pool(pybind11::module_& m);
void register_dropout(pybind11::module_& m);
void register_softmax(pybind11::module_& m);
void register_sgd(pybind11::module_& m);
void register_exchange(pybind11::module_& m);

} // namespace pyalexnet

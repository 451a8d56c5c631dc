#include "product.hpp"

namespace pyalexnet {
namespace {

const Ops linear_ops([](py::module_& m) { Product<2>::define_all(m, "linear"); });

} // namespace
} // namespace pyalexnet

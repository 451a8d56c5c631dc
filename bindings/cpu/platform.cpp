// The processor itself: arrays are NumPy's, used in place, and a launch has ended when it returns.
#include "array.hpp"
#include "cpu/levels.hpp"

#include "simt/threads.hpp"

#include <algorithm>
#include <stdexcept>

namespace pyalexnet {
namespace {

bool set_workers(int count) {
    if (count < 1) throw py::value_error("set_workers: count is " + std::to_string(count));
    return simt::set_workers(count);
}

void use_workers(int count) {
    if (count < 1 || count > simt::workers())
        throw py::value_error("use_workers: count is " + std::to_string(count) + "; there are " +
                              std::to_string(simt::workers()));
    simt::use_workers(count);
}

// Modules for this processor, from the least to the most: (the suffix after _cpu in its name, its
// instruction set).
auto modules() {
    auto found = levels();
#if defined(PYALEXNET_ONLY_SET) // compiled on one machine for itself
    if (std::none_of(found.begin(), found.end(),
                     [](const auto& level) { return level.second == PYALEXNET_ONLY_SET; }))
        throw std::runtime_error("it was compiled for " PYALEXNET_ONLY_SET
                                 ", which this processor has not");
    found = {{"", PYALEXNET_ONLY_SET}};
#endif
    return found;
}

} // namespace

ArrayInfo describe(py::handle object) { return describe_numpy(object); }

void run(int, Stream stream, std::deque<ArrayInfo>& arrays, const Launchers& launchers) {
    for (ArrayInfo& array : arrays) array.kernel_pointer = array.pointer;
    launchers(stream);
}

void order(int, Stream, Stream) {}

int device_count() { return 2; } // for two towers

bool multiplies(int, Unit unit) { return unit == Unit::fma || unit == Unit::winograd; }

void register_platform(py::module_& module) {
    module.def("levels", &modules,
               "(suffix of the module's name, instruction set) of each that this processor has.");
    module.def("workers", &simt::workers, "Cores that operations are shared out to, at most.");
    module.def("set_workers", &set_workers, "count"_a,
               "Says how many, before the first operation; whether there are as many now.");
    module.def("use_workers", &use_workers, "count"_a,
               "Shares the next operations out to fewer of them.");
}

} // namespace pyalexnet

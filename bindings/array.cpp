#include "array.hpp"

#include <pybind11/numpy.h>

#include <limits>
#include <stdexcept>

namespace pyalexnet {
namespace {

std::string type_text(char kind, std::size_t element_bytes) {
    const std::string bits = std::to_string(8 * element_bytes);
    if (kind == 'f') return "float" + bits;
    if (kind == 'b') return element_bytes == 1 ? "bool" : "bfloat16";
    if (kind == 'i') return "int" + bits;
    if (kind == 'u') return "uint" + bits;
    if (kind == '>') return ">" + std::to_string(element_bytes) + " (big-endian)";
    return "dtype kind '" + std::string(1, kind) + "' of " + bits + " bits";
}

bool overlap(const ArrayInfo& a, const ArrayInfo& b) {
    const auto* a_begin = static_cast<const char*>(a.pointer);
    const auto* b_begin = static_cast<const char*>(b.pointer);
    return a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

bool written(const ArrayInfo& array) { return array.access > Access::peer; }

} // namespace

std::vector<Ops::Define>& Ops::all() {
    static std::vector<Define> families;
    return families;
}

std::int64_t ArrayInfo::size() const {
    std::int64_t product = 1;
    for (const std::int64_t extent : shape) product *= extent;
    return product;
}

std::string shape_text(const Extents& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i)
        text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

bool is_bfloat16(handle object) {
    const py::object type = py::getattr(object, "dtype", py::none());
    // NumPy builds the names of its own types anew each time, in Python; none of these is void.
    const py::object kind = py::getattr(type, "kind", py::none());
    if (py::isinstance<py::str>(kind) && kind.cast<std::string>() != "V") return false;
    const py::object name = py::getattr(type, "name", py::none());
    return py::isinstance<py::str>(name) && name.cast<std::string>() == "bfloat16";
}

ArrayInfo describe_numpy(handle object) {
    if (!py::isinstance<py::array>(object))
        throw std::invalid_argument("is " + std::string(py::str(py::type::of(object))) +
                                    "; a NumPy array was expected");
    const auto numpy = py::reinterpret_borrow<py::array>(object);
    const py::dtype type = numpy.dtype();
    ArrayInfo array;
    array.pointer = const_cast<void*>(numpy.data());
    array.kind = type.byteorder() == '>' ? '>' : is_bfloat16(object) ? 'b' : type.kind();
    array.element_bytes = static_cast<std::size_t>(type.itemsize());
    array.shape.assign(numpy.shape(), numpy.shape() + numpy.ndim());
    array.contiguous = (numpy.flags() & py::array::c_style) != 0;
    array.writable = numpy.writeable();
    return array;
}

void Recording::add(Checked call) {
    call.aside = aside_;
    calls_.push_back(std::move(call));
}

void Recording::run(std::uintptr_t stream, std::uintptr_t beside) const {
    const py::gil_scoped_release unlocked;
    const auto main = reinterpret_cast<Stream>(stream), side = reinterpret_cast<Stream>(beside);
    bool any_aside = false;
    for (const Checked& call : calls_) {
        const bool aside = call.aside && side != main;
        if (aside) order(call.device, main, side);
        any_aside = any_aside || aside;
        pyalexnet::run(call.device, aside ? side : main, *call.arrays, call.launchers);
    }
    if (any_aside) order(calls_.front().device, side, main);
}

Call::Call(const char* op, const Place& place)
    : op_(op), device_(std::get<0>(place)), target_(std::get<1>(place)),
      workspace_(std::get<2>(place)), arrays_(std::make_shared<std::deque<ArrayInfo>>()) {
    const int count = device_count();
    if (device_ < 0 || device_ >= count)
        refuse("device is " + std::to_string(device_) + "; there are " + std::to_string(count));
    const auto* recording = std::get_if<std::shared_ptr<Recording>>(&target_);
    expect(!recording || *recording, "stream is None; its address or a Recording was expected");
}

void Call::refuse(const std::string& message) const {
    throw py::value_error(std::string(op_) + ": " + message);
}

int Call::extent(const char* what, std::int64_t value, std::int64_t least) const {
    if (value < least || value > std::numeric_limits<int>::max())
        refuse(std::string(what) + " is " + std::to_string(value) + "; " + std::to_string(least) +
               " to 2,147,483,647 was expected");
    return static_cast<int>(value);
}

void Call::expect_countable(const char* what, std::int64_t count) const {
    constexpr std::int64_t most = std::numeric_limits<int>::max() - 1023;
    if (count > most)
        refuse("there are " + std::to_string(count) + " " + what + "; at most " +
               std::to_string(most) + " were expected");
}

const ArrayInfo& Call::take(const std::string& name, handle object, Element element,
                            const Expected& expected, Access access) {
    ArrayInfo array;
    const auto require = [&](bool holds, auto rest) { // builds the sentence only if it is needed
        array.name = name;
        array.access = access;
        if (!holds) refuse(array.title() + " " + rest());
    };
    try {
        array = describe(object);
    } catch (const std::invalid_argument& error) {
        require(false, [&] { return error.what(); });
    }
    const auto shape = [&] { return "has shape " + shape_text(array.shape); };
    require(array.kind == element.kind && array.element_bytes == element.bytes, [&] {
        return "is " + type_text(array.kind, array.element_bytes) + "; " +
               type_text(element.kind, element.bytes) + " was expected";
    });
    for (std::size_t axis = 0; axis < array.shape.size(); ++axis)
        require(array.shape[axis] > 0, [&] {
            return shape() + ", so dimension " + std::to_string(axis) +
                   " is 0; at least 1 was expected";
        });
    require(!expected.rank || static_cast<std::size_t>(*expected.rank) == array.shape.size(), [&] {
        return shape() + "; " + std::to_string(*expected.rank) + " axes were expected";
    });
    require(!expected.exact || *expected.exact == array.shape,
            [&] { return shape() + "; " + shape_text(*expected.exact) + " was expected"; });
    require(array.contiguous, [] { return "is strided; a C-contiguous array was expected"; });
    require(reinterpret_cast<std::uintptr_t>(array.pointer) % element.bytes == 0, [&] {
        return "does not begin at a multiple of " + std::to_string(element.bytes) + " bytes";
    });
    require(!written(array) || array.writable,
            [] { return "is read-only; a writable array was expected"; });
    require(array.device < 0 || access == Access::peer || array.device == device_, [&] {
        return "lies on another device, " + std::to_string(array.device) + "; device " +
               std::to_string(device_) + " was expected";
    });
    for (const ArrayInfo& other : *arrays_) {
        if ((!written(array) && !written(other)) || !overlap(array, other)) continue;
        // Exactly the same elements are allowed if the op may work in place.
        const bool in_place = array.access == Access::in_place || other.access == Access::in_place;
        require(in_place && array.pointer == other.pointer && array.bytes() == other.bytes(),
                [&] { return "overlaps " + other.title() + "; memory of its own was expected"; });
    }
    array.owner = py::reinterpret_borrow<py::object>(object);
    arrays_->push_back(std::move(array));
    return arrays_->back();
}

Array<float> Call::scratch(std::size_t bytes) {
    if (bytes == 0) return Array<float>(nullptr);
    const py::object object = workspace_(bytes);
    const ArrayInfo& array = take<std::uint8_t>("workspace", object, 1, Access::scratch);
    expect(array.bytes() >= bytes, "workspace has " + std::to_string(array.bytes()) + " bytes; " +
                                       std::to_string(bytes) + " were expected");
    expect(reinterpret_cast<std::uintptr_t>(array.pointer) % 16 == 0,
           "workspace does not begin at a multiple of 16 bytes");
    ArrayInfo& own = arrays_->back();
    own.kind = 'f'; // launchers keep partial sums there
    own.element_bytes = sizeof(float);
    own.shape = {static_cast<std::int64_t>((bytes + sizeof(float) - 1) / sizeof(float))};
    return Array<float>(&own);
}

template <class Number>
NumberArgument<Number> Call::number(const std::string& name, handle object) {
    constexpr bool floats = std::is_floating_point_v<Number>;
    const bool given =
        py::isinstance<py::int_>(object) || (floats && py::isinstance<py::float_>(object));
    if (!given) return {input<Number>(name, object, 0), Number{}};
    const double value = PyFloat_AsDouble(object.ptr());
    const bool beyond = PyErr_Occurred(); // every double
    PyErr_Clear();
    if (beyond && floats) refuse(name + " is too large for a float");
    if (beyond || (!floats && (value < 0 || value > std::numeric_limits<std::uint32_t>::max())))
        refuse(name + " is " + std::string(py::str(object)) + "; 0 to 4,294,967,295 was expected");
    return {Array<const Number>(nullptr), static_cast<Number>(value)};
}
template NumberArgument<float> Call::number(const std::string&, handle);
template NumberArgument<std::uint32_t> Call::number(const std::string&, handle);

void Call::enqueue(Launchers launchers) {
    if (const auto* recording = std::get_if<std::shared_ptr<Recording>>(&target_))
        return (*recording)->add({device_, arrays_, std::move(launchers)});
    const py::gil_scoped_release unlocked;
    run(device_, reinterpret_cast<Stream>(std::get<std::uintptr_t>(target_)), *arrays_, launchers);
}

} // namespace pyalexnet

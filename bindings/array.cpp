#include "array.hpp"

#include <limits>
#include <stdexcept>

namespace pyalexnet {
namespace {

std::string type_text(char kind, std::size_t element_bytes) {
    const std::string bits = std::to_string(8 * element_bytes);
    if (kind == 'f') return "float" + bits;
    if (kind == 'b') return "bfloat16";
    if (kind == 'i') return "int" + bits;
    if (kind == 'u') return "uint" + bits;
    return "dtype kind '" + std::string(1, kind) + "' of " + bits + " bits";
}

std::string place_text(int device) {
    return device < 0 ? "host memory" : "device " + std::to_string(device);
}

bool overlap(const Given& a, const Given& b) {
    const auto* a_begin = static_cast<const char*>(a.pointer);
    const auto* b_begin = static_cast<const char*>(b.pointer);
    return a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

bool written(const Given& given) { return given.access != Access::read; }

} // namespace

std::int64_t Given::size() const {
    std::int64_t product = 1;
    for (const std::int64_t extent : shape) product *= extent;
    return product;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i)
        text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

bool is_bfloat16(py::handle object) {
    const py::object type = py::getattr(object, "dtype", py::none());
    // NumPy builds the names of its own types anew each time, in Python; none of these is void.
    const py::object kind = py::getattr(type, "kind", py::none());
    if (py::isinstance<py::str>(kind) && kind.cast<std::string>() != "V") return false;
    const py::object name = py::getattr(type, "name", py::none());
    return py::isinstance<py::str>(name) && name.cast<std::string>() == "bfloat16";
}

void Recording::add(int device, std::shared_ptr<std::deque<Given>> given, Launchers launchers) {
    calls_.push_back({device, aside_, std::move(given), std::move(launchers)});
}

void Recording::run(std::uintptr_t stream, std::uintptr_t beside) const {
    const py::gil_scoped_release unlocked;
    const auto main = reinterpret_cast<Stream>(stream), side = reinterpret_cast<Stream>(beside);
    bool any_aside = false;
    for (const Recorded& call : calls_) {
        const bool aside = call.aside && side != main;
        if (aside) order(call.device, main, side);
        any_aside = any_aside || aside;
        pyalexnet::run(call.device, aside ? side : main, *call.given, call.launchers);
    }
    if (any_aside) order(calls_.front().device, side, main);
}

Call::Call(const char* op, const Place& place)
    : op_(op), device_(std::get<0>(place)), target_(std::get<1>(place)),
      workspace_(std::get<2>(place)), given_(std::make_shared<std::deque<Given>>()) {
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
    expect(count <= most, "there are " + std::to_string(count) + " " + what + "; at most " +
                              std::to_string(most) + " were expected");
}

const Given& Call::take(const char* name, py::handle object, char kind, std::size_t element_bytes,
                        int rank, Access access, int device, Alias alias) {
    Given given;
    try {
        given = describe(object);
    } catch (const std::invalid_argument& error) {
        refuse(std::string(name) + " " + error.what());
    }
    given.name = name;
    given.access = access;
    given.alias = alias;
    const auto require = [&](bool holds, auto rest) { // builds the sentence only if it is needed
        if (!holds) refuse(std::string(name) + " " + rest());
    };
    const auto shape = [&] { return "has shape " + shape_text(given.shape); };
    require(given.kind == kind && given.element_bytes == element_bytes, [&] {
        return "is " + type_text(given.kind, given.element_bytes) + "; " +
               type_text(kind, element_bytes) + " was expected";
    });
    require(rank == kAnyRank || static_cast<int>(given.shape.size()) == rank,
            [&] { return shape() + "; " + std::to_string(rank) + " axes were expected"; });
    require(given.contiguous, [] { return "is not C-contiguous"; });
    require(reinterpret_cast<std::uintptr_t>(given.pointer) % element_bytes == 0, [&] {
        return "does not begin at a multiple of " + std::to_string(element_bytes) + " bytes";
    });
    require(access == Access::read || given.writable,
            [] { return "is read-only; the result goes there"; });
    require(given.device < 0 || device == kAnyDevice || given.device == device, [&] {
        return "is on " + place_text(given.device) + "; the op runs on " + place_text(device);
    });
    for (const std::int64_t extent : given.shape)
        require(extent > 0, [&] { return shape() + ", which is empty"; });
    given.owner = py::reinterpret_borrow<py::object>(object);
    given_->push_back(std::move(given));
    return given_->back();
}

Array<float> Call::scratch(std::size_t bytes) {
    if (bytes == 0) return Array<float>(nullptr);
    const py::object object = workspace_(bytes);
    const Given& given =
        take<std::uint8_t>("workspace", object, 1, Access::scratch, device_, Alias::refused);
    expect(given.bytes() >= bytes, "workspace has " + std::to_string(given.bytes()) + " bytes; " +
                                       std::to_string(bytes) + " were expected");
    expect(reinterpret_cast<std::uintptr_t>(given.pointer) % 16 == 0,
           "workspace does not begin at a multiple of 16 bytes");
    Given& own = given_->back();
    own.kind = 'f'; // launchers keep partial sums there
    own.element_bytes = sizeof(float);
    own.shape = {static_cast<std::int64_t>((bytes + sizeof(float) - 1) / sizeof(float))};
    return Array<float>(&own);
}

NumberArgument<float, Scalar> Call::scalar(const char* name, py::handle object) {
    if (py::isinstance<py::float_>(object) || py::isinstance<py::int_>(object)) {
        const double value = PyFloat_AsDouble(object.ptr());
        if (PyErr_Occurred()) { // an int beyond the range of double
            PyErr_Clear();
            refuse(std::string(name) + " is too large for a float");
        }
        return {Array<const float>(nullptr), static_cast<float>(value)};
    }
    return {input<const float>(name, object, 0), 0.0f};
}

NumberArgument<std::uint32_t, Counter> Call::counter(const char* name, py::handle object) {
    if (py::isinstance<py::int_>(object)) {
        int beyond = 0; // -1 or 1 if it does not fit 64 bits
        const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &beyond);
        expect(!beyond && value >= 0 && value <= std::numeric_limits<std::uint32_t>::max(),
               std::string(name) + " is " + std::string(py::str(object)) +
                   "; 0 to 4,294,967,295 was expected");
        return {Array<const std::uint32_t>(nullptr), static_cast<std::uint32_t>(value)};
    }
    return {input<const std::uint32_t>(name, object, 0), 0u};
}

// Working in place is fine (the very same elements, where the op allows it); a partial overlap is
// never meant.
void Call::refuse_overlaps() const {
    const std::deque<Given>& given = *given_;
    for (std::size_t i = 0; i < given.size(); ++i) {
        for (std::size_t j = i + 1; j < given.size(); ++j) {
            const Given& a = given[i];
            const Given& b = given[j];
            if ((!written(a) && !written(b)) || !overlap(a, b)) continue;
            const bool allowed = a.alias == Alias::allowed || b.alias == Alias::allowed;
            expect(allowed && a.pointer == b.pointer && a.bytes() == b.bytes(),
                   a.name + " and " + b.name + " lie in the same memory");
        }
    }
}

void Call::launch(Launchers launchers) {
    refuse_overlaps();
    if (const auto* recording = std::get_if<std::shared_ptr<Recording>>(&target_)) {
        (*recording)->add(device_, given_, std::move(launchers));
        return;
    }
    const auto stream = reinterpret_cast<Stream>(std::get<std::uintptr_t>(target_));
    const py::gil_scoped_release unlocked;
    run(device_, stream, *given_, launchers);
}

} // namespace pyalexnet

// From Python objects to pointers and shapes, or a refusal in a sentence.
//
// An op gets a Call, requests its arrays from it with their types and shapes, and launches.
// Whatever Python passes, a kernel gets memory of the right type, size and device, so it cannot
// read out of bounds.
#pragma once

#include "ops.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace pyalexnet {

namespace py = pybind11;
using py::handle;
using namespace py::literals;

using Extents = std::vector<std::int64_t>;

// How an op uses an array: it reads it, even on another device (peer); writes it, perhaps over an
// input (in_place); or both.
enum class Access { read, peer, write, in_place, read_write, scratch };

// An array argument: its memory, and what Python says of it.
struct ArrayInfo {
    std::string name;
    void* pointer = nullptr;
    void* kernel_pointer = nullptr; // its address for kernels, while they run
    char kind = 0;                  // f, i, u, as NumPy calls them; b: bfloat16
    std::size_t element_bytes = 0;
    Extents shape;
    bool contiguous = false;
    bool writable = false;
    int device = -1; // -1: memory of the host
    Access access = Access::read;
    py::object owner; // keeps the memory

    std::int64_t size() const;
    std::size_t bytes() const { return static_cast<std::size_t>(size()) * element_bytes; }
    // Its name in a refusal: to callers in Python a result is `out`.
    std::string title() const { return is_result() ? "out (" + name + ")" : name; }
    bool is_result() const { return access == Access::write || access == Access::in_place; }
};

std::string shape_text(const Extents& shape);

// Whether the object is an array of ml_dtypes' bfloat16, on any device.
bool is_bfloat16(handle object);

template <class T> class Array {
  public:
    explicit Array(const ArrayInfo* info) : info_(info) {}

    T* for_kernel() const { return info_ ? static_cast<T*>(info_->kernel_pointer) : nullptr; }
    // Its address in Python; kernels may use a copy with the same alignment.
    std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(info_->pointer); }
    std::int64_t size() const { return info_->size(); }
    std::int64_t dim(std::size_t axis) const { return info_->shape[axis]; }
    const Extents& shape() const { return info_->shape; }
    // For a refusal: "x has shape (2, 3)".
    std::string title() const { return info_->title(); }
    std::string shown() const { return title() + " has shape " + shape_text(shape()); }
    explicit operator bool() const { return info_ != nullptr; }

  private:
    const ArrayInfo* info_;
};

// A number, given as an argument or on the device, where a captured CUDA graph can change it.
template <class Number> struct NumberArgument {
    Array<const Number> on_device;
    Number value;
    Parameter<Number> for_kernel() const { return {on_device.for_kernel(), value}; }
};

// An argument as a launcher takes it: an array's pointer, a record's struct, or itself.
template <class A> auto for_kernel(const A& argument, int) -> decltype(argument.for_kernel()) {
    return argument.for_kernel();
}
template <class A> const A& for_kernel(const A& argument, long) { return argument; }

// The expected shape of an array: of any rank, of this rank, or exactly this shape.
struct Expected {
    Expected() = default;
    Expected(int axes) : rank(axes) {}
    Expected(Extents extents) : exact(std::move(extents)) {}

    std::optional<int> rank;
    std::optional<Extents> exact;
};

using Launchers = std::function<void(Stream)>;

// A checked call: its device, its arrays, and the function that launches kernels on them.
struct Checked {
    int device;
    std::shared_ptr<std::deque<ArrayInfo>> arrays; // a deque: its elements stay where they are
    Launchers launchers;
    bool aside = false;
};

// Calls that are checked once and launched many times, always with the same arrays.
class Recording {
  public:
    // Whether the calls that follow may run beside later ones: nothing later in the recording
    // touches what they write, or writes what they read.
    void set_aside(bool aside) { aside_ = aside; }
    void add(Checked call);
    // Launches all on `stream`, in order; calls set aside go on `beside`, if that is another
    // stream, after all earlier calls. Later work on `stream` waits for both.
    void run(std::uintptr_t stream, std::uintptr_t beside) const;
    std::size_t size() const { return calls_.size(); }

  private:
    std::vector<Checked> calls_;
    bool aside_ = false;
};

// The target of a call's launches: a stream (its address), at once, or a recording.
using Target = std::variant<std::uintptr_t, std::shared_ptr<Recording>>;

// The last argument of every op: the device, the target, and a function that returns scratch, an
// array of at least that many bytes.
using Place = std::tuple<int, Target, py::object>;

class Call {
  public:
    Call(const char* op, const Place& place);

    int device() const { return device_; }

    template <class T> Array<const T> input(const std::string& name, handle object,
                                            const Expected& shape = {},
                                            Access access = Access::read) {
        return Array<const T>(&take<T>(name, object, shape, access));
    }
    template <class T>
    Array<const T> optional_input(const std::string& name, handle object, const Expected& shape) {
        return object.is_none() ? Array<const T>(nullptr) : input<T>(name, object, shape);
    }
    template <class T> Array<T> output(const std::string& name, handle object,
                                       const Expected& shape = {}, Access access = Access::write) {
        return Array<T>(&take<T>(name, object, shape, access));
    }
    template <class T>
    Array<T> inout(const std::string& name, handle object, const Expected& shape = {}) {
        return output<T>(name, object, shape, Access::read_write);
    }
    // Scratch for the launcher, which is asked for only if `bytes` is above 0.
    Array<float> scratch(std::size_t bytes);

    // Of type float or std::uint32_t.
    template <class Number> NumberArgument<Number> number(const std::string& name, handle object);

    void expect(bool holds, const std::string& message) const {
        if (!holds) refuse(message);
    }
    template <class T> void expect_shape(const Array<T>& array, const Extents& shape) const {
        if (array.shape() != shape)
            refuse(array.shown() + "; " + shape_text(shape) + " was expected");
    }
    [[noreturn]] void refuse(const std::string& message) const;

    // A size that has to fit in an int, in which kernels count it.
    int extent(const char* what, std::int64_t value, std::int64_t least = 1) const;

    // Refuses a count too large for a matrix product, which counts in int, up to a tile beyond the
    // last.
    void expect_countable(const char* what, std::int64_t count) const;

    // An array's extents, each of which has to fit in an int.
    template <std::size_t rank, class X> std::array<int, rank> extents(const X& x) const {
        std::array<int, rank> found{};
        for (std::size_t axis = 0; axis < rank; ++axis) {
            found[axis] = static_cast<int>(x.dim(axis));
            if (found[axis] != x.dim(axis)) refuse(x.shown() + "; less than 2^31 was expected");
        }
        return found;
    }

    // Extents of maps (N, H, W, C), whose rows, and places within a row, have to fit in an int too.
    template <class X> std::array<int, 4> maps(const X& x) const {
        extent("rows of pixels", x.dim(0) * x.dim(1));
        extent("elements of a row of pixels", x.dim(2) * x.dim(3));
        return extents<4>(x);
    }

    // Calls `launcher` with the arguments and a stream, the arrays in place, or records this call,
    // which may then run after the op has returned. The GIL is released while it runs.
    template <class Launcher, class... Arguments>
    void launch(Launcher launcher, Arguments... arguments) {
        enqueue([=](Stream stream) { launcher(for_kernel(arguments, 0)..., stream); });
    }

  private:
    struct Element {
        char kind;
        std::size_t bytes;
    };

    template <class T> const ArrayInfo& take(const std::string& name, handle object,
                                             const Expected& shape, Access access) {
        constexpr char kind = std::is_same_v<T, bf16>       ? 'b'
                              : std::is_floating_point_v<T> ? 'f'
                              : std::is_signed_v<T>         ? 'i'
                                                            : 'u';
        return take(name, object, Element{kind, sizeof(T)}, shape, access);
    }
    const ArrayInfo& take(const std::string& name, handle object, Element element,
                          const Expected& shape, Access access);
    void enqueue(Launchers launchers);

    const char* op_;
    int device_;
    Target target_;
    py::object workspace_;
    std::shared_ptr<std::deque<ArrayInfo>> arrays_;
};

// Calls `use` with a value of the array's element type, if kernels exist for two: bf16 for
// bfloat16, else float, so that any other type is refused as not float32.
template <class Use> void with_element(handle array, Use use) {
    is_bfloat16(array) ? use(bf16{}) : use(float{});
}

// Calls `use` with that value, x, and the output y, both of that type and of one shape.
template <class Use>
void with_map(Call& call, handle x_, handle y_, const Expected& shape, Access access, Use use) {
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<T>("x", x_, shape);
        use(element, x, call.output<T>("y", y_, x.shape(), access));
    });
}

// The same for a gradient: with a map of forward (x or y, as `name` says), dy, and dx.
template <class Use> void with_gradient(Call& call, const char* name, handle map_, handle dy_,
                                        handle dx_, const Expected& shape, Access access, Use use) {
    with_element(map_, [&](auto element) {
        using T = decltype(element);
        const auto map = call.input<T>(name, map_, shape);
        const auto dy = call.input<T>("dy", dy_, map.shape());
        use(element, map, dy, call.output<T>("dx", dx_, map.shape(), access));
    });
}

// ---------------------------------------------------------------------- the module

// A file's ops: one of these at namespace scope adds them to the module.
class Ops {
  public:
    using Define = void (*)(py::module_&);
    explicit Ops(Define define) { all().push_back(define); }
    static std::vector<Define>& all();
};

// Adds an op: `body` gets a Call, and the arguments that are named here; Python passes the place
// after them.
template <class... Arguments, class... Names> void define(py::module_& m, const std::string& op,
                                                          void (*body)(Call&, Arguments...),
                                                          const Names&... names) {
    const auto function = [=](Arguments... arguments, const Place& place) {
        Call call(op.c_str(), place);
        body(call, arguments...);
    };
    m.def(op.c_str(), function, names..., "place"_a);
}

// ---------------------------------------------------------------------- per platform

// The object's own description (host_platform.cpp: NumPy; cuda_platform.cpp: the array interface of
// CuPy, PyTorch and others). Throws std::invalid_argument if it is not an array.
ArrayInfo describe(handle object);
ArrayInfo describe_numpy(handle object); // all but the device

// Puts the arrays in place and runs the launchers on the device.
void run(int device, Stream stream, std::deque<ArrayInfo>& arrays, const Launchers& launchers);

// Makes `second` wait for all work put on `first` so far.
void order(int device, Stream first, Stream second);

int device_count();

// Whether this device can multiply with this unit, and the module has code for it.
bool multiplies(int device, Unit unit);

// The module's functions besides the ops.
void register_platform(py::module_& module);

} // namespace pyalexnet

// From Python objects to pointers and shapes, or a refusal in a sentence.
//
// A binding opens a Call, takes its arrays from it, checks how their shapes relate to one another,
// and launches. Whatever Python passes, a kernel gets memory of the right type, size and device; so
// none of them can read out of bounds.
#pragma once

#include "ops.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace pyalexnet {

namespace py = pybind11;

enum class Access { read, write, read_write, scratch };
enum class Alias { refused, allowed };

// An array argument.
struct Given {
    std::string name;
    void* pointer = nullptr;
    void* placed = nullptr; // where kernels find it, while they run
    char kind = 0;          // f, i, u, as NumPy calls them; b: bfloat16
    std::size_t element_bytes = 0;
    std::vector<std::int64_t> shape;
    bool contiguous = false;
    bool writable = false;
    int device = -1; // -1: memory of the host
    Access access = Access::read;
    Alias alias = Alias::refused;
    py::object owner; // keeps the memory

    std::int64_t size() const;
    std::size_t bytes() const { return static_cast<std::size_t>(size()) * element_bytes; }
};

std::string shape_text(const std::vector<std::int64_t>& shape);

// Whether the object is an array of ml_dtypes' bfloat16, wherever it lies.
bool is_bfloat16(py::handle object);

template <class T> class Array {
  public:
    explicit Array(const Given* given) : given_(given) {}

    T* data() const { return given_ ? static_cast<T*>(given_->placed) : nullptr; }
    // Where it lies for Python: kernels may find a copy, which is aligned alike.
    std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(given_->pointer); }
    std::int64_t size() const { return given_ ? given_->size() : 0; }
    int rank() const { return static_cast<int>(given_->shape.size()); }
    // Extent of axis `i`; a negative one counts from the end.
    std::int64_t dim(int i) const {
        return given_->shape[static_cast<std::size_t>(i < 0 ? rank() + i : i)];
    }
    const std::vector<std::int64_t>& shape() const { return given_->shape; }
    std::string shape_text() const { return pyalexnet::shape_text(given_->shape); }
    template <class U> bool same_shape(const Array<U>& other) const {
        return shape() == other.shape();
    }
    explicit operator bool() const { return given_ != nullptr; }

  private:
    const Given* given_;
};

// A number, given as an argument or on the device, where a captured CUDA graph can change it.
template <class Number, class Argument> class NumberArgument {
  public:
    NumberArgument(Array<const Number> on_device, Number value)
        : on_device_(on_device), value_(value) {}
    Argument get() const { return {on_device_.data(), value_}; }

  private:
    Array<const Number> on_device_;
    Number value_;
};

using Launchers = std::function<void(Stream)>;

// Calls that were checked once and are launched many times, always with the same arrays.
class Recording {
  public:
    // Whether the calls that follow may run beside later ones: nothing later in the recording
    // touches what they write, or writes what they read.
    void set_aside(bool aside) { aside_ = aside; }
    void add(int device, std::shared_ptr<std::deque<Given>> given, Launchers launchers);
    // Launches all on `stream`, in order; calls set aside go on `beside`, if that is another
    // stream, after all that comes before them. What `stream` is given afterwards waits for both.
    void run(std::uintptr_t stream, std::uintptr_t beside) const;
    std::size_t size() const { return calls_.size(); }

  private:
    struct Recorded {
        int device;
        bool aside;
        std::shared_ptr<std::deque<Given>> given;
        Launchers launchers;
    };
    std::vector<Recorded> calls_;
    bool aside_ = false;
};

// Where a call's launches go: at once onto a stream (its address), or into a recording.
using Target = std::variant<std::uintptr_t, std::shared_ptr<Recording>>;

class Call {
  public:
    Call(const char* op, int device, const Target& target);

    static constexpr int kAnyRank = -1;

    template <class T> Array<T> input(const char* name, py::handle object, int rank = kAnyRank) {
        return Array<T>(&take<T>(name, object, rank, Access::read, device_, Alias::refused));
    }
    template <class T>
    Array<T> optional_input(const char* name, py::handle object, int rank = kAnyRank) {
        return object.is_none() ? Array<T>(nullptr) : input<T>(name, object, rank);
    }
    template <class T>
    Array<T> peer_input(const char* name, py::handle object, int rank = kAnyRank) {
        return Array<T>(&take<T>(name, object, rank, Access::read, kAnyDevice, Alias::refused));
    }
    template <class T> Array<T> output(const char* name, py::handle object,
                                       Alias alias = Alias::refused, int rank = kAnyRank) {
        return Array<T>(&take<T>(name, object, rank, Access::write, device_, alias));
    }
    template <class T> Array<T> output(const char* name, py::handle object, int rank) {
        return output<T>(name, object, Alias::refused, rank);
    }
    template <class T> Array<T> inout(const char* name, py::handle object, int rank = kAnyRank) {
        return Array<T>(&take<T>(name, object, rank, Access::read_write, device_, Alias::refused));
    }
    // Room of the size that <op>_workspace() gives; None where the launcher needs none.
    Array<float> scratch(const char* name, py::handle object, std::size_t bytes);

    NumberArgument<float, Scalar> scalar(const char* name, py::handle object);
    NumberArgument<std::uint32_t, Counter> counter(const char* name, py::handle object);

    void expect(bool holds, const std::string& message) const {
        if (!holds) refuse(message);
    }
    [[noreturn]] void refuse(const std::string& message) const;

    // A size that has to fit in an int, in which kernels count it.
    int extent(const char* what, std::int64_t value, std::int64_t least = 1) const;

    // Refuses more of something than a matrix product can count: it counts in int, and up to a tile
    // beyond the last one.
    void expect_countable(const char* what, std::int64_t count) const;

    // Runs the launchers with the arrays in place, or records them. They may be run after the
    // binding has returned: they capture by value. The GIL is released while they run.
    void launch(Launchers launchers);

  private:
    static constexpr int kAnyDevice = -2;

    template <class T> const Given& take(const char* name, py::handle object, int rank,
                                         Access access, int device, Alias alias);
    const Given& take(const char* name, py::handle object, char kind, std::size_t element_bytes,
                      int rank, Access access, int device, Alias alias);
    void refuse_overlaps() const;

    const char* op_;
    int device_;
    Target target_;
    std::shared_ptr<std::deque<Given>> given_; // a deque: arrays point into it
};

template <class T> const Given& Call::take(const char* name, py::handle object, int rank,
                                           Access access, int device, Alias alias) {
    using Element = std::remove_const_t<T>;
    constexpr char kind = std::is_same_v<Element, bf16>       ? 'b'
                          : std::is_floating_point_v<Element> ? 'f'
                          : std::is_signed_v<Element>         ? 'i'
                                                              : 'u';
    return take(name, object, kind, sizeof(Element), rank, access, device, alias);
}

// Calls `use` with a value of the type of the array's elements, where kernels exist for two: bf16
// where it is bfloat16, else float, so that any other type is refused as not float32.
template <class Use> void with_element(py::handle array, Use use) {
    is_bfloat16(array) ? use(bf16{}) : use(float{});
}

// ---------------------------------------------------------------------- per platform

// What the object says about itself (host_platform.cpp: NumPy; cuda_platform.cpp: the array
// interface of CuPy, PyTorch and others). Throws std::invalid_argument if it is not an array.
Given describe(py::handle object);

// Puts the arrays in place and runs the launchers on the device.
void run(int device, Stream stream, std::deque<Given>& given, const Launchers& launchers);

// Makes `second` wait for all that `first` has been given so far.
void order(int device, Stream first, Stream second);

int device_count();

// Whether the module has code with which this device can multiply so.
bool multiplies(int device, Unit unit);

// What the module offers besides the ops.
void register_platform(py::module_& module);

} // namespace pyalexnet

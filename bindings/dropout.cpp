#include "register.hpp"
#include "same_shape.hpp"

#include <limits>

namespace pyalexnet {
namespace {

void dropout_op(const py::object& x_, const py::object& y_, double keep, std::uint64_t seed,
                const py::object& step_, std::uint32_t layer, std::int64_t offset,
                std::int64_t total, int device, const Target& target) {
    Call call("dropout", device, target);
    with_element(x_, [&](auto element) {
        using T = decltype(element);
        const auto x = call.input<const T>("x", x_);
        const auto y = call.output<T>("y", y_, Alias::allowed);
        expect_same_shape(call, "x", x, "y", y);
        call.expect(x.rank() >= 1, "x has no axes; (images, ...) was expected");
        const std::int64_t images = x.dim(0);
        const std::int64_t features = x.size() / images;
        call.expect(0.0 <= keep && keep <= 1.0,
                    "keep is " + std::to_string(keep) + "; 0 to 1 was expected");
        call.expect(offset >= 0 && total >= features && offset <= total - features,
                    "offset is " + std::to_string(offset) + "; the " + std::to_string(features) +
                        " features of an image were expected to lie within total, " +
                        std::to_string(total));
        call.expect(total <= std::numeric_limits<std::int64_t>::max() / images,
                    "total is " + std::to_string(total) + "; times " + std::to_string(images) +
                        " images it does not fit 63 bits");
        const auto step = call.counter("step", step_);
        call.launch([=](Stream s) {
            dropout(x.data(), y.data(), images, features,
                    {keep, seed, step.get(), layer, offset, total}, s);
        });
    });
}

} // namespace

void register_dropout(py::module_& m) { m.def("dropout", &dropout_op); }

} // namespace pyalexnet

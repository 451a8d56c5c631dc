#include "draw.hpp"
#include "register.hpp"
#include "same_shape.hpp"

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
        const DrawArgument draw(call, keep, seed, step_, layer, offset, total, images, features);
        call.launch(
            [=](Stream s) { dropout(x.data(), y.data(), images, features, draw.get(), s); });
    });
}

} // namespace

void register_dropout(py::module_& m) { m.def("dropout", &dropout_op); }

} // namespace pyalexnet

#include "records.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

void dropout_op(const py::object& x_, const py::object& y_, const MaskGiven& mask_,
                const Place& place) {
    Call call("dropout", place);
    with_map(call, x_, y_, Alias::allowed, Call::kAnyRank, [&](auto x, auto y) {
        call.expect(x.rank() >= 1, "x has no axes; (images, ...) was expected");
        const std::int64_t images = x.dim(0);
        const std::int64_t features = x.size() / images;
        const MaskArgument mask(call, mask_, images, features);
        call.expect(mask.factor() == 1.0f, "factor is " + std::to_string(mask.factor()) +
                                               "; 1 was expected: nothing is rescaled");
        call.launch(
            [=](Stream s) { dropout(x.data(), y.data(), images, features, mask.get(), s); });
    });
}

} // namespace

void register_dropout(py::module_& m) {
    m.def("dropout", &dropout_op, "x"_a, "y"_a, "mask"_a, "place"_a);
}

} // namespace pyalexnet

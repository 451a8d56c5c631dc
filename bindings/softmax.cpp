#include "maps.hpp"
#include "register.hpp"

namespace pyalexnet {
namespace {

void softmax_cross_entropy_op(const py::object& logits_, const py::object& labels_,
                              const py::object& loss_, const py::object& dlogits_,
                              const py::object& top1_, const py::object& top5_,
                              const Place& place) {
    Call call("softmax_cross_entropy", place);
    with_element(dlogits_, [&](auto element) {
        using T = decltype(element);
        const auto logits = call.input<const float>("logits", logits_, 2);
        const auto labels = call.input<const std::int64_t>("labels", labels_, 1);
        const auto loss = call.output<float>("loss", loss_, 0);
        const auto dlogits = call.output<T>("dlogits", dlogits_, 2);
        const auto top1 = call.output<float>("top1", top1_, 0);
        const auto top5 = call.output<float>("top5", top5_, 0);
        expect_same_shape(call, "logits", logits, "dlogits", dlogits);
        const std::int64_t rows = logits.dim(0);
        const int classes = call.extent("classes", logits.dim(1));
        call.expect(labels.dim(0) == rows, "labels has shape " + labels.shape_text() +
                                               "; logits has " + std::to_string(rows) + " rows");
        const auto scratch = call.scratch(softmax_cross_entropy_workspace(rows));
        call.launch([=](Stream s) {
            softmax_cross_entropy(logits.data(), labels.data(), loss.data(), dlogits.data(),
                                  top1.data(), top5.data(), rows, classes, scratch.data(), s);
        });
    });
}

} // namespace

void register_softmax(py::module_& m) {
    m.def("softmax_cross_entropy", &softmax_cross_entropy_op, "logits"_a, "labels"_a, "loss"_a,
          "dlogits"_a, "top1"_a, "top5"_a, "place"_a);
}

} // namespace pyalexnet

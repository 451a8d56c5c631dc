#include "array.hpp"

namespace pyalexnet {
namespace {

void softmax_op(Call& call, handle logits_, handle labels_, handle loss_, handle dlogits_,
                handle top1_, handle top5_) {
    with_element(dlogits_, [&](auto element) {
        using T = decltype(element);
        const auto logits = call.input<float>("logits", logits_, 2);
        const std::int64_t rows = logits.dim(0);
        const auto labels = call.input<std::int64_t>("labels", labels_, Extents{rows});
        const auto loss = call.output<float>("loss", loss_, 0);
        const auto dlogits = call.output<T>("dlogits", dlogits_, logits.shape());
        const auto top1 = call.output<float>("top1", top1_, 0);
        const auto top5 = call.output<float>("top5", top5_, 0);
        const int classes = call.extent("classes", logits.dim(1));
        const auto scratch = call.scratch(softmax_cross_entropy_workspace(rows));
        call.launch(softmax_cross_entropy<T>, logits, labels, loss, dlogits, top1, top5, rows,
                    classes, scratch);
    });
}

const Ops softmax_ops([](py::module_& m) {
    define(m, "softmax_cross_entropy", softmax_op, "logits"_a, "labels"_a, "loss"_a, "dlogits"_a,
           "top1"_a, "top5"_a);
});

} // namespace
} // namespace pyalexnet

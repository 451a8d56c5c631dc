// Momentum SGD with the paper's update, and weights split into halves and joined (ops.h).
#include "cpu/epilogue.hpp"
#include "simt/threads.hpp"

namespace pyalexnet {
namespace cpu {
namespace {

// Calls work(first, count) for up to a vector of elements at a time. Bound by bytes.
template <class Work> void by_vectors_of(std::int64_t elements, const Work& work) {
    constexpr std::int64_t kPiece = 1 << 14;
    simt::parallel(quotient_up(elements, kPiece), [&](std::int64_t piece, int) {
        const std::int64_t end = std::min(elements, (piece + 1) * kPiece);
        std::int64_t first = piece * kPiece;
        for (; first + kLanes <= end; first += kLanes) work(first, kLanes);
        if (first < end) work(first, static_cast<int>(end - first));
    });
}

} // namespace
} // namespace cpu

template <class T>
void sgd_update(Learned<T> w, const float* dw, std::int64_t count, Rule rule, Stream) {
    const Momentum momentum = read_rule(rule);
    if (momentum.freezes()) return;
    cpu::by_vectors_of(count, [&](std::int64_t i, int n) {
        cpu::learn(momentum, w, i, n, cpu::load_up_to(dw + i, n));
    });
}

void split_weights(const float* w, bf16* high, std::uint16_t* low, std::int64_t count, Stream) {
    cpu::by_vectors_of(count, [&](std::int64_t i, int n) {
        cpu::split(cpu::load_up_to(w + i, n), high + i, low + i, n);
    });
}

void join_weights(const bf16* high, const std::uint16_t* low, float* w, std::int64_t count,
                  Stream) {
    cpu::by_vectors_of(count, [&](std::int64_t i, int n) {
        cpu::store_up_to(w + i, cpu::joined(high + i, low + i, n), n);
    });
}

PYALEXNET_FOR_ELEMENTS(sgd_update);

} // namespace pyalexnet

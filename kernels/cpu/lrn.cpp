// Local response normalisation across channels (paper, section 3.3). A piece is some rows. Bound by
// bytes: dgrad recomputes s; fprop does not store it.
#include "cpu/lrn_rows.hpp"

namespace pyalexnet {
namespace {

// Calls work(first element of the row, its channel) for every element.
template <class Work> void by_elements(std::int64_t rows, int length, const Work& work) {
    simt::parallel(rows, [&](std::int64_t row, int) {
        for (int c = 0; c < length; ++c) work(row * length, c);
    });
}

} // namespace

template <class T> void lrn_fprop(const T* x, T* y, std::int64_t pixels, int channels, int groups,
                                  ResponseNorm norm, Stream) {
    const int length = channels / groups;
    const cpu::FarReaching far(norm, length);
    if (far.needed()) {
        return by_elements(pixels * groups, length, [&](std::int64_t row, int c) {
            y[row + c] = cpu::narrow_one<T>(far.value(x + row, c));
        });
    }
    cpu::with_forms(norm, length, [&](auto window, auto response) {
        cpu::parallel_rows(pixels * groups, length, [&](std::int64_t first, std::int64_t end) {
            cpu::by_channels(length, [&](Span part) {
                const std::int64_t at = first * length;
                cpu::Normaliser(window, response, part, length)
                    .run(x + at, length, end - first, y + at + part.first, length);
            });
        });
    });
}

template <class T> void lrn_dgrad(const T* x, const T* dy, T* dx, std::int64_t pixels, int channels,
                                  int groups, ResponseNorm norm, Stream) {
    const int length = channels / groups;
    const cpu::FarReaching far(norm, length);
    if (far.needed()) {
        return by_elements(pixels * groups, length, [&](std::int64_t row, int c) {
            const auto gradient = [&](int j) { return cpu::widen_one(dy[row + j]); };
            dx[row + c] = cpu::narrow_one<T>(far.slope(x + row, c, gradient));
        });
    }
    cpu::with_forms(norm, length, [&](auto window, auto response) {
        cpu::parallel_rows(pixels * groups, length, [&](std::int64_t first, std::int64_t end) {
            cpu::by_channels(length, [&](Span part) {
                const std::int64_t at = first * length;
                cpu::Descent descent(window, response, part, length);
                descent.run(x + at, dy + at + descent.staged().first, length, dx + at, length,
                            end - first, false);
            });
        });
    });
}

template void lrn_fprop(const float*, float*, std::int64_t, int, int, ResponseNorm, Stream);
template void lrn_fprop(const bf16*, bf16*, std::int64_t, int, int, ResponseNorm, Stream);
template void lrn_dgrad(const float*, const float*, float*, std::int64_t, int, int, ResponseNorm,
                        Stream);
template void lrn_dgrad(const bf16*, const bf16*, bf16*, std::int64_t, int, int, ResponseNorm,
                        Stream);

} // namespace pyalexnet

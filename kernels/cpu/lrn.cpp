// Local response normalisation across channels (paper, section 3.3). A piece is some rows. Bound by
// bytes: dgrad recomputes s; fprop does not store it.
#include "cpu/lrn_rows.hpp"

namespace pyalexnet {
using namespace cpu;
namespace {

// Calls use(window, response) with the forms that the constants allow. A general power takes so
// long that a constant window size would gain nothing.
template <class Use> void with_forms(const ResponseNorm& norm, int length, Use use) {
    with_response(norm, [&](auto response) {
        if constexpr (std::is_same_v<decltype(response), Response<ThreeQuarters>>) {
            if (norm.size == 5) return use(Five{}, response);
        }
        use(reach_of(norm.size, length), response);
    });
}

} // namespace

template <class T> void lrn_fprop(const T* x, T* y, std::int64_t pixels, int channels, int groups,
                                  ResponseNorm norm, Stream) {
    const int length = channels / groups;
    with_forms(norm, length, [&](auto window, auto response) {
        parallel_runs(pixels * groups, length, [&](std::int64_t first, std::int64_t end) {
            Normaliser normaliser(window, response, length);
            normaliser.run(x + first * length, end - first, y + first * length);
        });
    });
}

template <class T> void lrn_dgrad(const T* x, const T* dy, T* dx, std::int64_t pixels, int channels,
                                  int groups, ResponseNorm norm, Stream) {
    const int length = channels / groups;
    with_forms(norm, length, [&](auto window, auto response) {
        parallel_runs(pixels * groups, length, [&](std::int64_t first, std::int64_t end) {
            const std::int64_t at = first * length;
            Descent descent(window, response, length);
            descent.run(x + at, dy + at, dx + at, end - first, false);
        });
    });
}

PYALEXNET_FOR_ELEMENTS(lrn_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_dgrad);

} // namespace pyalexnet

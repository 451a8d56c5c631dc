// Local response normalisation across channels (paper, section 3.3). A piece is some rows. Bound by
// bytes: dgrad recomputes s; fprop does not store it.
#include "cpu/lrn_rows.hpp"

namespace pyalexnet {
namespace cpu {
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

// Windows that reach further than kMostReach: no network has them, and here each sum is taken anew
// for each channel that needs it.
struct FarReaching {
    Reach reach;
    int length;
    ResponseNorm norm;

    FarReaching(const ResponseNorm& norm_, int length_)
        : reach(reach_of(norm_.size, length_)), length(length_), norm(norm_) {}

    bool needed() const { return std::max(reach.before, reach.after) > kMostReach; }

    template <class T> float scale(const T* row, int c) const {
        const Span window = around({c, c + 1}, reach.before, reach.after, length);
        float sum = 0.0f;
        for (int j = window.first; j < window.end; ++j)
            sum += widen_one(row[j]) * widen_one(row[j]);
        return norm.k + norm.alpha * sum;
    }
    template <class T> float value(const T* row, int c) const {
        return widen_one(row[c]) * std::pow(scale(row, c), -norm.beta);
    }
    // dx of channel c, where gradient(j) is dy of channel j.
    template <class T, class Gradient>
    float slope(const T* row, int c, const Gradient& gradient) const {
        const Span window = around({c, c + 1}, reach.after, reach.before, length);
        float first = 0.0f, sum = 0.0f;
        for (int j = window.first; j < window.end; ++j) {
            const float s = scale(row, j), root = 1.0f / std::sqrt(s);
            const float first_of_j = gradient(j) * std::pow(s, -norm.beta);
            sum += first_of_j * (widen_one(row[j]) * root * root * (2.0f * norm.alpha * norm.beta));
            if (j == c) first = first_of_j;
        }
        return first - widen_one(row[c]) * sum;
    }
};

// Calls use(channels) for parts of a row that Normaliser and Descent can take.
template <class Use> void by_channels(int length, Use use) {
    for (int first = 0; first < length; first += kMostChannels)
        use(Span{first, std::min(first + kMostChannels, length)});
}

// Calls work(first element of the row, its channel) for every element.
template <class Work> void by_elements(std::int64_t rows, int length, const Work& work) {
    simt::parallel(rows, [&](std::int64_t row, int) {
        for (int c = 0; c < length; ++c) work(row * length, c);
    });
}

} // namespace
} // namespace cpu

template <class T> void lrn_fprop(const T* x, T* y, std::int64_t pixels, int channels, int groups,
                                  ResponseNorm norm, Stream) {
    const int length = channels / groups;
    const cpu::FarReaching far(norm, length);
    if (far.needed()) {
        return cpu::by_elements(pixels * groups, length, [&](std::int64_t row, int c) {
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
        return cpu::by_elements(pixels * groups, length, [&](std::int64_t row, int c) {
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

PYALEXNET_FOR_ELEMENTS(lrn_fprop);
PYALEXNET_FOR_ELEMENTS(lrn_dgrad);

} // namespace pyalexnet

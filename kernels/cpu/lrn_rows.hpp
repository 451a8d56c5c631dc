// Normalisation across channels. In NHWC a group's channels are contiguous: C channels in G groups
// are G times as many pixels of C / G channels, here called rows. A window's squares are added up
// from a row of them in L1 that has zeros before and after it, so that no sum checks where a row
// ends; afresh for each channel, since a sliding sum would subtract what was added and lose digits.
#pragma once

#include <type_traits>

#include "cpu/response.hpp"
#include "pool_windows.cuh"

namespace pyalexnet::cpu {

// Floats of such a buffer, and how many should be in use: they share L1 with the maps.
constexpr int kStage = 8192;
constexpr int kStageInUse = 2048;
// Channels of a row that are processed at once, and how far windows may reach past them on one
// side: what is passed on to them, and the squares that this depends on, then fit a buffer.
constexpr int kMostChannels = 2048;
constexpr int kMostReach = 1024;

constexpr int whole_vectors(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Rows of floats, each with zeros around it.
class Padded {
  public:
    // For `channels` of a row of `length`, and windows that reach so far around them. If they are
    // not the whole row, others surround them, and there is one row.
    Padded(Reach reach, int channels, int length)
        : margin_(whole_vectors(std::max(reach.before, reach.after))),
          pitch_(margin_ + whole_vectors(channels)),
          rows_(channels == length ? std::max((kStageInUse - margin_) / pitch_, 1) : 1) {
        std::fill_n(floats_, rows_ * pitch_ + margin_, 0.0f);
    }

    int rows() const { return rows_; }
    float* row(int i) { return floats_ + margin_ + i * pitch_; }

  private:
    int margin_, pitch_, rows_;
    alignas(64) float floats_[kStage];
};

// Sum of the numbers from `before` to `after` around those of a vector.
PYALEXNET_INLINE V window_sum(const float* numbers, int before, int after) {
    V sum = load(numbers - before);
    for (int d = 1 - before; d <= after; ++d) sum += load(numbers + d);
    return sum;
}

// A part of a row's channels, and those around it that its windows reach.
inline Span around(Span channels, int before, int after, int length) {
    return {std::max(channels.first - before, 0), std::min(channels.end + after, length)};
}

// Squares of `channels` and of those that their windows reach, in buffer rows that begin at
// channels.first.
template <class T> PYALEXNET_INLINE void fill_squares(float* squares, const T* x, Span channels,
                                                      Reach reach, int length) {
    const Span seen = around(channels, reach.before, reach.after, length);
    by_vectors(seen.length(), [&](int i, auto lanes) {
        const V value = lanes.load(x + seen.first + i);
        store(squares + seen.first - channels.first + i, value * value);
    });
}

// y of some rows' channels [first, end).
template <class Window, class Power> class Normaliser {
  public:
    Normaliser(Window window, Response<Power> response, Span channels, int length)
        : window_(window), response_(response), channels_(channels), length_(length),
          squares_({window.before, window.after}, channels.length(), length) {}

    // Channel 0 of the first row is at x and the rows are `pitch` elements apart; channel `first`
    // of the results is at y, and these are `out_pitch` apart.
    template <class T, class Y>
    void run(const T* x, std::int64_t pitch, std::int64_t rows, Y* y, std::int64_t out_pitch) {
        for (std::int64_t done = 0; done < rows; done += squares_.rows()) {
            const int count =
                static_cast<int>(std::min(rows - done, std::int64_t{squares_.rows()}));
            for (int i = 0; i < count; ++i)
                fill_squares(squares_.row(i), x + (done + i) * pitch, channels_,
                             {window_.before, window_.after}, length_);
            const Window window = window_; // a local copy, which no store can change
            const Response<Power> response = response_;
            for (int i = 0; i < count; ++i) {
                const T* const from = x + (done + i) * pitch + channels_.first;
                Y* const to = y + (done + i) * out_pitch;
                const float* const squares = squares_.row(i);
                by_vectors(channels_.length(), [&](int c, auto lanes) {
                    const V s =
                        response.scale(window_sum(squares + c, window.before, window.after));
                    lanes.store(to + c, lanes.load(from + c) * response.powers(s).power);
                });
            }
        }
    }

  private:
    const Window window_;
    const Response<Power> response_;
    const Span channels_;
    const int length_;
    Padded squares_;
};

// dx of some rows' channels [first, end).
template <class Window, class Power> class Descent {
  public:
    Descent(Window window, Response<Power> response, Span channels, int length)
        : window_(window), response_(response), channels_(channels),
          staged_(around(channels, window.after, window.before, length)), length_(length),
          squares_({window.before, window.after}, staged_.length(), length),
          first_({window.before, window.after}, staged_.length(), length),
          passed_({window.before, window.after}, staged_.length(), length) {}

    // Rows that are best taken at once.
    int rows() const { return passed_.rows(); }

    // Those channels and the ones around them whose gradient counts.
    Span staged() const { return staged_; }

    // Channel 0 of the first row is at x and dx, the rows are `pitch` elements apart; channel
    // staged().first of its gradient is at dy, and these are `dy_pitch` apart. gated: dx is 0 where
    // x is not above 0.
    template <class T, class Dy> void run(const T* x, const Dy* dy, std::int64_t dy_pitch, T* dx,
                                          std::int64_t pitch, std::int64_t rows, bool gated) {
        const int most = passed_.rows();
        for (std::int64_t done = 0; done < rows; done += most) {
            const int count = static_cast<int>(std::min(rows - done, std::int64_t{most}));
            for (int i = 0; i < count; ++i)
                fill_squares(squares_.row(i), x + (done + i) * pitch, staged_,
                             {window_.before, window_.after}, length_);
            for (int i = 0; i < count; ++i)
                stage(i, x + (done + i) * pitch + staged_.first, dy + (done + i) * dy_pitch);
            for (int i = 0; i < count; ++i)
                finish(i, x + (done + i) * pitch, dx + (done + i) * pitch, gated);
        }
    }

  private:
    template <class T, class Dy> PYALEXNET_INLINE void stage(int row, const T* x, const Dy* dy) {
        const float* const squares = squares_.row(row);
        float* const first = first_.row(row);
        float* const passed = passed_.row(row);
        const Window window = window_; // a local copy, which no store can change
        const Response<Power> response = response_;
        by_vectors(staged_.length(), [&](int c, auto lanes) {
            const V s = response.scale(window_sum(squares + c, window.before, window.after));
            const Powers powers = response.powers(s);
            const V first_term = lanes.load(dy + c) * powers.power;
            lanes.store(first + c, first_term);
            lanes.store(passed + c, response.passed(first_term, lanes.load(x + c), powers.root));
        });
    }

    template <class T> PYALEXNET_INLINE void finish(int row, const T* x, T* dx, bool gated) {
        const int skipped = channels_.first - staged_.first;
        const float* const first = first_.row(row) + skipped;
        const float* const passed = passed_.row(row) + skipped;
        x += channels_.first;
        dx += channels_.first;
        const Window window = window_;
        by_vectors(channels_.length(), [&](int c, auto lanes) {
            const V own = lanes.load(x + c);
            const V sum = window_sum(passed + c, window.after, window.before);
            V gradient = Response<Power>::descend(load(first + c), own, sum);
            if (gated) gradient = select(own > V{}, gradient, V{});
            lanes.store(dx + c, gradient);
        });
    }

    const Window window_;
    const Response<Power> response_;
    const Span channels_, staged_;
    const int length_;
    Padded squares_, first_, passed_;
};

} // namespace pyalexnet::cpu

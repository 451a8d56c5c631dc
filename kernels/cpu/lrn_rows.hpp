// Normalisation across channels. In NHWC a group's channels are contiguous: C channels in G groups
// are G times as many pixels of C / G channels, here called rows. A window's squares are added up
// from a row of them in L1 that has zeros before and after it, so that no sum checks where a row
// ends; afresh for each channel, since a sliding sum would subtract what was added and lose digits.
#pragma once

#include <vector>

#include "cpu/response.hpp"

namespace pyalexnet::cpu {

// Floats of such a buffer, and how many should be in use: they share L1 with the maps.
constexpr int kStage = 8192;
constexpr int kStageInUse = 2048;

// Rows of floats, each with zeros around it.
class Padded {
  public:
    // For rows of so many channels, and windows that reach so far around them.
    Padded(Reach reach, int channels)
        : margin_(rounded_up(std::max(reach.before, reach.after), kLanes)),
          pitch_(margin_ + rounded_up(channels, kLanes)),
          rows_(static_cast<int>(std::max<std::int64_t>((kStageInUse - margin_) / pitch_, 1))) {
        const std::int64_t count = rows_ * pitch_ + margin_;
        if (count > kStage) {
            larger_.resize(static_cast<std::size_t>(count));
            floats_ = larger_.data();
        }
        std::fill_n(floats_, count, 0.0f);
    }
    Padded(const Padded&) = delete;
    Padded& operator=(const Padded&) = delete;

    int rows() const { return rows_; }
    float* row(int i) { return floats_ + margin_ + i * pitch_; }

  private:
    std::int64_t margin_, pitch_;
    int rows_;
    alignas(kCacheLine) float stage_[kStage];
    // For more channels than any network has: the one allocation of this platform's launchers.
    std::vector<float> larger_;
    float* floats_ = stage_;
};

// Sum of the numbers from `before` to `after` around those of a vector.
PYALEXNET_INLINE V window_sum(const float* numbers, int before, int after) {
    V sum = load(numbers - before);
    for (int d = 1 - before; d <= after; ++d) sum += load(numbers + d);
    return sum;
}

// y of rows of `length` channels, and the s that it depends on.
template <class Window, class Power> struct Normaliser {
    const Window window;
    const Response<Power> response;
    const int length;
    Padded squares;

    Normaliser(Window window_, Response<Power> response_, int length_)
        : window(window_), response(response_), length(length_),
          squares({window.before, window.after}, length) {}

    template <class T, class Y> void run(const T* x, std::int64_t rows, Y* y) {
        const int channels = length;
        by_blocks(rows, [&](std::int64_t first, int count) {
            by_scales(x + first, count, [=](int row) {
                const T* const from = x + first + std::int64_t{row} * channels;
                Y* const to = y + first + std::int64_t{row} * channels;
                return [=](int c, auto n, const auto& formula, V s) {
                    store(to + c, load(from + c, n) * formula.powers(s).power, n);
                };
            });
        });
    }

    // Calls work(first, count) for as many rows as are best taken at once: element `first` on.
    template <class Work> PYALEXNET_INLINE void by_blocks(std::int64_t rows, Work work) const {
        const int most = squares.rows();
        for (std::int64_t done = 0; done < rows; done += most)
            work(done * length, static_cast<int>(std::min<std::int64_t>(rows - done, most)));
    }

    // Calls of_row(row)(c, n, response, s) for the vectors of so many rows at x: n channels from c
    // on.
    template <class T, class OfRow>
    PYALEXNET_INLINE void by_scales(const T* x, int rows, OfRow of_row) {
        const Window reach = window; // local copies, which no store can change
        const Response<Power> formula = response;
        const int channels = length;
        for (int row = 0; row < rows; ++row) {
            const T* const from = x + std::int64_t{row} * channels;
            float* const to = squares.row(row);
            by_vectors(channels, [&](int c, auto n) {
                const V value = load(from + c, n);
                store(to + c, value * value);
            });
        }
        for (int row = 0; row < rows; ++row) {
            const float* const from = squares.row(row);
            const auto body = of_row(row);
            by_vectors(channels, [&](int c, auto n) {
                const V sum = window_sum(from + c, reach.before, reach.after);
                body(c, n, formula, formula.scale(sum));
            });
        }
    }
};

// dx of some rows.
template <class Window, class Power> class Descent {
  public:
    Descent(Window window, Response<Power> response, int length)
        : scales_(window, response, length), first_({window.before, window.after}, length),
          passed_({window.before, window.after}, length) {}

    // Rows that are best taken at once.
    int rows() const { return passed_.rows(); }

    // gated: dx is 0 where x is not above 0.
    template <class T, class Dy>
    void run(const T* x, const Dy* dy, T* dx, std::int64_t rows, bool gated) {
        scales_.by_blocks(rows, [&](std::int64_t first, int count) {
            stage(x + first, dy + first, count);
            for (int row = 0; row < count; ++row) {
                const std::int64_t at = first + std::int64_t{row} * scales_.length;
                finish(row, x + at, dx + at, gated);
            }
        });
    }

  private:
    template <class T, class Dy> PYALEXNET_INLINE void stage(const T* x, const Dy* dy, int count) {
        scales_.by_scales(x, count, [&](int row) {
            const std::int64_t at = std::int64_t{row} * scales_.length;
            return [from = x + at, dys = dy + at, first = first_.row(row),
                    passed = passed_.row(row)](int c, auto n, const auto& response, V s) {
                const Powers powers = response.powers(s);
                const V first_term = load(dys + c, n) * powers.power;
                store(first + c, first_term, n);
                store(passed + c, response.passed(first_term, load(from + c, n), powers.root), n);
            };
        });
    }

    template <class T> PYALEXNET_INLINE void finish(int row, const T* x, T* dx, bool gated) {
        const float* const first = first_.row(row);
        const float* const passed = passed_.row(row);
        const Window window = scales_.window;
        by_vectors(scales_.length, [&](int c, auto n) {
            const V own = load(x + c, n);
            const V sum = window_sum(passed + c, window.after, window.before);
            V gradient = Response<Power>::descend(load(first + c), own, sum);
            if (gated) gradient = select(own > V{}, gradient, V{});
            store(dx + c, gradient, n);
        });
    }

    Normaliser<Window, Power> scales_;
    Padded first_, passed_;
};

} // namespace pyalexnet::cpu

// Winograd's transforms F(m x m, r x r), made by the compiler from their points (Lavin and Gray:
// Fast algorithms for convolutional neural networks, CVPR 2016; by Toom and Cook's interpolation).
//
// With n = m + r - 1 points, the last of them infinity, m outputs of r taps along one axis are
//   y = At [(G g) * (Bt d)]
// for n inputs d and filter g, * by element. The adjoints give the gradients: the one in g, of the
// same products, is G^t [(A dy) * (Bt d)].
#pragma once

#include <array>

#include "cpu/vector.hpp"

namespace pyalexnet::cpu {

template <int rows, int columns> struct Matrix {
    double of[rows][columns] = {};
    static constexpr int row_count = rows, column_count = columns;

    constexpr Matrix<columns, rows> transposed() const {
        Matrix<columns, rows> turned;
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j) turned.of[j][i] = of[i][j];
        return turned;
    }
};

template <int m_, int r_> struct Winograd;

// Points chosen for accuracy: of those tried, these lose least, or hardly more than others that
// need more additions.
template <> struct Winograd<4, 3> {
    static constexpr int m = 4, r = 3, n = 6;
    static constexpr std::array<double, 5> points{0.0, 1.0, -1.0, 0.5, -2.0};
};
template <> struct Winograd<5, 3> {
    static constexpr int m = 5, r = 3, n = 7;
    static constexpr std::array<double, 6> points{0.0, 1.0, -1.0, 0.5, -0.5, 3.0};
};
template <> struct Winograd<4, 5> {
    static constexpr int m = 4, r = 5, n = 8;
    static constexpr std::array<double, 7> points{0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5};
};

// Which point is 1: there At's column and G's row are sums, without weights.
constexpr int kPointOne = 1;

// A polynomial that is 0 at every point but `without`, or at all points if that is none of them.
template <class F> constexpr std::array<double, F::n> zero_at_others(int without) {
    std::array<double, F::n> product{1.0};
    int degree = 0;
    for (int i = 0; i < F::n - 1; ++i) {
        if (i == without) continue;
        ++degree;
        for (int j = degree; j > 0; --j) product[j] = product[j - 1] - F::points[i] * product[j];
        product[0] *= -F::points[i];
    }
    return product;
}

constexpr double power(double x, int exponent) {
    double product = 1.0;
    for (int i = 0; i < exponent; ++i) product *= x;
    return product;
}

template <class F> constexpr Matrix<F::m, F::n> make_at() {
    Matrix<F::m, F::n> at;
    for (int j = 0; j < F::m; ++j) {
        for (int i = 0; i < F::n - 1; ++i) at.of[j][i] = power(F::points[i], j);
        at.of[j][F::n - 1] = j == F::m - 1;
    }
    return at;
}

template <class F> constexpr Matrix<F::n, F::r> make_g() {
    Matrix<F::n, F::r> g;
    for (int i = 0; i < F::n - 1; ++i) {
        double distance = 1.0;
        for (int l = 0; l < F::n - 1; ++l)
            if (l != i) distance *= F::points[i] - F::points[l];
        for (int j = 0; j < F::r; ++j) g.of[i][j] = power(F::points[i], j) / distance;
    }
    g.of[F::n - 1][F::r - 1] = 1.0;
    return g;
}

template <class F> constexpr Matrix<F::n, F::n> make_bt() {
    Matrix<F::n, F::n> bt;
    for (int i = 0; i < F::n; ++i) {
        const auto row = zero_at_others<F>(i);
        for (int j = 0; j < F::n; ++j) bt.of[i][j] = row[j];
    }
    return bt;
}

// The matrices that are applied, on either side of a tile.
template <class F> inline constexpr auto kAt = make_at<F>();
template <class F> inline constexpr auto kA = make_at<F>().transposed();
template <class F> inline constexpr auto kG = make_g<F>();
template <class F> inline constexpr auto kGt = make_g<F>().transposed();
template <class F> inline constexpr auto kBt = make_bt<F>();

namespace detail {

// Which of a row's terms are added: all, or those in which it and the next row are equal, or those
// in which they are opposite.
enum class Which { all, equal, opposite };

// sum += term x, for the element (i, j) of a matrix: nothing if it is 0 or not one of `which`.
// Starts with `empty`.
template <const auto& matrix, int i, int j, Which which>
PYALEXNET_INLINE void add(V& sum, bool& empty, V x) {
    constexpr double own = matrix.of[i][j];
    constexpr bool counts = which == Which::all || (matrix.of[i + 1 - (which == Which::all)][j] ==
                                                    own) == (which == Which::equal);
    if constexpr (counts && own != 0.0) {
        constexpr auto factor = static_cast<float>(own);
        const V term = factor == 1.0f || factor == -1.0f ? x : factor * x;
        if (empty)
            sum = factor == -1.0f ? -x : term;
        else if (factor == -1.0f)
            sum -= x;
        else
            sum += term;
        empty = false;
    }
}

template <const auto& matrix, int i, Which which, int... j>
PYALEXNET_INLINE V sum_of(const V* in, int pitch, std::integer_sequence<int, j...>) {
    V sum{};
    bool empty = true;
    (add<matrix, i, j, which>(sum, empty, in[j * pitch]), ...);
    return sum;
}

// Whether rows i and i + 1, of points a and -a, differ in signs alone, and so share their sums.
template <const auto& matrix> constexpr bool are_paired(int i) {
    if (i + 1 >= matrix.row_count) return false;
    bool any_opposite = false;
    for (int j = 0; j < matrix.column_count; ++j) {
        const double one = matrix.of[i][j], other = matrix.of[i + 1][j];
        if (one != other && one != -other) return false;
        any_opposite = any_opposite || one != other;
    }
    return any_opposite;
}

template <const auto& matrix, int i>
PYALEXNET_INLINE void rows_from(const V* in, int pitch, V* out) {
    constexpr auto columns = std::make_integer_sequence<int, matrix.column_count>{};
    if constexpr (i < matrix.row_count) {
        if constexpr (are_paired<matrix>(i)) {
            const V equal = sum_of<matrix, i, Which::equal>(in, pitch, columns);
            const V opposite = sum_of<matrix, i, Which::opposite>(in, pitch, columns);
            out[i] = equal + opposite;
            out[i + 1] = equal - opposite;
            rows_from<matrix, i + 2>(in, pitch, out);
        } else {
            out[i] = sum_of<matrix, i, Which::all>(in, pitch, columns);
            rows_from<matrix, i + 1>(in, pitch, out);
        }
    }
}

template <const auto& matrix, int... i, class Source>
PYALEXNET_INLINE void column(int j, Source source, V* out, std::integer_sequence<int, i...>) {
    const V in[] = {source(i, j)...};
    rows_from<matrix, 0>(in, 1, out);
}

template <const auto& matrix, int... k, class Sink>
PYALEXNET_INLINE void line(int i, const V* in, Sink sink, std::integer_sequence<int, k...>) {
    V out[matrix.row_count];
    rows_from<matrix, 0>(in, matrix.row_count, out);
    (sink(i, k, out[k]), ...);
}

} // namespace detail

// M is a matrix; tile (columns of M)^2 -> M tile M^t (rows of M)^2, a vector in every place:
// source(i, j) gives those of the tile, sink(i, k, vector) takes the results.
template <const auto& matrix, class Source, class Sink>
PYALEXNET_INLINE void transform(Source source, Sink sink) {
    constexpr int columns = matrix.column_count, rows = matrix.row_count;
    V turned[columns][rows]; // by column of the tile
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j)
        detail::column<matrix>(j, source, turned[j], std::make_integer_sequence<int, columns>{});
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
        detail::line<matrix>(i, &turned[0][i], sink, std::make_integer_sequence<int, rows>{});
}

} // namespace pyalexnet::cpu

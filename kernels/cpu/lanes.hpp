// Neighbouring elements, vector by vector, whatever their number; and rows shared among the cores.
#pragma once

#include <algorithm>

#include "cpu/vector.hpp"
#include "simt/threads.hpp"

namespace pyalexnet::cpu {

// Calls body(i, n) for the vectors of `count` elements: n from element i on, which the compiler
// knows to be kLanes but for the last ones.
template <class Count, class Body> PYALEXNET_INLINE void by_vectors(Count count, Body body) {
    Count i = 0;
    for (; i + kLanes <= count; i += kLanes) body(i, Constant<kLanes>{});
    if (i < count) body(i, static_cast<int>(count - i));
}

// The same on any core.
template <class Body> void elementwise(std::int64_t count, Body body) {
    constexpr std::int64_t kElements = 1 << 14; // they outweigh the cost of handing a piece out
    simt::parallel(quotient_up(count, kElements), [&](std::int64_t piece, int) {
        const std::int64_t first = piece * kElements;
        by_vectors(std::min(kElements, count - first),
                   [&](std::int64_t i, auto n) { body(first + i, n); });
    });
}

// Copies `count` elements, widened or narrowed.
template <class From, class To>
PYALEXNET_INLINE void copy(const From* from, To* to, std::int64_t count) {
    by_vectors(count, [&](std::int64_t i, auto n) { store(to + i, load(from + i, n), n); });
}

// As they are: a NaN keeps its bits.
inline void copy(const bf16* from, bf16* to, std::int64_t count) { std::copy_n(from, count, to); }

// Calls work(row, column, worker) for every place of a table, on any core.
template <class Work>
void parallel_table(std::int64_t rows, std::int64_t columns, const Work& work) {
    simt::parallel(rows * columns, [&](std::int64_t piece, int worker) {
        work(static_cast<int>(piece / columns), static_cast<int>(piece % columns), worker);
    });
}

// Calls work(first, end) for runs of rows, on any core: enough elements a run that the cost of
// handing it out is negligible.
template <class Work>
void parallel_runs(std::int64_t rows, std::int64_t row_elements, const Work& work) {
    constexpr std::int64_t run_elements = 1 << 15;
    const std::int64_t run = std::max(run_elements / row_elements, std::int64_t{1});
    simt::parallel(quotient_up(rows, run), [&](std::int64_t piece, int) {
        work(piece * run, std::min(rows, (piece + 1) * run));
    });
}

// Likewise work(row).
template <class Work>
void parallel_rows(std::int64_t rows, std::int64_t row_elements, const Work& work) {
    parallel_runs(rows, row_elements, [&](std::int64_t first, std::int64_t end) {
        for (std::int64_t row = first; row < end; ++row) work(row);
    });
}

} // namespace pyalexnet::cpu

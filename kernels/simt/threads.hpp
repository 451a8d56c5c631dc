// The processor's cores as workers for the pieces of an operation.
//
// Which worker takes which piece is left to chance. Results do not depend on it, since each piece
// writes what no other reads or writes.
#pragma once

#include <cstdint>
#include <type_traits>

namespace simt {

// How many workers there are, including the caller: scratch is for as many. Asking settles it.
int workers();

// Settles it, unless it is settled; returns whether there now are that many.
bool set_workers(int count);

// How many of them share the next operations, from 1 to `workers()`.
void use_workers(int count);

namespace detail {
using Piece = void (*)(void* work, std::int64_t piece, int worker);
void run(std::int64_t pieces, Piece piece, void* work);
} // namespace detail

// Calls work(piece, worker) for every piece below `pieces` and returns when all have been done.
// Pieces with the same `worker`, below `workers()`, come one after the other. A thread that calls
// while the workers are busy for another does its pieces itself, as worker 0. No piece calls this.
template <class Work> void parallel(std::int64_t pieces, Work&& work) {
    using Plain = std::remove_reference_t<Work>;
    detail::run(
        pieces,
        [](void* given, std::int64_t piece, int worker) {
            (*static_cast<Plain*>(given))(piece, worker);
        },
        const_cast<void*>(static_cast<const void*>(&work)));
}

} // namespace simt

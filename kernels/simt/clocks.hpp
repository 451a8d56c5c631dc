// What each thread of a block knows of the others: vector clocks.
//
// Barriers of a block or a warp order all that lies on their two sides: counting them is enough. An
// mbarrier orders what came before the arrivals of a phase with what comes after a wait for it, and
// nothing else: a thread that waited knows how far each other one had come.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt::check {

using Time = std::uint32_t; // of an actor: rises whenever it tells another one what it knows

// What works besides the threads: an actor for all that ends with an mbarrier's phase (its time
// counts the phases that have ended), and one for a warpgroup's products (likewise).
constexpr unsigned kMbarriers = 64;
constexpr unsigned kWarpgroups = 8;

// How far each actor is known to have come: `seen` by any order, `fenced` only where a proxy fence
// lies in between.
struct Knowledge {
    std::vector<Time> seen;
    std::vector<Time> fenced;

    void reset(std::size_t actors) {
        seen.assign(actors, 0);
        fenced.assign(actors, 0);
    }
    void join(const Knowledge& other) {
        join(seen, other.seen);
        join(fenced, other.fenced);
    }
    void fence() { join(fenced, seen); }

    // Keeps of both at most what `other` knows.
    void meet(const Knowledge& other) {
        for (std::size_t i = 0; i < seen.size(); ++i) {
            seen[i] = std::min(seen[i], other.seen[i]);
            fenced[i] = std::min(fenced[i], other.fenced[i]);
        }
    }

  private:
    static void join(std::vector<Time>& mine, const std::vector<Time>& other) {
        for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = std::max(mine[i], other[i]);
    }
};

class Clocks {
  public:
    bool running() const { return running_; }
    void stop() { running_ = false; }

    // Starts now. `time_of(u)` is where thread u stands, `known(t, u)` how far t knows of u.
    template <class TimeOf, class Known> void start(unsigned threads, TimeOf time_of, Known known) {
        running_ = true;
        threads_.resize(threads);
        times_.resize(threads);
        const std::size_t actors = threads + kMbarriers + kWarpgroups;
        for (unsigned t = 0; t < threads; ++t) {
            threads_[t].reset(actors);
            times_[t] = time_of(t);
            for (unsigned u = 0; u < threads; ++u) threads_[t].seen[u] = known(t, u);
            threads_[t].seen[t] = times_[t];
        }
        for (auto* phases : {&gathering_, &released_}) {
            phases->resize(kMbarriers);
            for (Knowledge& knowledge : *phases) knowledge.reset(actors);
        }
        std::fill(std::begin(phases_), std::end(phases_), 0);
    }

    Time time(unsigned thread) const { return times_[thread]; }
    const Knowledge& of(unsigned thread) const { return threads_[thread]; }

    // ------------------------------------------------------------------ barriers of threads

    // All of [first, last) have met.
    void meet(unsigned first, unsigned last) {
        last = std::min(last, static_cast<unsigned>(threads_.size()));
        Knowledge all = threads_[first];
        for (unsigned t = first + 1; t < last; ++t) all.join(threads_[t]);
        for (unsigned t = first; t < last; ++t) {
            threads_[t] = all;
            step(t);
        }
    }

    void fence(unsigned thread) {
        threads_[thread].fence();
        step(thread);
    }

    // ------------------------------------------------------------------ mbarriers

    unsigned actor_of_mbarrier(unsigned barrier) const { return size() + barrier; }
    Time phase_under_way(unsigned barrier) const { return phases_[barrier] + 1; }

    void arrive(unsigned barrier, unsigned thread) {
        gathering_[barrier].join(threads_[thread]);
        step(thread);
    }
    void end_phase(unsigned barrier) {
        Knowledge& gathered = gathering_[barrier];
        gathered.seen[actor_of_mbarrier(barrier)] = ++phases_[barrier];
        released_[barrier] = gathered;
        gathered.reset(gathered.seen.size());
    }
    void acquire(unsigned barrier, unsigned thread) { threads_[thread].join(released_[barrier]); }

    // ------------------------------------------------------------------ warpgroups

    unsigned actor_of_warpgroup(unsigned warpgroup) const {
        return size() + kMbarriers + warpgroup;
    }
    void products_ended(unsigned warpgroup, Time last, unsigned thread) {
        Time& known = threads_[thread].seen[actor_of_warpgroup(warpgroup)];
        known = std::max(known, last);
    }

    // What all threads of a warpgroup know.
    Knowledge of_warpgroup(unsigned warpgroup) const {
        Knowledge common = threads_[warpgroup * 128];
        for (unsigned t = 1; t < 128; ++t) common.meet(threads_[warpgroup * 128 + t]);
        return common;
    }

  private:
    unsigned size() const { return static_cast<unsigned>(threads_.size()); }
    void step(unsigned thread) { threads_[thread].seen[thread] = ++times_[thread]; }

    bool running_ = false;
    std::vector<Knowledge> threads_;
    std::vector<Time> times_;
    std::vector<Knowledge> gathering_, released_; // of the mbarriers' phases
    Time phases_[kMbarriers] = {};
};

} // namespace simt::check

// The pool of kernels/simt/threads.hpp, for ThreadSanitizer: make sanitize. Prints what is wrong,
// or nothing.
#include "simt/threads.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

constexpr int kWorkers = 16; // more than cores: some are always late

void hold(bool what, const char* otherwise) {
    if (what) return;
    std::fprintf(stderr, "%s\n", otherwise);
    std::exit(1);
}

// Every piece is done once, by an existing worker that does one piece at a time; what it writes to
// plain memory is visible when the call returns.
void count_pieces(int pieces) {
    std::vector<int> done(static_cast<std::size_t>(pieces));
    std::vector<int> of_worker(kWorkers);
    simt::parallel(pieces, [&](std::int64_t piece, int worker) {
        ++done[static_cast<std::size_t>(piece)];
        ++of_worker[static_cast<std::size_t>(worker)];
    });
    int sum = 0;
    for (const int count : done) hold(count == 1, "a piece was not done once");
    for (const int count : of_worker) sum += count;
    hold(sum == pieces, "a worker did two pieces at once");
}

// One run right after another, with few pieces and with many, so that a helper late for one run
// finds the next; and after a pause in which the helpers fall asleep.
void many_runs() {
    for (int run = 0; run < 10000; ++run) {
        count_pieces(run % 2 ? 40 : run / 2 % 3);
        if (run % 1000 == 0) ::usleep(1000);
    }
}

void two_callers() {
    std::thread other(many_runs);
    many_runs();
    other.join();
}

void fewer_workers() {
    std::atomic<bool> ends{false};
    std::thread caller([&] {
        while (!ends) count_pieces(8);
    });
    for (int change = 0; change < 300; ++change) simt::use_workers(1 + change % kWorkers);
    ends = true;
    caller.join();
    simt::use_workers(2);
    for (int run = 0; run < 100; ++run) {
        simt::parallel(20, [](std::int64_t, int worker) {
            hold(worker < 2, "a worker beyond those in use did a piece");
        });
    }
    simt::use_workers(kWorkers);
}

void in_a_child() {
    for (int child = 0; child < 5; ++child) {
        const pid_t id = ::fork();
        if (id == 0) {
            for (int run = 0; run < 100; ++run) count_pieces(9);
            ::_exit(0);
        }
        for (int run = 0; run < 100; ++run) count_pieces(9);
        int status = 0;
        hold(::waitpid(id, &status, 0) == id && status == 0, "a child failed");
    }
}

} // namespace

int main() {
    hold(simt::set_workers(kWorkers) && simt::workers() == kWorkers, "the number was not settled");
    hold(!simt::set_workers(kWorkers + 1), "the number was settled twice");
    many_runs();
    two_callers();
    fewer_workers();
    in_a_child();
}

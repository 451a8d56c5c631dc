"""CUDA's order between accesses by brute force: a graph of all that happens, and paths through it.

What the checker decides from a few counters is decided here from the definition, as slowly as that
comes out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

WARP = 32


class Action(NamedTuple):
    """What a thread does next: read or write an element, or wait at a barrier."""

    what: str  # "read", "write", "__syncthreads", "__syncwarp"
    element: int = 0


class Access(NamedTuple):
    """A read or write as the checker's reports name it."""

    what: str
    block: int
    thread: int


class Race(NamedTuple):
    """Two accesses to one element that no barrier orders."""

    element: int
    accesses: frozenset[Access]


Block = dict[int, list[Action]]  # by thread; the others do nothing
Launch = Sequence[Block]


def races(launches: Sequence[Launch], *, shared: bool) -> set[Race]:
    """Every race of a run.

    Args:
        launches: one after the other, each ordered after the one before it.
        shared: whether each block has elements of its own.
    """
    return {race for launch in launches for race in _races_of(launch, shared)}


class _Event(NamedTuple):
    action: Action
    block: int
    thread: int
    step: int  # which of the thread's actions

    @property
    def race_member(self) -> Access:
        return Access(self.action.what, self.block, self.thread)


def _races_of(launch: Launch, shared: bool) -> Iterator[Race]:
    after: dict[object, set[object]] = defaultdict(set)  # of None: what nothing comes before
    accesses: list[_Event] = []
    for number, block in enumerate(launch):
        for thread, actions in block.items():
            accesses += _chain(number, thread, actions, after)
    reached = {event: _reachable(event, after) for event in accesses}
    for a, b in combinations(accesses, 2):
        same_place = a.action.element == b.action.element and not (shared and a.block != b.block)
        if not same_place or (a.action.what == b.action.what == "read"):
            continue
        if b not in reached[a] and a not in reached[b]:
            yield Race(a.action.element, frozenset({a.race_member, b.race_member}))


def _chain(
    block: int, thread: int, actions: list[Action], after: dict[object, set[object]]
) -> list[_Event]:
    """Enter a thread's actions into the graph, in their order, and return its accesses.

    The k-th barrier of a block, or of a warp, is one node that all its threads pass through. A
    thread that has exited counts as having arrived at the barriers that follow.
    """
    accesses: list[_Event] = []
    passed = {"__syncthreads": 0, "__syncwarp": 0}

    def next_barrier(what: str) -> object:
        return what, block, thread // WARP if what == "__syncwarp" else None, passed[what]

    last: object = None
    for step, action in enumerate(actions):
        if action.what in passed:
            here = next_barrier(action.what)
            passed[action.what] += 1
        else:
            accesses.append(_Event(action, block, thread, step))
            here = accesses[-1]
        after[last].add(here)
        last = here
    after[last].update(next_barrier(what) for what in passed)
    return accesses


def _reachable(start: object, after: dict[object, set[object]]) -> set[object]:
    seen: set[object] = set()
    left = [start]
    while left:
        for node in after.get(left.pop(), ()):
            if node not in seen:
                seen.add(node)
                left.append(node)
    return seen

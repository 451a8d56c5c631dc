"""CUDA's order between accesses by brute force: a graph of all events, and paths through it.

The checker decides this from a few counters; here it is decided from the definition, however
slowly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

WARP = 32


class Action(NamedTuple):
    """A thread's next action: touch an element, wait at a barrier, or manage its copies."""

    what: str  # "read", "write", "__syncthreads", "__syncwarp", "copy", "commit", "wait"
    element: int = 0
    left: int = 0  # for "wait": the groups of copies that may still be under way


class Access(NamedTuple):
    """A read or write as the checker's reports name it; a copy is a write."""

    what: str
    block: int
    thread: int


class Race(NamedTuple):
    """Two unordered accesses to one element."""

    element: int
    accesses: frozenset[Access]


Block = dict[int, list[Action]]  # by thread; the others do nothing
Launch = Sequence[Block]


def races(launches: Sequence[Launch], *, shared: bool) -> set[Race]:
    """Every race of a run.

    Args:
        launches: in sequence, each ordered after the previous one.
        shared: whether each block has its own elements.
    """
    return {race for launch in launches for race in _races_of(launch, shared)}


class _Event(NamedTuple):
    action: Action
    block: int
    thread: int
    step: int  # which of the thread's actions

    @property
    def race_member(self) -> Access:
        what = "write" if self.action.what == "copy" else self.action.what
        return Access(what, self.block, self.thread)


def _races_of(launch: Launch, shared: bool) -> Iterator[Race]:
    after: dict[object, set[object]] = defaultdict(set)  # of None: events without a predecessor
    accesses: list[_Event] = []
    ends: dict[_Event, _Event] = {}  # of a copy: the wait that completes it, if any
    for number, block in enumerate(launch):
        for thread, actions in block.items():
            chain = _chain(number, thread, actions, after)
            accesses += [event for event in chain if event.action.what in ("read", "write", "copy")]
            ends |= _arrivals(chain)
    reached = {
        event: _reachable(ends[event], after) if event in ends else set() for event in accesses
    }
    for a, b in combinations(accesses, 2):
        same_place = a.action.element == b.action.element and not (shared and a.block != b.block)
        if not same_place or (a.action.what == b.action.what == "read"):
            continue
        if b not in reached[a] and a not in reached[b]:
            yield Race(a.action.element, frozenset({a.race_member, b.race_member}))


def _chain(
    block: int, thread: int, actions: list[Action], after: dict[object, set[object]]
) -> list[_Event]:
    """Enter a thread's actions into the graph, in order, and return all but its barriers.

    The k-th barrier of a block, or of a warp, is one node that all its threads pass through. A
    thread that has exited counts as having arrived at later barriers.
    """
    events: list[_Event] = []
    passed = {"__syncthreads": 0, "__syncwarp": 0}

    def next_barrier(what: str) -> object:
        return what, block, thread // WARP if what == "__syncwarp" else None, passed[what]

    last: object = None
    for step, action in enumerate(actions):
        if action.what in passed:
            here = next_barrier(action.what)
            passed[action.what] += 1
        else:
            events.append(_Event(action, block, thread, step))
            here = events[-1]
        after[last].add(here)
        last = here
    after[last].update(next_barrier(what) for what in passed)
    return events


def _arrivals(chain: list[_Event]) -> dict[_Event, _Event]:
    """The event that completes each access of a thread: itself, or the wait for a copy."""
    ends: dict[_Event, _Event] = {}
    groups: list[list[_Event]] = []
    open_group: list[_Event] = []
    for event in chain:
        what = event.action.what
        if what == "copy":
            open_group.append(event)
        elif what == "commit":
            groups.append(open_group)
            open_group = []
        elif what == "wait":
            while len(groups) > event.action.left:
                ends |= dict.fromkeys(groups.pop(0), event)
        else:
            ends[event] = event
    return ends


def _reachable(start: object, after: dict[object, set[object]]) -> set[object]:
    seen: set[object] = set()
    left = [start]
    while left:
        for node in after.get(left.pop(), ()):
            if node not in seen:
                seen.add(node)
                left.append(node)
    return seen

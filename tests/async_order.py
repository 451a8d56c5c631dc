"""Order between accesses in the presence of mbarriers, tiles and products, by brute force.

Like happens_before.py: a graph of all events in a block, and paths through it. Here an operation
begun by one thread may be completed elsewhere: a tile and copies by a phase of a barrier, a product
by a wait of any thread of its warpgroup.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

WARP, WARPGROUP = 32, 128


class Step(NamedTuple):
    """A thread's next step.

    Steps that name a warp, warpgroup 0, the block or the cluster are made by all of its threads,
    and by no others.
    """

    what: str
    element: int = 0
    barrier: int = 0
    phase: int = 0  # for "wait"; for "arrive", "load", "arrive_by_copies": the one they count in


Script = dict[int, list[Step]]  # by thread
WARPGROUP_STEPS = ("multiply", "commit", "wait_all", "wait_all_but_one")


class Member(NamedTuple):
    """An access as a report names it; for a product, any thread of the warpgroup may be named."""

    what: str  # "read", "write"
    thread: int
    product: bool = False

    def is_named(self, other: Member) -> bool:
        anyone = self.product and other.thread < WARPGROUP
        return self.what == other.what and (anyone or self.thread == other.thread)


class Fault(NamedTuple):
    """Two accesses to one element that are unordered, or that lack a fence between them."""

    element: int
    members: tuple[Member, Member]
    unfenced: bool = False

    def is_named(self, other: Fault) -> bool:
        return (self.element, self.unfenced) == (other.element, other.unfenced) and any(
            all(mine.is_named(its) for mine, its in zip(self.members, order, strict=True))
            for order in permutations(other.members)
        )


Node = tuple[object, ...]


@dataclass(frozen=True)
class _Access:
    member: Member
    element: int
    begins: frozenset[Node]  # whatever precedes it has to precede all of these
    end: Node | None  # never, if nothing waits for it
    engine: bool  # whether by the copy engine or the tensor cores


class Order:
    """All events in one block that makes these steps, or in a cluster, a block's threads given."""

    def __init__(self, script: Script, block: int | None = None) -> None:
        self._block = block or len(script)
        self._after: dict[Node, set[Node]] = defaultdict(set)
        self._fences: set[Node] = set()
        self._accesses: list[_Access] = []
        self._products: dict[int, tuple[int, set[Node]]] = {}  # number: element, begins
        for thread, steps in script.items():
            self._enter(thread, steps)
        for number, (element, begins) in self._products.items():
            member = Member("read", 0, product=True)
            over = ("product over", number)
            self._accesses.append(_Access(member, element, frozenset(begins), over, engine=True))
        self._reached = {node: self._reachable(node) for node in self._ends()}

    def faults(self) -> Iterator[Fault]:
        """Each fault, if any, that a report may name."""
        for a, b in permutations(self._accesses, 2):
            if a.element != b.element or a.member.what == b.member.what == "read":
                continue
            members = (a.member, b.member)
            if not self._before(a, b) and not self._before(b, a):
                yield Fault(a.element, members)
            written = a.member.what == "write" and not a.engine
            if written and b.engine and self._before(a, b) and not self._fenced(a, b):
                yield Fault(a.element, members, unfenced=True)

    def outlasts(self, threads: Iterable[int], thread: int, number: int) -> bool:
        """Whether one of the threads ends after that thread's step, in every run."""
        reached = self._reachable((thread, number))
        return any(("end", other) in reached for other in threads)

    def _enter(self, thread: int, steps: Iterable[Step]) -> None:
        counts: dict[str, int] = defaultdict(int)
        last: Node = ("begin",)
        groups: list[int] = []
        copies: list[tuple[int, Node]] = []
        for number, step in enumerate(steps):
            here: Node = (thread, number)
            what, phase = step.what, ("phase", step.barrier, step.phase)
            bytes_in = ("bytes", step.barrier, step.phase)
            if what in (sizes := {"__syncwarp": WARP, "__syncthreads": self._block}):
                here = (what, thread // sizes[what], counts[what])
                counts[what] += 1
            if what == "cluster_sync":
                here = (what, counts[what])
                counts[what] += 1
            self._after[last].add(here)
            if what == "arrive":
                self._after[here].add(phase)
            elif what == "wait":
                self._after[phase].add(here)
                self._after[bytes_in].add(here)
            elif what == "load":
                self._after[here].add(phase)
                begun: Node = (thread, number, "load")
                self._after[here].add(begun)
                here = begun
                self._access("write", thread, step.element, begun, bytes_in, engine=True)
            elif what == "copy":
                copies.append((step.element, here))
            elif what == "arrive_by_copies":
                for element, begin in copies:
                    self._access("write", thread, element, begin, bytes_in)
                copies = []
            elif what in ("read", "write"):
                self._access(what, thread, step.element, here, here)
            elif what == "fence":
                self._fences.add(here)
            elif what == "multiply":
                counts[what] += 1
                begins = self._products.setdefault(counts[what], (step.element, set()))[1]
                begins.add(here)
            elif what == "commit":
                groups.append(counts["multiply"])
            elif what in ("wait_all", "wait_all_but_one"):
                done = len(groups) - (what == "wait_all_but_one")
                for product in range(1, groups[done - 1] + 1) if done > 0 else ():
                    self._after["product over", product].add(here)
                del groups[: max(0, done - 1)]  # the last one done implies those before
            if step.what in ("arrive", "load", "arrive_by_copies"):
                self._after[bytes_in].add(("bytes", step.barrier, step.phase + 1))
            last = here
        self._after[last].add(("end", thread))
        for element, begin in copies:
            self._access("write", thread, element, begin, None)

    def _access(
        self,
        what: str,
        thread: int,
        element: int,
        begin: Node,
        end: Node | None,
        engine: bool = False,
    ) -> None:
        member = Member(what, thread)
        self._accesses.append(_Access(member, element, frozenset({begin}), end, engine))

    def _before(self, a: _Access, b: _Access) -> bool:
        return a.end is not None and b.begins <= self._reached[a.end]

    def _fenced(self, a: _Access, b: _Access) -> bool:
        assert a.end is not None
        fences = self._fences & self._reached[a.end]
        return all(any(begin in self._reached[f] for f in fences) for begin in b.begins)

    def _ends(self) -> set[Node]:
        return {access.end for access in self._accesses if access.end} | self._fences

    def _reachable(self, start: Node) -> set[Node]:
        """A node and everything after it."""
        seen = {start}
        left = [start]
        while left:
            for node in self._after.get(left.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    left.append(node)
        return seen

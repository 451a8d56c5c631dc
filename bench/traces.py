"""A warp's trace: the instructions that it runs of a kernel's machine code. It is told from what
they do, not from where they stand, so that it is found in kernels yet to be written.

Where code branches, the longer branch is taken: the one with everything that a kernel can do (a
bias, a ReLU, a vector inside the tile). What a launch does not do is avoided, such as code for
single elements, and what it must do is preferred, by what instructions are worth. A loop stays a
loop; how often it runs is not in the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .sass import Code, Instruction

_MUST = 10**9  # in instructions, as all weights
AVOIDED, WANTED = -(10**5), 10**3
Edges: TypeAlias = Mapping[int, set[int]]


@dataclass(frozen=True)
class Loop:
    """Once around it."""

    body: Trace


Trace: TypeAlias = "tuple[Instruction | Loop, ...]"


def flat(trace: Trace) -> Iterator[Instruction]:
    """All instructions, those of loops once."""
    for one in trace:
        if isinstance(one, Loop):
            yield from flat(one.body)
        else:
            yield one


@dataclass(frozen=True)
class Around:
    """The innermost loop that holds some instructions; what is run before and after it, in the
    loops around it and outside, the outermost first.
    """

    before: tuple[Trace, ...]
    body: Trace
    after: tuple[Trace, ...]


def around(trace: Trace, names: set[str]) -> Around | None:
    """Where instructions of all these names are; None if no loop holds them."""
    for place, one in enumerate(trace):
        if isinstance(one, Loop) and names <= {each.name for each in flat(one.body)}:
            inner = around(one.body, names) or Around((), one.body, ())
            before, after = (trace[:place], *inner.before), (trace[place + 1 :], *inner.after)
            return Around(before, inner.body, after)
    return None


def through(code: Code, number: int, worth: Callable[[Instruction], int]) -> Trace:
    """The trace from a kernel's start through that instruction to an end that weighs most: in
    instructions, and for each straight run the best and the worst that its instructions are worth.
    """
    blocks, edges = _blocks(code)
    ending = {start for start, end in blocks.items() if code.listing[end - 1].name == "EXIT"}
    leading = _reached_from(_turned(edges), ending)

    def weight(start: int) -> int:
        own = range(start, blocks[start])
        values = [worth(code.listing[one]) for one in own]
        return len(own) + _MUST * (number in own) + min(0, min(values)) + max(0, max(values))

    def shown(start: int) -> Trace:
        return code.listing[start : blocks[start]]

    kept = {start: {to for to in edges[start] if to in leading} for start in leading}
    return _longest(_Graph(kept, weight, shown), 0, ending)[1]


def looping(code: Code) -> set[int]:
    """The numbers of instructions that are on a loop."""
    blocks, edges = _blocks(code)
    found = [one for one in _components(edges, 0) if len(one) > 1 or one <= edges[min(one)]]
    return {number for one in found for start in one for number in range(start, blocks[start])}


@dataclass(frozen=True)
class _Graph:
    """Blocks by their first instruction's number."""

    edges: Edges
    weight: Callable[[int], int]
    shown: Callable[[int], Trace]


def _leaders(code: Code) -> list[int]:
    """Where straight runs of instructions begin."""
    found = {0}
    for number, following in enumerate(code.followers):
        if following != (number + 1,):
            found |= {number + 1, *following}
    return sorted(one for one in found if one < len(code.listing))


def _blocks(code: Code) -> tuple[dict[int, int], dict[int, set[int]]]:
    """Straight runs of instructions: where each ends, and which may follow it."""
    first = _leaders(code)
    blocks = dict(zip(first, (*first[1:], len(code.listing)), strict=True))
    return blocks, {start: set(code.followers[end - 1]) for start, end in blocks.items()}


def _longest(graph: _Graph, start: int, ends: set[int]) -> tuple[int, Trace]:
    """The heaviest trace from a block to one of the ends: its weight, and what is on it."""
    edges = graph.edges
    components = _components(edges, start)
    of = {block: place for place, one in enumerate(components) for block in one}
    best: list[tuple[int, Trace] | None] = [None] * len(components)
    best[of[start]] = (0, ())
    finished: list[tuple[int, Trace]] = []
    for place, component in enumerate(components):
        so_far = best[place]
        if so_far is None:
            continue
        own, run = _once(graph, component, start)
        total = so_far[0] + own, (*so_far[1], *run)
        if component & ends:
            finished.append(total)
        for to in {of[to] for block in component for to in edges[block]} - {place}:
            there = best[to]
            if there is None or there[0] < total[0]:
                best[to] = total
    return max(finished, key=lambda one: one[0])


def _once(graph: _Graph, component: set[int], start: int) -> tuple[int, Trace]:
    """A block, or once around a loop: from the block by which it is entered back to it."""
    (block, *others) = sorted(component)
    if not others and block not in graph.edges[block]:
        return graph.weight(block), graph.shown(block)
    outside = (following for one, following in graph.edges.items() if one not in component)
    head = start if start in component else min(set().union(*outside) & component)
    inside = {one: (graph.edges[one] & component) - {head} for one in component}
    back = {one for one in component if head in graph.edges[one]}
    weight, body = _longest(_Graph(inside, graph.weight, graph.shown), head, back)
    # Only a wait that did not succeed at once tries again.
    tries = len(body) == 2 and isinstance(body[0], Instruction) and ".TRYWAIT" in body[0].rest
    return weight + AVOIDED * tries, (Loop(body),)


def _components(edges: Edges, start: int) -> list[set[int]]:
    """The strongly connected components that can be reached, each before those that follow it
    (Kosaraju's algorithm)."""
    order: list[int] = []
    seen = {start}
    waiting = [(start, iter(sorted(edges[start])))]
    while waiting:
        block, following = waiting[-1]
        new = next((to for to in following if to not in seen), None)
        if new is None:
            order.append(block)
            waiting.pop()
        else:
            seen.add(new)
            waiting.append((new, iter(sorted(edges[new]))))
    before = _turned({block: edges[block] & seen for block in seen})
    found: list[set[int]] = []
    taken: set[int] = set()
    for block in reversed(order):
        if block in taken:
            continue
        component = _reached_from({one: to - taken for one, to in before.items()}, {block})
        taken |= component
        found.append(component)
    return found


def _turned(edges: Edges) -> dict[int, set[int]]:
    turned: dict[int, set[int]] = {block: set() for block in edges}
    for block, following in edges.items():
        for to in following:
            turned.setdefault(to, set()).add(block)
    return turned


def _reached_from(edges: Edges, starts: set[int]) -> set[int]:
    reached = set(starts)
    waiting = [*starts]
    while waiting:
        new = edges[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached

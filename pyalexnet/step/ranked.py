"""The plan of one rank: the calls of its part, and exchanges where parts read each other.

In the plan of all parts, calls that read other parts' arrays are grouped. In a rank's plan, a call
`exchange` precedes its own calls of a group, and transfers what they, or others, read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from pyalexnet.nets.calls import Call, Layout, Operand, Plan, like, name_of


def of_rank(plan: Plan, rank: int) -> Plan:
    """The calls of part `rank`, with the names of a plan of one part."""
    own = _Own(plan, rank)
    for crosses, calls in groupby(plan.calls, plan.crosses):
        if crosses:
            own.meet([*calls])
        else:
            own.calls += [own.call(call, own.reads(call)) for call in calls if call.part == rank]
    return replace(plan, calls=tuple(own.calls), arrays=own.arrays)


@dataclass
class _Own:
    """A rank's plan as far as it has been written."""

    plan: Plan
    rank: int
    calls: list[Call] = field(default_factory=list)
    arrays: dict[str, Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, layout in self.plan.arrays.items():
            if layout.part == self.rank:
                self._array(self._name(name), layout)

    def call(self, call: Call, reads: Mapping[str, Operand]) -> Call:
        """A call of this part, which reads these arrays."""
        writes = tuple(map(self._own, call.writes))
        learns = {argument: self._name(name) for argument, name in call.learns.items()}
        return replace(call, reads=reads, writes=writes, learns=learns, part=0)

    def reads(self, call: Call) -> dict[str, Operand]:
        """The arrays that a call of this part reads, if they are its own."""
        return {argument: self._own(operand) for argument, operand in call.reads.items()}

    def meet(self, calls: Sequence[Call]) -> None:
        """Write down a group of calls of all parts, as far as they concern this one."""
        sends, receives = list[tuple[int, Operand]](), list[tuple[int, Operand]]()
        behind = []
        for call in calls:
            reads = {}
            for argument, operand in call.reads.items():
                source = self.plan.part(operand)
                if self.rank in (source, call.part):
                    x = reads[argument] = self._crossing(call, operand, source)
                if source != call.part and self.rank == source:
                    sends.append((call.part, x))
                elif source != call.part and self.rank == call.part:
                    receives.append((source, x))
            own = self.call(call, reads) if call.part == self.rank else None
            if own and [*own.reads.values()] != [*own.writes]:
                sliced = {"start": 0} if "start" in own.settings else {}
                behind.append(replace(own, settings={**own.settings, **sliced}))
        if sends or receives:
            where = {"to": [to for to, _ in sends], "source": [source for source, _ in receives]}
            sent = {str(number): x for number, (_, x) in enumerate(sends)}
            self.calls.append(Call("exchange", sent, tuple(x for _, x in receives), settings=where))
        self.calls += behind

    def _crossing(self, call: Call, operand: Operand, source: int) -> Operand:
        """The operand that a call reads from part `source`; one of the two parts is this one.

        If a call takes channels of an array, their owner packs and sends only these. A received
        summand is beside the sum, or, if it is the only one, in its place.
        """
        y = call.writes[0]
        sums, here = call.op == "sum_parts", source == self.rank
        if call.op == "exchange_gather" or (sums and here):
            return self._own(operand)
        if sums and len(call.reads) == 1:
            return self._own(y)
        piece = like(y, self._array(f"{name_of(y)} of {source}", self.plan.arrays[name_of(y)]))
        if here:
            packed = Call(call.op, {"0": self._own(operand)}, (piece,), settings=call.settings)
            self.calls.append(packed)
        return piece

    def _own(self, operand: Operand) -> Operand:
        """An operand as this part has it: its own array, or a copy of another's."""
        name = name_of(operand)
        return like(operand, self._array(self._name(name), self.plan.arrays[name]))

    def _name(self, name: str) -> str:
        part = self.plan.arrays[name].part
        return name.replace(f"@{part}", "") if part == self.rank else f"{name} of {part}"

    def _array(self, name: str, layout: Layout) -> str:
        self.arrays.setdefault(name, replace(layout, part=0))
        return name

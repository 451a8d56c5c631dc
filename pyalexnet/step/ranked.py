"""The plan of one rank: the calls of its part, and what ranks exchange where parts read each other.

Calls that read other parts' arrays stand together in the plan of all parts. In that of a rank, one
call `exchange` stands before its own of them, for their arrays, and for those that others read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from pyalexnet.nets.calls import Call, Layout, Operand, Plan, like, name_of


def of_rank(plan: Plan, rank: int) -> Plan:
    """What part `rank` does, with the names of a plan of one part."""
    own = _Own(plan, rank)
    for crosses, calls in groupby(plan.calls, plan.crosses):
        if crosses:
            own.meet([*calls])
        else:
            own.calls += [own.call(call, own.reads(call)) for call in calls if call.part == rank]
    return replace(plan, calls=tuple(own.calls), arrays=own.arrays)


@dataclass
class _Own:
    """What has been written of a rank's plan."""

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
        """What a call of this part reads, if that is its own."""
        return {argument: self._own(operand) for argument, operand in call.reads.items()}

    def meet(self, calls: Sequence[Call]) -> None:
        """Write down calls of all parts that stand together, as far as they concern this one."""
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
        """What a call of any part reads of part `source`, one of the two being this part.

        Of channels that it takes from an array only they cross, packed by the part that has them;
        a sum's summand lies beside it, or, if it is the only one, in its place.
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

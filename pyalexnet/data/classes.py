"""Ids and names of classes: the ids identify them, the names are for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyalexnet.errors import ArgumentError


@dataclass(frozen=True)
class Classes:
    """The classes of a network or of a dataset, in the order of their numbers."""

    ids: tuple[str, ...]  # unique: names of folders, synsets or, failing those, "0", "1", ...
    names: tuple[str, ...]  # for people; not always distinct

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            counts = f"{len(self.ids)} ids and {len(self.names)} names"
            raise ArgumentError(f"classes: there are {counts}; one each was expected.")
        if len(set(self.ids)) < len(self.ids):
            twice = next(one for one in self.ids if self.ids.count(one) > 1)
            raise ArgumentError(f"classes: the id {twice!r} is there twice; once was expected.")

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Classes known by name only; those that share a name are distinguished by number."""
        count = Counter(names)
        ids: list[str] = []
        for number, name in enumerate(names):
            one = name if count[name] == 1 else f"{name} ({number})"
            while one != name and (one in count or one in ids):  # already another's name
                one = f"{one} ({number})"
            ids.append(one)
        return cls(tuple(ids), tuple(names))

    @classmethod
    def numbered(cls, count: int) -> Classes:
        return cls.named([str(number) for number in range(count)])

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, others: Classes) -> tuple[int, ...] | None:
        """The number here of each class of `others`; None if they are not the same classes.

        They are the same if their ids agree, in any order, or their names. Ids that are numbers say
        less than names: if both have names, too, those must agree.
        """
        if set(self.ids) == set(others.ids):
            named = self.names != self.ids and others.names != others.ids
            numbered = all(one.isdecimal() for one in self.ids)
            if named and numbered and self._by_id != others._by_id:
                return None
            return _places(self.ids, others.ids)
        if self.names == others.names:
            return tuple(range(len(self)))
        if set(self.names) == set(others.names) and len(set(self.names)) == len(self):
            return _places(self.names, others.names)
        return None

    def described(self) -> dict[str, str]:
        """Metadata for files for other programs: JSON lists of strings, by label."""
        return {"class_ids": json.dumps(self.ids), "class_names": json.dumps(self.names)}

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Classes:
        """The classes from metadata that `described` made; others raise as `json.loads` may."""
        ids, names = (json.loads(metadata[name]) for name in ("class_ids", "class_names"))
        for texts in (ids, names):
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise TypeError("a list of texts was expected")
        return cls(tuple(ids), tuple(names))

    def difference(self, others: Classes) -> str:
        """The first difference between these and `others`, which are not the same."""
        if len(self) != len(others):
            return f"there are {len(self)} and {len(others)}"
        if set(self.ids) == set(others.ids):
            here, there = self._by_id, others._by_id
            which = next(one for one in others.ids if here[one] != there[one])
            return f"class {which} is {here[which]!r} and {there[which]!r}"
        one = next(name for name in self.ids if name not in set(others.ids))
        other = next(name for name in others.ids if name not in set(self.ids))
        return f"{one!r} is a class of the one, {other!r} of the other"

    @property
    def _by_id(self) -> dict[str, str]:
        return dict(zip(self.ids, self.names, strict=True))


def by_name(names: Sequence[str], others: Sequence[str]) -> dict[str, int]:
    """The places of `names`, and of those of `others` that are unique; `names` go first."""
    times = Counter(others)
    unique = {other: place for place, other in enumerate(others) if times[other] == 1}
    return unique | {name: place for place, name in enumerate(names)}


def _places(known: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    numbers = {one: number for number, one in enumerate(known)}
    return tuple(numbers[one] for one in wanted)

"""All settings of a run, and config.toml, which holds them."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from pyalexnet.errors import ArgumentError, reason
from pyalexnet.files import refusing
from pyalexnet.nets.recipe import Recipe
from pyalexnet.ops.checks import integer
from pyalexnet.step.hybrid import SCHEMES, Division, Scheme
from pyalexnet.step.plan import Precision, check_precision

_Kind = TypeVar("_Kind")

_ABOUT_CONFIG = """\
# All settings of this run. To repeat it:      pyalexnet train --config THIS_FILE
# To change a value and go on:                 edit it here, then pyalexnet train --resume RUN
# Rates are learning rates (lr_w, lr_b) and weight decays (decay_w, decay_b) of a layer's weights
# and biases; a schedule multiplies them: from epoch e of a pair [e, factor] on by factor.

"""


PARALLEL = ("data", "towers", "hybrid")
"""Each rank has a part of every batch, or of the network, or of both: see `step/hybrid.py`."""

_SHARING = ("parallel", "scheme", "divide_momentum")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run, with defaults; the contents of config.toml, in this order."""

    net: str
    data: str = ""  # absolute path, or "" for the built-in set
    backend: str = "auto"  # once the run has begun, the one in use, also after a resume
    device: int = 0
    seed: int = 0
    print_freq: int = 20  # steps between two lines of the log
    keep: int = 3  # newest checkpoints kept; the best one is always kept
    recipe: Recipe
    net_args: dict[str, Any] = field(default_factory=dict)  # arguments of the network's function
    devices: tuple[int, ...] = ()  # of two towers, each half of the network; (): all on `device`
    # Threads that read images ahead; the default is enough for a GPU and leaves cores free.
    workers: int = field(default_factory=lambda: min(8, len(os.sched_getaffinity(0))))
    chance_steps: int = 500  # at chance, after which a run stops; 0: never
    tensorboard: bool = False  # whether events for TensorBoard are written
    precision: Precision = "fp32"  # of maps and the operands of products; parameters are float32
    fused: bool = False
    """Whether one operation may compute several layers (`step/fused.py`). By default a new run
    is fused on cuda and cpu."""
    exact: bool = False  # whether cpu computes every convolution by its formula, even if slower
    parallel: str = ""  # how ranks share the work, as in PARALLEL
    scheme: Scheme = "whole"  # of a hybrid, in which order linear layers see the batch
    divide_momentum: bool = False  # whether each rank keeps its share of the momentum
    shards: int = 0  # parts of a batch, on any number of ranks; 0: one for each rank
    bf16_gradients: bool = False  # whether ranks send gradients rounded to bfloat16

    def __post_init__(self) -> None:
        integer("run", "seed", self.seed, high=2**64 - 1)
        counts = {"print_freq": 1, "keep": 1, "workers": 0, "chance_steps": 0, "shards": 0}
        for name, low in counts.items():
            integer("run", name, getattr(self, name), low=low)
        if (count := len(self.devices)) not in (0, 2):
            raise ArgumentError(f"run: devices has {count} numbers; 2 were expected, one a tower.")
        check_precision("run", self.precision, count)
        self._check_parallel()
        if count and (self.parallel or self.shards):
            name = "parallel" if self.parallel else "shards"
            wanted = "one of them was expected"
            raise ArgumentError(f"run: {name} was given and devices of two towers too; {wanted}.")

    def _check_parallel(self) -> None:
        """Refuse an unknown way to share the work, or a setting that it does not use."""
        for name, known in {"parallel": PARALLEL, "scheme": SCHEMES}.items():
            if (given := getattr(self, name)) and given not in known:
                wanted = f"one of {', '.join(known)} was expected"
                raise ArgumentError(f"run: {name} is {given!r}; {wanted}.")
        check_precision("run", self.precision, 2 if self.division else 1)
        for name, useless, wanted in (
            ("shards", self.shards and self.division, "data"),
            ("bf16_gradients", self.bf16_gradients and self.division == "towers", "data or hybrid"),
            ("scheme", self.scheme != "whole" and self.parallel != "hybrid", "hybrid"),
        ):
            if useless:
                said = f"run: {name} is {getattr(self, name)} and parallel {self.parallel or None}"
                raise ArgumentError(f"{said}; {wanted} was expected.")

    @property
    def division(self) -> Division | None:
        """How ranks divide the layers."""
        if self.parallel == "towers":
            return "towers"
        return self.scheme if self.parallel == "hybrid" else None

    @property
    def all_net_args(self) -> dict[str, Any]:
        """`net_args`, with norms kept within a tower if the run has two."""
        return self.net_args | ({"towers_norm": True} if self.devices else {})

    def to_toml(self) -> str:
        """The text of config.toml."""
        return _ABOUT_CONFIG + _toml(asdict(self))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> Config:
        """Build from parsed TOML or JSON; a refusal names `source`."""
        try:
            config = validated(cls, values)
            if unknown := flat(values).keys() - flat(asdict(config)).keys():
                raise ValueError(f"{min(unknown)} is not a known setting")
        except ValueError as error:
            raise ArgumentError(f"{source}: {reason(error)}.") from error
        return config

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config.toml, or refuse it with an ArgumentError."""
        with refusing(ArgumentError, path, "read", ValueError, RecursionError):
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls.from_mapping(values, str(path))

    def changes(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """The values that differ, under their dotted names, as (this one's, the other's).

        Settings of how processes share the work are left out.
        """
        mine, theirs = (flat(c.of_any_ranks) for c in (self, other))
        pairs = {name: (mine.get(name), theirs.get(name)) for name in mine | theirs}
        return {name: (old, new) for name, (old, new) in pairs.items() if old != new}

    @property
    def of_any_ranks(self) -> dict[str, Any]:
        """The values, except how processes share the work, which does not change the results."""
        return {name: value for name, value in asdict(self).items() if name not in _SHARING}


def validated(kind: type[_Kind], values: Any) -> _Kind:
    """Values of JSON or TOML as a dataclass; a ValueError names the first that does not fit."""
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name, own = ".".join(map(str, first["loc"])), first.get("ctx", {}).get("error")
        is_sentence = isinstance(own, ArgumentError)
        raise ValueError(str(own) if is_sentence else f"{name}: {first['msg']}") from error


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables flattened into one, with dotted names."""
    one: dict[str, Any] = {}
    for name, value in table.items():
        inner = isinstance(value, Mapping)
        one |= flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return one


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """A table as TOML: its values first, then the tables in it; None is left out."""
    own = {name: each for name, each in table.items() if not isinstance(each, Mapping | None)}
    text = "".join(f"{_toml_key(name)} = {_toml_value(value)}\n" for name, value in own.items())
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            dotted = path + _toml_key(name)
            text += f"\n[{dotted}]\n{_toml(inner, f'{dotted}.')}"
    return text


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):  # of a list
        pairs = (f"{_toml_key(name)} = {_toml_value(each)}" for name, each in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    # TOML has JSON's escapes, except for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

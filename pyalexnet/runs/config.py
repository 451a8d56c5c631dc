"""Every choice of a run, and config.toml, which holds them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from pyalexnet.errors import ArgumentError, reason
from pyalexnet.nets.recipe import Recipe
from pyalexnet.ops.checks import integer
from pyalexnet.step.plan import Precision, check_precision

MOST_WORKERS = 8
"""Most threads that read images by default: enough for a GPU, and polite."""

_ABOUT_CONFIG = """\
# Every choice of this run. To repeat it:      pyalexnet train --config THIS_FILE
# To change a value and go on:                 edit it here, then pyalexnet train --resume RUN
# Rates are learning rates (lr_w, lr_b) and weight decays (decay_w, decay_b) of a layer's weights
# and biases; a schedule multiplies them: from epoch e of a pair [e, factor] on by factor.

"""


def default_workers() -> int:
    """Threads that read images ahead: as many as there are cores, within reason."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every choice of a run, with its default; the contents of config.toml, in this order."""

    net: str
    data: str = ""
    """Absolute path of the data, or "" for the built-in set."""
    backend: str = "auto"
    """Once the run has begun it is the one that was found: a resumed run uses the same."""
    device: int = 0
    seed: int = 0
    print_freq: int = 20
    """Steps between two lines of the log."""
    keep: int = 3
    """Number of newest checkpoints kept; the best one is always kept."""
    recipe: Recipe
    net_args: dict[str, Any] = field(default_factory=dict)
    """The chosen arguments of the network's function, by name."""
    devices: tuple[int, ...] = ()
    """The devices of two towers, each half of the network; (): the whole runs on `device`."""
    workers: int = field(default_factory=default_workers)
    """Threads that read images ahead."""
    chance_steps: int = 500
    """Steps at chance after which a run stops; 0: never."""
    tensorboard: bool = False
    """Whether events for TensorBoard are written."""
    precision: Precision = "fp32"
    """Of maps and the operands of products; parameters are always float32."""
    fused: bool = False
    """Whether operations take layers together (`step/fused.py`), rather than one by one. A new run
    does on cuda and cpu, unless it was told."""
    exact: bool = False
    """Whether cpu computes every convolution by its formula, even where another way is faster."""

    def __post_init__(self) -> None:
        integer("run", "seed", self.seed, high=2**64 - 1)
        integer("run", "print_freq", self.print_freq, low=1)
        integer("run", "keep", self.keep, low=1)
        integer("run", "workers", self.workers)
        integer("run", "chance_steps", self.chance_steps)
        if len(self.devices) not in (0, 2):
            raise ArgumentError(
                f"run: devices has {len(self.devices)} numbers; 2 were expected, one a tower."
            )
        check_precision("run", self.precision, len(self.devices))

    @property
    def all_net_args(self) -> dict[str, Any]:
        """`net_args`, with norms kept within a tower if the run has two."""
        return self.net_args | ({"towers_norm": True} if self.devices else {})

    def to_toml(self) -> str:
        """The text of config.toml."""
        return _ABOUT_CONFIG + _toml(dataclasses.asdict(self))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> Config:
        """Build from parsed TOML or JSON.

        Raises:
            ArgumentError: a value is missing, wrong or one too many; it names `source`.
        """
        try:
            config = pydantic.TypeAdapter(cls).validate_python(values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name, own = ".".join(map(str, first["loc"])), first.get("ctx", {}).get("error")
            said = str(own) if isinstance(own, ArgumentError) else f"{name}: {first['msg']}."
            raise ArgumentError(f"{source}: {said}") from error
        unknown = flat(values).keys() - flat(dataclasses.asdict(config)).keys()
        if unknown:
            raise ArgumentError(f"{source}: {sorted(unknown)[0]} is not a known setting.")
        return config

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config.toml.

        Raises:
            ArgumentError: it cannot be read, is not TOML, lacks a value or has one too many.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArgumentError(f"{path} cannot be read: {reason(error)}.") from error
        return cls.from_mapping(values, str(path))

    def changes(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """The values that differ, under their dotted names, as (this one's, the other's)."""
        mine, theirs = (flat(dataclasses.asdict(c)) for c in (self, other))
        return {
            name: (mine.get(name), theirs.get(name))
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        }


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables flattened into one, with dotted names."""
    one: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            one |= flat(value, f"{prefix}{name}.")
        else:
            one[prefix + name] = value
    return one


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """A table as TOML: its values first, then the tables in it; None is left out."""
    lines = [
        f"{_toml_key(name)} = {_toml_value(value)}"
        for name, value in table.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "".join(line + "\n" for line in lines)
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            dotted = f"{path}.{_toml_key(name)}" if path else _toml_key(name)
            text += f"\n[{dotted}]\n{_toml(inner, dotted)}"
    return text


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):  # of a list
        pairs = (f"{_toml_key(name)} = {_toml_value(each)}" for name, each in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(each) for each in value) + "]"
    if isinstance(value, str):  # TOML has JSON's escapes, except for the delete character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)  # int, float, bool

"""A claim as data: the statement of 2012, the networks to train, and the deciding measures."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pyalexnet.errors import ArgumentError
from pyalexnet.runs.config import validated

from . import measures

FOLDER = Path(__file__).parent / "claims"

# What `--data` takes for each kind of images.
DATA = {
    "cifar10": "a folder of CIFAR-10, or nothing after `pyalexnet data get cifar10`",
    "photographs": "a pack: `pyalexnet data prepare FOLDER PACK --size 128 --format uint8`",
}

Settings: TypeAlias = Mapping[str, Any]
"""How a network is made and trained: see `networks.build` and `training.Run`."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A number that decides a part of the claim: one measure, seed by seed.

    measure, at: see `measures.of`, `measures.half_way`. of, over: the number is that of the first
    variant, or its excess over the second, or their ratio. least: the bound that a lone number has
    to exceed. printed: 2012's. repeats: it is the error, in whole percents, of 2012's own network.
    """

    says: str
    measure: str
    at: float | Literal["half way"] | None = None
    of: str
    over: str = ""
    ratio: bool = False
    least: float | None = None
    printed: float | None = None
    repeats: bool = False

    @property
    def none(self) -> float | None:
        """The value that means no effect."""
        return float(self.ratio) if self.over else self.least

    @property
    def unit(self) -> str:
        unit = measures.unit(self.measure)
        return "times" if self.ratio else "points" if self.over and unit == "%" else unit


@dataclass(frozen=True, kw_only=True)
class Search:
    """Each variant's learning rate is searched first, with seed 0, and the best one is taken.

    That is the rate with the fewest epochs to the training error `error` or, if none gets there
    within `epochs`, with the lowest training error.
    """

    rates: tuple[float, ...]
    epochs: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The contents of a file of `claims/`; its name is the claim's.

    paper, where: the sentence, and its section. confounded: why the answer of 2012 is less than
    clear. here: the differences from 2012. minutes: estimated, on two quiet cores. train: settings
    of every variant. variants: their differences. picture: the plot beside the effects.
    """

    name: str
    number: str
    title: str
    paper: str
    where: str
    confounded: str
    here: str
    data: Literal["cifar10", "photographs"]
    minutes: float
    seeds: int
    train: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    search: Search | None = None
    effects: tuple[Effect, ...]
    picture: Literal["train_error", "test_error", "train_loss", "test_loss", "signal", "chroma"] = (
        "test_error"
    )

    def __post_init__(self) -> None:
        for variant in (name for each in self.effects for name in (each.of, each.over) if name):
            if variant not in self.variants:
                known = ", ".join(self.variants)
                said = f"{self.name}: an effect is of {variant!r}"
                raise ArgumentError(f"{said}; one of {known} was expected.")

    def settings(self, variant: str) -> dict[str, Any]:
        """How a variant is made and trained; its changes to layers add to those of all."""
        own = self.variants[variant]
        layers = {**self.train.get("layers", {}), **own.get("layers", {})}
        return {**self.train, **own, **({"layers": layers} if layers else {})}


def every(folder: Path = FOLDER) -> list[Claim]:
    """The claims, in the order of their numbers."""
    return sorted(map(_load, folder.glob("*.toml")), key=lambda claim: claim.number)


def named(text: str) -> list[Claim]:
    """The claim of a name or number; several if a numbered claim has parts."""
    claims = every()
    found = [each for each in claims if text in (each.name, each.number, each.number.rstrip("abc"))]
    if not found:
        known = ", ".join(f"{each.number} {each.name}" for each in claims)
        raise ArgumentError(f"claim is {text!r}; one of these was expected: {known}.")
    return found


def _load(path: Path) -> Claim:
    """The claim in a file, which may inherit missing fields from another file, its `base`."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    if base := values.pop("base", None):
        other = tomllib.loads(path.with_name(f"{base}.toml").read_text(encoding="utf-8"))
        values = {**other, **values, "train": {**other["train"], **values["train"]}}
    try:
        return validated(Claim, {"name": path.stem, **values})
    except ValueError as error:
        raise ArgumentError(f"{path}: {error}") from error

"""The course of a learning rate over a run: the factor applied to it at each epoch.

The paper's rule (section 5) is `Plateau`; `Exp`, `Dexp` and `Linear` are those of cuda-convnet2
(`lr.cu`; its wiki's page LearningRates). Each also has a text form, for the command line:

    const   steps[25=0.1;51=0.01]   linear[factor=250]   exp[factor=250]
    dexp[factor=250;steps=4]   plateau[factor=10;times=3;patience=5;threshold=0.001]

There `factor` divides the base rate: in total, or for plateau at each drop.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeAlias

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer, positive, real

_EXAMPLES = (
    "const, steps[25=0.1;51=0.01], linear[factor=250], exp[factor=250], dexp[factor=250;steps=4] "
    "or plateau[factor=10;times=3;patience=5]"
)
# In the 2012 run's 90 epochs, drops lay 14 to 26 epochs apart; a rate without improvement for 5
# epochs is exhausted, and the 4 plateaus of the paper's rule leave 70 epochs for progress.
_EPOCHS, _PATIENCE = 90, 5


@dataclass(frozen=True)
class _Course(ABC):
    kind: str = field(default="", kw_only=True, repr=False)

    @abstractmethod
    def factor(self, epoch: float, drops: int = 0) -> float:
        """The factor of the base rate.

        epoch: counted from 0, fractions included. drops: of `PlateauState`, read by `Plateau` only.
        """

    @abstractmethod
    def stretched(self, ratio: float) -> Self:
        """The same course over `ratio` times as many epochs."""

    @classmethod
    def options(cls) -> dict[str, str]:
        """The options between the brackets of the text form, and the field that each sets."""
        names = [each.name for each in dataclasses.fields(cls)]
        options = [name for name in names if name not in ("kind", "epochs")]
        return {"factor" if name == "divisor" else name: name for name in options}

    def _values(self) -> Mapping[str, float]:
        return {option: getattr(self, name) for option, name in self.options().items()}

    def __str__(self) -> str:
        """The text form; numbers are exact."""
        texts = (f"{name}={value!r}".removesuffix(".0") for name, value in self._values().items())
        options = ";".join(texts)
        return f"{self.kind}[{options}]" if options else self.kind


@dataclass(frozen=True)
class Constant(_Course):
    """The base rate throughout."""

    kind: Literal["const"] = field(default="const", kw_only=True, repr=False)

    def factor(self, epoch: float, drops: int = 0) -> float:
        return 1.0

    def stretched(self, ratio: float) -> Constant:
        return self


@dataclass(frozen=True)
class Steps(_Course):
    """Each `(epoch, factor)` multiplies the base rate by `factor` from `epoch` on.

    Factors do not accumulate: `Steps(((25, 0.1), (51, 0.01)))` divides by 10 twice. Before the
    first step the factor is 1. A factor of 0 freezes.
    """

    kind: Literal["steps"] = field(default="steps", kw_only=True, repr=False)
    steps: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for epoch, factor in self.steps:
            real("schedule", "an epoch", epoch, low=0)
            real("schedule", "a factor", factor, low=0)
        starts = [epoch for epoch, _ in self.steps]
        if starts != sorted(starts):
            raise ArgumentError(f"schedule: epochs are {starts}; ascending ones were expected.")

    def factor(self, epoch: float, drops: int = 0) -> float:
        return next((factor for start, factor in reversed(self.steps) if epoch >= start), 1.0)

    def stretched(self, ratio: float) -> Steps:
        return Steps(tuple((start * ratio, factor) for start, factor in self.steps))

    def _values(self) -> Mapping[str, float]:
        return {repr(epoch).removesuffix(".0"): factor for epoch, factor in self.steps}


@dataclass(frozen=True)
class _Fall(_Course):
    """A fall from the base rate to 1 / `divisor` of it over `epochs`, and constant after that."""

    divisor: float
    epochs: float

    def __post_init__(self) -> None:
        positive("schedule", "divisor", self.divisor)
        positive("schedule", "epochs", self.epochs)

    def stretched(self, ratio: float) -> Self:
        return dataclasses.replace(self, epochs=self.epochs * ratio)

    def _progress(self, epoch: float) -> float:
        """The fraction of the fall completed."""
        return min(max(epoch / self.epochs, 0.0), 1.0)


@dataclass(frozen=True)
class Linear(_Fall):
    """A straight line from the base rate to 1 / `divisor` of it."""

    kind: Literal["linear"] = field(default="linear", kw_only=True, repr=False)

    def factor(self, epoch: float, drops: int = 0) -> float:
        done = self._progress(epoch)
        return (1 - done) + done / self.divisor


@dataclass(frozen=True)
class Exp(_Fall):
    """The base rate * divisor^-progress."""

    kind: Literal["exp"] = field(default="exp", kw_only=True, repr=False)

    def factor(self, epoch: float, drops: int = 0) -> float:
        return float(self.divisor ** -self._progress(epoch))


@dataclass(frozen=True)
class Dexp(_Fall):
    """`Exp` in `steps` stairs of equal length and equal ratio: stair i has divisor^(-i/(steps-1)).

    The first stair is the base rate, the last 1 / `divisor` of it.
    """

    kind: Literal["dexp"] = field(default="dexp", kw_only=True, repr=False)
    steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("schedule", "steps", self.steps, low=2)

    def factor(self, epoch: float, drops: int = 0) -> float:
        stair = min(int(max(epoch, 0.0) * self.steps / self.epochs), self.steps - 1)
        return float(self.divisor ** -(stair / (self.steps - 1)))


@dataclass(frozen=True)
class PlateauState:
    """The state of a run's `Plateau`: all that resuming it needs, and JSON-able."""

    best: float = 1.0  # lowest test error so far, a fraction
    waited: int = 0  # epochs since that error, or since the last drop
    drops: int = 0
    ended: bool = False  # the lowest rate no longer helps: the run is over


@dataclass(frozen=True)
class Plateau(_Course):
    """Divide by `divisor` each time the test error stops improving (paper, section 5).

    After `times` drops the next such plateau ends the run.
    """

    kind: Literal["plateau"] = field(default="plateau", kw_only=True, repr=False)
    divisor: float = 10.0
    times: int = 3  # drops
    # Epochs without an improvement that make a plateau; at least one, as each has one test.
    patience: float = _PATIENCE
    # How far an error, a fraction of the images, must fall below the best one to be an improvement.
    threshold: float = 0.001

    def __post_init__(self) -> None:
        positive("schedule", "divisor", self.divisor)
        integer("schedule", "times", self.times, low=1)
        positive("schedule", "patience", self.patience)
        real("schedule", "threshold", self.threshold, low=0, high=1)

    def factor(self, epoch: float, drops: int = 0) -> float:
        return float(self.divisor**-drops)

    def stretched(self, ratio: float) -> Plateau:
        return dataclasses.replace(self, patience=self.patience * ratio)

    def after(self, state: PlateauState, error: float) -> PlateauState:
        """The state after an epoch with this test error (a NaN is no improvement)."""
        if state.ended:
            return state
        if error < state.best - self.threshold:
            return dataclasses.replace(state, best=error, waited=0)
        waited = state.waited + 1
        if waited < self.patience:
            return dataclasses.replace(state, waited=waited)
        if state.drops == self.times:
            return dataclasses.replace(state, waited=waited, ended=True)
        return dataclasses.replace(state, waited=0, drops=state.drops + 1)


_KINDS: Mapping[str, Any] = {
    kind.kind: kind for kind in (Constant, Steps, Linear, Exp, Dexp, Plateau)
}


class _ByKind:
    """Tells pydantic to read a schedule by its `kind`; without one it is `Steps`, as in old files.

    Written out, so that computing with schedules does not import pydantic.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        names = ", ".join(_KINDS)
        return core_schema.tagged_union_schema(
            {name: handler.generate_schema(kind) for name, kind in _KINDS.items()},
            discriminator=self._kind,
            custom_error_type="schedule",
            custom_error_message=f"A table with one of these kinds was expected: {names}",
        )

    def _kind(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return value.get("kind", "steps")
        return getattr(value, "kind", None)


Schedule: TypeAlias = Annotated[Constant | Steps | Linear | Exp | Dexp | Plateau, _ByKind()]


def parse(text: str, epochs: float) -> Schedule:
    """The schedule of a text form, over a run of `epochs`; `str` of it gives the text back.

    A plateau's patience defaults to 5 epochs of 90. Other texts are refused with an ArgumentError.
    """
    found = re.fullmatch(r"(\w+)(?:\[(.*)\])?", re.sub(r"\s", "", text))
    if found is None or found[1] not in _KINDS:
        raise ArgumentError(f"schedule is {text!r}; {_EXAMPLES} was expected.")
    kind = _KINDS[found[1]]
    options = [option.partition("=") for option in (found[2] or "").split(";") if option]
    pairs = [(name, _number(text, value)) for name, _, value in options]
    if kind is Steps:
        return Steps(tuple((_number(text, epoch), factor) for epoch, factor in pairs))
    given, fields = dict(pairs), kind.options()
    unknown = [name for name in given if name not in fields]
    missing = [name for name in fields if name not in given and kind is not Plateau]
    if unknown or missing:
        wrong = f"without {missing[0]}" if missing else f"with {unknown[0]!r}"
        expected = f"the options {', '.join(fields)}" if fields else "no option"
        raise ArgumentError(f"schedule is {text!r}, {wrong}; {expected} was expected.")
    values: dict[str, float] = {}
    if kind is Plateau:
        values["patience"] = _PATIENCE * epochs / _EPOCHS
    elif issubclass(kind, _Fall):
        values["epochs"] = epochs
    for name, value in given.items():
        count = name in ("steps", "times") and value.is_integer()
        values[fields[name]] = int(value) if count else value
    made: Schedule = kind(**values)
    return made


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ArgumentError(
            f"schedule is {text!r}, with {value!r} where a number was expected."
        ) from None


def rates_from(options: Iterable[str], layers: Collection[str]) -> dict[str, float]:
    """Learning rates by layer, out of `LAYER=LR` texts; other texts and layers are refused.

    layers: names of those with parameters.
    """
    rates: dict[str, float] = {}
    for option in options:
        layer, _, lr = (part.strip() for part in option.partition("="))
        if layer not in layers:
            raise ArgumentError(
                f"layer-lr is {option!r}; LAYER=LR with one of {', '.join(layers)} was expected."
            )
        rates[layer] = real("layer-lr", layer, lr, low=0)
    return rates

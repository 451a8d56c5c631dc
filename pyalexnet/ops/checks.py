"""Checks of plain arguments; a refusal is one sentence: what came, and what was expected."""

from __future__ import annotations

import math
import operator
from typing import Any

from pyalexnet.errors import ArgumentError


def integer(who: str, name: str, value: Any, *, low: int = 0, high: int | None = None) -> int:
    """Return `value` as an int in low..high; `who` is the operation or layer."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{who}: {name} is {value!r}; an integer was expected.") from None
    if number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"{low} to {high}"
        raise ArgumentError(f"{who}: {name} is {number}; {span} was expected.")
    return number


def real(
    who: str, name: str, value: Any, *, low: float = -math.inf, high: float = math.inf
) -> float:
    """Return `value` as a finite float in low..high; `who` is the operation or layer."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{who}: {name} is {value!r}; a number was expected.") from None
    except OverflowError:
        raise ArgumentError(
            f"{who}: {name} is an integer beyond every float; a finite number was expected."
        ) from None
    if not math.isfinite(number):
        raise ArgumentError(f"{who}: {name} is {number}; a finite number was expected.")
    if not low <= number <= high:
        span = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise ArgumentError(f"{who}: {name} is {number:g}; {span} was expected.")
    return number


def positive(who: str, name: str, value: Any) -> float:
    """Return `value` as a finite float above zero; `who` is the operation or layer."""
    number = real(who, name, value)
    if number <= 0:
        raise ArgumentError(f"{who}: {name} is {number:g}; a number above 0 was expected.")
    return number

"""Cards by name, for floors computed without one: assumptions, not results."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("fp32", "tf32", "bf16")
# bfloat16 products in one float32 product in three planes (fp32x3).
PRODUCTS_OF_THREE = 6


@dataclass(frozen=True)
class Card:
    """Rates that an operation is compared with.

    flops: by precision, floating-point operations a second that matrix products reach.
    bandwidth: bytes a second, read and written together.
    source: where the numbers come from.
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    source: str

    def seconds(self, precision: str, flops: float, nbytes: float) -> float:
        """The least time that arithmetic and traffic allow, each at its full rate."""
        return max(flops / self.flops[precision], nbytes / self.bandwidth)


def names() -> tuple[str, ...]:
    """Cards that `get` knows; the first is the default."""
    return ("H100", "H200", "A100")


def get(name: str) -> Card:
    """The card called `name`.

    Raises:
        ValueError: there is no such card.
    """
    for card in _known():
        if card.name == name.upper():
            return card
    raise ValueError(f"card is {name!r}; one of {', '.join(names())} was expected.")


def _known() -> tuple[Card, ...]:
    hopper = {"fp32": 60e12, "fp32x3": 790e12 / PRODUCTS_OF_THREE, "tf32": 400e12, "bf16": 790e12}
    assumed = "assumed: rates that libraries reach in large products and copies, not measured here"
    sheet = "data sheet of the SXM card with 80 GB"
    ampere = {"fp32": 19.5e12, "fp32x3": 312e12 / PRODUCTS_OF_THREE, "tf32": 156e12, "bf16": 312e12}
    return (
        Card("H100", hopper, 3.0e12, assumed),
        Card("H200", hopper, 4.3e12, assumed),
        Card("A100", ampere, 2.039e12, sheet),
    )

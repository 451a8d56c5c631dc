"""Dropout, the loss, the update, and the exchange between parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exact import Exact, Floats, Numbers, double, single

LOW_WORD = 0xFFFFFFFF


def philox4x32(counter: Sequence[Numbers | int], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011).

    `counter`: four words, lowest first, each a number or an array. Returns the four output words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, dtype=np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)  # 64-bit products
        c0, c1, c2, c3 = (
            (right >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            right & np.uint64(LOW_WORD),
            (left >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            left & np.uint64(LOW_WORD),
        )
        k0, k1 = (k0 + 0x9E3779B9) & LOW_WORD, (k1 + 0xBB67AE85) & LOW_WORD
    return [c0, c1, c2, c3]


def dropout_draws(
    shape: tuple[int, ...],
    *,
    seed: int,
    step: int,
    layer: int,
    offset: int = 0,
    total: int | None = None,
    first: int = 0,
) -> NDArray[np.uint64]:
    """The 32-bit draw of every element of a batch: element e is word e % 4 of block e // 4."""
    images, features = shape[0], int(np.prod(shape[1:]))
    image, feature = np.indices((images, features), dtype=np.uint64)
    start = first * (total := features if total is None else total) + offset
    e = image * np.uint64(total) + np.uint64(start) + feature
    block = e // np.uint64(4)
    words = philox4x32(
        (block & np.uint64(LOW_WORD), step, layer, block >> np.uint64(32)),
        (seed & LOW_WORD, seed >> 32),
    )
    return np.choose((e % np.uint64(4)).astype(np.intp), words).reshape(shape)


def dropout(
    x: Numbers,
    *,
    keep: float,
    seed: int,
    step: int,
    layer: int,
    offset: int = 0,
    total: int | None = None,
    first: int = 0,
) -> Floats:
    """x where the draw, as a fraction of 2^32, is below keep; else 0. No rescaling (2012 rule)."""
    where = {"seed": seed, "step": step, "layer": layer, "offset": offset, "first": first}
    draws = dropout_draws(x.shape, total=total, **where)
    return np.where(draws.astype(np.float64) < keep * 2.0**32, double(x), 0.0)


def dropped(y: Exact, *, factor: float = 1.0, **draw: Any) -> Exact:
    """An output times the factor where it is kept, else 0; `draw` are the arguments of dropout."""
    kept = dropout(np.ones(y.value.shape), **draw) == 1
    return Exact(np.where(kept, y.value * factor, 0), np.where(kept, y.magnitude * abs(factor), 0))


def let_pass(dx: Exact, gate: Numbers | None, factor: float = 1.0) -> Exact:
    """A gradient times the factor where the gate is above 0, else 0."""
    on = np.ones(dx.value.shape, bool) if gate is None else double(gate) > 0
    return Exact(np.where(on, dx.value * factor, 0), np.where(on, dx.magnitude * abs(factor), 0))


def softmax_cross_entropy(logits: Numbers, labels: Numbers) -> tuple[Exact, Exact]:
    """loss = mean of log(sum of exp z) - z[label]; dlogits = (softmax - onehot) / N.

    Magnitudes, with t = z - max z, p = softmax, S = sum of exp t: exp, log and the division each
    add a constant number of units (the tests count 24), and rounding t once by a relative u
    changes exp t by u |t|, so the uncertainty of S and p grows by 1 + the sum of p |t| / 8. A t
    below the range is -inf, and its exp 0; if the sum of the losses overflows, so does the mean.
    """
    z = double(logits)
    rows = np.arange(len(z))
    t = single(z - z.max(axis=1, keepdims=True))
    S = np.exp(t).sum(axis=1, keepdims=True)
    p = np.exp(t) / S
    slips = np.where(p > 0, p * abs(t), 0) / 8
    unsure = 1 + slips.sum(axis=1, keepdims=True)
    onehot = np.zeros_like(z)
    onehot[rows, labels] = 1
    loss = Exact(
        single((np.log(S[:, 0]) - t[rows, labels]).sum()) / len(z),
        np.asarray((unsure[:, 0] + np.log(S[:, 0]) + abs(t[rows, labels]) / 8).mean()),
    )
    return loss, Exact((p - onehot) / len(z), (p * unsure + slips + onehot) / len(z))


def topk_error(logits: Numbers, labels: Numbers, k: int) -> float:
    """1 - mean credit; credit = clamp((k - g) / t, 0, 1): g logits above the label's, t equal.

    A label whose logit is NaN equals nothing, itself included, and gets no credit.
    """
    credit = 0.0
    for z, label in zip(double(logits), np.asarray(labels), strict=True):
        above, equal = int((z > z[label]).sum()), int((z == z[label]).sum())
        credit += min(max((k - above) / equal, 0.0), 1.0) if equal else 0.0
    return 1 - credit / len(labels)


def sgd_update(
    w: Numbers,
    v: Numbers,
    dw: Numbers | Exact,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> tuple[Exact, Exact]:
    """Paper section 5: v = momentum v - weight_decay lr w - lr dw; w = w + v. Returns (w, v).

    dw may itself be a sum with a magnitude, which then counts as its size.
    """
    gradient = dw if isinstance(dw, Exact) else Exact(double(dw), abs(double(dw)))
    w, v = double(w), double(v)
    if lr == 0:
        return Exact(w, np.zeros_like(w)), Exact(v, np.zeros_like(v))
    step = momentum * v - weight_decay * lr * w - lr * gradient.value
    size = abs(momentum * v) + abs(weight_decay * lr * w) + abs(lr) * gradient.magnitude
    return Exact(w + step, abs(w) + size), Exact(step, size)


def split(w: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Bits of the nearest bfloat16 (ties to even), and of the remainder: w's
    bits are 2^16 times the first, plus the second, which has a sign. A NaN becomes the canonical
    one: rounding would turn some into numbers.
    """
    bits = np.where(np.isnan(w), 0x7FC00000, w.view(np.uint32).astype(np.int64))
    high = (bits + 2**15) // 2**16
    return high.astype(np.uint16), (bits - 2**16 * high).astype(np.int16).view(np.uint16)


def joined(high: NDArray[Any], low: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 numbers that `split` split."""
    bits = 2**16 * high.view(np.uint16).astype(np.int64) + low.view(np.int16)
    return bits.astype(np.uint32).view(np.float32)


def exchange_gather(parts: Sequence[Numbers]) -> Floats:
    """The towers' maps concatenated."""
    return np.concatenate([double(part) for part in parts], axis=-1)


def exchange_scatter_add(dwholes: Sequence[Numbers], *, start: int, channels: int) -> Exact:
    """A tower's share of the gradients of all towers that read its maps."""
    shares = [double(dwhole)[..., start : start + channels] for dwhole in dwholes]
    return Exact(sum(shares[1:], shares[0]), sum(map(abs, shares[1:]), abs(shares[0])))


def sum_parts(parts: Sequence[Numbers]) -> Exact:
    """The sum of arrays of one shape."""
    whole = np.stack([double(part) for part in parts])
    return Exact(whole.sum(axis=0), abs(whole).sum(axis=0))

"""The loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import FLOAT32, Array, element_of


class SoftmaxOps(Device):
    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Any,
        *,
        dtype: Any = np.float32,
        out: tuple[Array, Array, Array, Array] | None = None,
    ) -> tuple[Array, Array, Array, Array]:
        """Mean cross-entropy of the softmax, its gradient, and the errors (paper, section 3.5).

        With g logits above the label's and t equal to it (itself included), the top-k credit of an
        image is (k - g) / t clamped to 0..1, as in cuda-convnet; an error is 1 - the mean credit.

        Args:
            logits: (N, classes).
            labels: (N,) integers of any type, of the host or the device. A label that is no class
                is refused if on the host; on a GPU it makes loss and gradient NaN.
            dtype: of dlogits, float32 or bfloat16; logits are float32 in either case.

        Returns:
            loss: 0-d, the mean of -log softmax(logits)[label].
            dlogits: (N, classes), its gradient.
            top1_error, top5_error: 0-d, fractions.
        """
        who = "softmax_cross_entropy"
        shape = self._shape(who, "logits", logits, ("N", "classes"))
        labels = self.checked_labels(labels, *shape)
        results = self._results(
            who,
            out,
            loss=((), FLOAT32),
            dlogits=(shape, element_of(who, "dtype", dtype)),
            top1_error=((), FLOAT32),
            top5_error=((), FLOAT32),
        )
        self._run(who, logits, labels, *results)
        loss, dlogits, top1, top5 = results
        return loss, dlogits, top1, top5

    def checked_labels(self, labels: Any, rows: int, classes: int) -> Array:
        """Labels as `softmax_cross_entropy` takes them for logits (rows, classes), int64 here."""
        who = "softmax_cross_entropy"
        visible = not isinstance(labels, self.array_type) or self.array_type is np.ndarray
        if visible:
            labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            raise ArgumentError(f"{who}: labels are {labels.dtype}; integers were expected.")
        if labels.shape != (rows,):
            raise ArgumentError(
                f"{who}: labels has shape {labels.shape}; logits has {rows} rows, so ({rows},) was "
                "expected."
            )
        if visible and not 0 <= labels.min() <= labels.max() < classes:
            bad = labels[(labels < 0) | (labels >= classes)][0]
            raise ArgumentError(
                f"{who}: labels has {bad}; with {classes} classes 0 to {classes - 1} were expected."
            )
        return self.asarray(labels, np.int64)

"""A case's arrays as PyTorch's tensors, and operations that all its forms share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..cases import Arrays, Case
from ..gate import widened
from ..oracle import joined
from . import Candidate

Outputs: TypeAlias = tuple[NDArray[Any] | None, ...]


class Operations:
    """A case's arrays as tensors, and what all forms share."""

    def __init__(self, torch: Any, device: str, case: Case, arrays: Arrays, precision: str) -> None:
        self.torch, self.device, self.case = torch, device, case
        self.arrays = whole(arrays)
        self.precision = precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.settings = case.settings
        self.functional = torch.nn.functional

    def flat(self, name: str) -> Any:
        """An array with its axes in their own order."""
        return self.master(name).to(self.dtype)

    def master(self, name: str) -> Any:
        """The same in float32, the type of parameters and momenta in every precision."""
        return self.torch.tensor(self.arrays[name], device=self.device)

    def maps(self, name: str, nchw: bool = False) -> Any:
        """NHWC or KRSC as PyTorch's axes: channels_last in memory, or contiguous."""
        tensor = self.flat(name).permute(0, 3, 1, 2)
        return tensor.contiguous() if nchw else tensor

    def candidate(
        self, form: str, run: Callable[[], Any], outputs: Callable[[Any], Outputs]
    ) -> Any:
        """A form, run under the rules of its precision and without recording gradients."""
        torch = self.torch

        def ruled() -> Any:
            set_precision(torch, self.precision)
            with torch.no_grad():
                return run()

        return Candidate(f"PyTorch {form}", self.precision, ruled, outputs)

    def both_layouts(
        self,
        form: str,
        make: Callable[[bool], Callable[[], Any]],
        outputs: Callable[[Any], Outputs],
    ) -> Iterator[Candidate]:
        """The same call on channels_last and on contiguous tensors."""
        for layout in ("channels_last", "NCHW"):
            run = _lazily(partial(make, layout == "NCHW"))
            yield self.candidate(f"{form} {layout}".strip(), run, outputs)


def whole(arrays: Arrays) -> Arrays:
    """The arrays with bfloat16 as float32, to be passed to PyTorch, and weights in one piece."""
    found = {name: widened(array) for name, array in arrays.items()}
    for low in ("low", "w.low"):
        if low in found:
            found["w"] = joined(arrays["w"], found.pop(low))
    return found


def _lazily(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """The result of `make`, made on the first call, so that a refusal fails that form alone."""
    made: list[Callable[[], Any]] = []

    def run() -> Any:
        if not made:
            made.append(make())
        return made[0]()

    return run


def set_precision(torch: Any, precision: str) -> None:
    """Set whether float32 products may use TF32, for everything that PyTorch runs from now on."""
    allowed = precision != "fp32"
    # Both are set: by default convolutions may, and matrix products may not.
    for products in (torch.backends.cuda.matmul, torch.backends.cudnn):
        if products.allow_tf32 != allowed:
            products.allow_tf32 = allowed


def host(tensor: Any) -> NDArray[Any]:
    """A tensor as a float32 array on the host."""
    return np.asarray(tensor.detach().float().cpu().numpy())


def nhwc(tensor: Any) -> NDArray[Any]:
    """A map in our order of axes."""
    return host(tensor.permute(0, 2, 3, 1))


def let_pass_of(ops: Operations) -> Callable[[Any, Any], Any]:
    """A gradient through a ReLU, times a factor, if there is a gate."""
    passed, factor = ops.torch.ops.aten.threshold_backward, ops.settings.get("factor", 1.0)

    def let_pass(dx: Any, gate: Any) -> Any:
        if gate is None:
            return dx
        return passed(dx, gate, 0) if factor == 1 else passed(dx, gate, 0).mul_(factor)

    return let_pass

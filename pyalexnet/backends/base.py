"""The operations of every backend; each family has a file in `pyalexnet/ops`.

An operation checks its arguments (a refusal is one sentence), allocates outputs missing from `out`,
and passes both on to `_run`, the only method that calls the kernels.

Conventions: maps are NHWC and filters KRSC (C = channels per group), weights of linear layers are
(out, in); all are C-contiguous and on the backend's device. Maps, their gradients and operand
weights are float32 or bfloat16, one type per call; everything else is float32 unless said
otherwise. All arithmetic is in float32; a result stored as bfloat16 is rounded once.
N images, C H W input channels, height and width; K filters of R x S; P Q output height and width.
No operation waits for the device: losses and errors are 0-d arrays. Every public operation raises
ArgumentError for an argument it refuses. `out`, if given, is written and returned; it may not
overlap an input, except that relu, tanh and dropout may run in place (out is the input).
"""

from __future__ import annotations

from pyalexnet.ops.activation import ActivationOps
from pyalexnet.ops.augment import AugmentOps
from pyalexnet.ops.conv import ConvOps
from pyalexnet.ops.depth import DepthOps
from pyalexnet.ops.dropout import DropoutOps
from pyalexnet.ops.elements import Array, Shape
from pyalexnet.ops.epilogue import Activation
from pyalexnet.ops.exchange import ExchangeOps
from pyalexnet.ops.linear import LinearOps
from pyalexnet.ops.lrn import LrnOps
from pyalexnet.ops.lrn_pool import LrnPoolOps
from pyalexnet.ops.rnorm import RnormOps
from pyalexnet.ops.sgd import SgdOps
from pyalexnet.ops.softmax import SoftmaxOps

__all__ = ["Activation", "Array", "Backend", "Shape"]


class Backend(
    AugmentOps,
    DepthOps,
    ConvOps,
    LinearOps,
    ActivationOps,
    LrnOps,
    RnormOps,
    LrnPoolOps,
    DropoutOps,
    SoftmaxOps,
    SgdOps,
    ExchangeOps,
):
    """One device's arrays and operations."""

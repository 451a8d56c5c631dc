"""Every op of pyalexnet in float64 NumPy, written as on a blackboard: the reference of the tests
and the bench.

Nothing here is shared with the package. Where rounding matters an op returns `Exact`: the value,
and the magnitude, which is the same expression with every product of inputs replaced by its
absolute value. The error allowed in a float32 result is proportional to the magnitude
(tests/tolerance.py). Ops that only choose among their inputs (ReLU, max-pool, dropout, the gather)
return plain arrays, which results must equal exactly.

Values that an op has to hold in float32 have float32's range here: a sum of squares, the sum of a
mean, or a logit minus the largest one becomes infinite where float32 would round it to infinity
(`single`), and a value rounded below the smallest normal number is uncertain by an absolute amount
(`rounded`). Other intermediate values have no limits here, since an op may compute them in any
order: it is up to the op to find one that stays within the range. A result beyond the range is an
infinity (tests/tolerance.py).

Layouts: images and maps NHWC, filters KRSC (C per group), linear weights (out, in).
"""

# ruff: noqa: F403

from .exact import *
from .images import *
from .learning import *
from .norms import *
from .products import *

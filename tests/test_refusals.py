"""An op refuses what it cannot use, in a sentence that names the argument, and changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyalexnet
from cases import DRAW, ELEMENTWISE, EXAMPLES, RETURNING, Call
from pyalexnet.backends.host import DEVICES
from pyalexnet.backends.kernels import extension
from pyalexnet.errors import ArgumentError, BackendUnavailable
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ops.records import Mask
from samples import garbage, normal
from tolerance import same_bits
from trial import as_tuple, place
from variants import CPU, CUDA, SIM, SIMCHECK, parameters

pytestmark = pytest.mark.every(3)

# sim has the arrays of cpu, and the bindings are compiled once for all modules.
ANY_BACKEND = pytest.mark.parametrize("be", parameters(CPU, CUDA), indirect=True)
HOSTS, EMULATIONS = parameters(CPU, SIM), parameters(SIM, SIMCHECK)
# Every input that is a single array: lists of arrays (exchange) and parameters (updates) have their
# own tests.
INPUTS = [
    (example, name)
    for example in EXAMPLES.values()
    for name, value in example.inputs.items()
    if isinstance(value, np.ndarray)
]
ARRAYS = [(example, name) for example, name in INPUTS if name != "labels"]
OF_ONE_RANK = [
    (example, name)
    for example, name in INPUTS
    if not example.op.startswith(ELEMENTWISE) or name != next(iter(example.inputs))
]


def refusal(be: Any, example: Call, **changes: Any) -> str:
    """The sentence with which an op refuses an example with some arguments replaced.

    Inputs that were not replaced must be left as they were.
    """
    inputs = {name: place(be, value) for name, value in example.inputs.items()}
    replaced = {name: changes.pop(name) for name in list(changes) if name in inputs}
    with pytest.raises(ArgumentError) as caught:
        getattr(be, example.op)(
            *{**inputs, **replaced}.values(), **{**example.parameters, **changes}
        )
    for name, value in example.inputs.items():
        if name not in replaced and isinstance(value, np.ndarray):
            assert same_bits(be.to_numpy(inputs[name]), value)
    sentence = str(caught.value)
    assert sentence.startswith(f"{example.op}: ") and sentence.endswith("."), sentence
    assert "\n" not in sentence
    return sentence


# ------------------------------------------------------------------------------------- input arrays


@ANY_BACKEND
@pytest.mark.parametrize(("example", "name"), INPUTS, ids=str)
def test_wrong_dtype(be: Any, example: Call, name: str) -> None:
    sentence = refusal(be, example, **{name: be.asarray(example.inputs[name].astype(np.float64))})
    assert name in sentence and "float64" in sentence


@pytest.mark.parametrize("be", HOSTS, indirect=True)
@pytest.mark.parametrize(("example", "name"), ARRAYS, ids=str)
def test_wrong_byte_order(be: Any, example: Call, name: str) -> None:
    """Numbers in the other byte order have the right size but wrong values."""
    if example.inputs[name].itemsize > 1:
        swapped = example.inputs[name].astype(example.inputs[name].dtype.newbyteorder())
        assert f"{name} is >" in refusal(be, example, **{name: swapped})


@pytest.mark.parametrize("be", EMULATIONS, indirect=True)
@pytest.mark.parametrize(("example", "name"), ARRAYS, ids=str)
def test_on_another_device(be: Any, example: Call, name: str) -> None:
    elsewhere = pyalexnet.backend(be.name, device=1).asarray(example.inputs[name])
    assert f"{name} lies on another device" in refusal(be, example, **{name: elsewhere})


@ANY_BACKEND
@pytest.mark.parametrize(("example", "name"), OF_ONE_RANK, ids=str)
def test_wrong_rank(be: Any, example: Call, name: str) -> None:
    value = example.inputs[name][None]
    sentence = refusal(be, example, **{name: be.asarray(value.copy())})
    assert name in sentence and str(value.shape) in sentence


@ANY_BACKEND
@pytest.mark.parametrize(("example", "name"), ARRAYS, ids=str)
def test_strided(be: Any, example: Call, name: str) -> None:
    every_other = be.asarray(np.repeat(example.inputs[name], 2, axis=-1))[..., ::2]
    sentence = refusal(be, example, **{name: every_other})
    assert name in sentence and "contiguous" in sentence


@ANY_BACKEND
@pytest.mark.parametrize(("example", "name"), INPUTS, ids=str)
def test_empty(be: Any, example: Call, name: str) -> None:
    sentence = refusal(be, example, **{name: be.asarray(example.inputs[name][:0].copy())})
    assert name in sentence and "(0," in sentence


@ANY_BACKEND
@pytest.mark.parametrize(("example", "name"), ARRAYS, ids=str)
@pytest.mark.parametrize("value", [[1.0], 3.0, "x"], ids=repr)
def test_no_array(be: Any, example: Call, name: str, value: Any) -> None:
    assert name in refusal(be, example, **{name: value})


@ANY_BACKEND
@pytest.mark.parametrize(
    ("op", "name", "shape", "words"),
    [
        ("filters_from_depth", "ddeep", (4, 3, 1, 8), ("ddeep has shape", "(4, 3, 2, 8)")),
        ("conv_wgrad_sgd", "dy", (2, 3, 4, 6), ("dy has shape (2, 3, 4, 6)", "(2, 3, 4, 4)")),
        ("linear_wgrad_sgd", "x", (3, 6), ("w.w has shape (5, 7)", "(5, 6)")),
        ("linear_wgrad_sgd", "dy", (4, 5), ("dy has shape (4, 5)", "(3, 5)")),
        ("augment", "mean", (7, 5, 3), ("mean has shape (7, 5, 3)", "(7, 6, 3)")),
        ("conv_fprop", "w", (4, 3, 2, 2), ("w has shape (4, 3, 2, 2)", "(4, 3, 2, 3)")),
        ("conv_fprop", "w", (3, 3, 2, 3), ("w has 3 filters", "2 groups")),
        ("conv_fprop", "x", (2, 7, 5, 5), ("x has 5 channels", "2 groups")),
        ("conv_fprop", "w", (4, 9, 2, 3), ("filter is 9 x 2", "8 x 8")),
        ("conv_fprop", "b", (5,), ("b has shape (5,)", "(4,)")),
        ("conv_dgrad", "dy", (2, 3, 5, 4), ("dy has shape (2, 3, 5, 4)", "(2, 3, 4, 4)")),
        ("conv_dgrad", "w", (4, 3, 2, 6), ("w has shape (4, 3, 2, 6)", "(4, 3, 2, 3)")),
        ("conv_wgrad", "dy", (2, 3, 4, 6), ("dy has shape (2, 3, 4, 6)", "(2, 3, 4, 4)")),
        ("conv_wgrad", "dy", (1, 3, 4, 4), ("dy has shape (1, 3, 4, 4)", "(2, 3, 4, 4)")),
        ("linear_fprop", "w", (5, 6), ("w has shape (5, 6)", "(5, 7)")),
        ("linear_fprop", "b", (4,), ("b has shape (4,)", "(5,)")),
        ("linear_dgrad", "w", (4, 7), ("dy has shape (3, 5)", "(3, 4)")),
        ("linear_wgrad", "dy", (4, 5), ("dy has shape (4, 5)", "(3, 5)")),
        ("relu_dgrad", "dy", (3, 2, 5), ("dy has shape (3, 2, 5)", "(3, 5, 2)")),
        ("tanh_dgrad", "dy", (3, 5), ("dy has shape (3, 5)", "(3, 5, 2)")),
        ("lrn_dgrad", "dy", (2, 3, 4, 6), ("dy has shape (2, 3, 4, 6)", "(2, 3, 4, 12)")),
        ("rnorm_dgrad", "dy", (2, 5, 7, 3), ("dy has shape (2, 5, 7, 3)", "(2, 7, 5, 3)")),
        ("maxpool_dgrad", "dy", (2, 4, 4, 4), ("dy has shape (2, 4, 4, 4)", "(2, 4, 3, 4)")),
        ("avgpool_dgrad", "dy", (2, 3, 3, 4), ("dy has shape (2, 3, 3, 4)", "(2, 4, 3, 4)")),
        ("lrn_maxpool_dgrad", "dy", (2, 3, 4, 8), ("dy has shape (2, 3, 4, 8)", "(2, 3, 4, 16)")),
        ("sgd_update", "v", (3, 4), ("v has shape (3, 4)", "(4, 3)")),
        ("sgd_update", "dw", (12,), ("dw has shape (12,)", "(4, 3)")),
    ],
)
def test_shapes_that_do_not_fit(
    be: Any, op: str, name: str, shape: tuple[int, ...], words: tuple[str, ...]
) -> None:
    sentence = refusal(be, EXAMPLES[op], **{name: be.asarray(normal(*shape))})
    for word in words:
        assert word in sentence, sentence


@ANY_BACKEND
@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.uint16, (2, 4, 3, 4)), (np.int64, (2, 4, 3, 4)), (np.uint8, (2, 4, 3))]
)
def test_where_of_another_pool(be: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    where = be.asarray(np.zeros(shape, dtype))
    assert "where" in refusal(be, EXAMPLES["maxpool_dgrad"], where=where)


@ANY_BACKEND
@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        ("relu_dgrad", "dy", "float32"),
        ("tanh_dgrad", "dy", "float32"),
        ("lrn_dgrad", "dy", "float32"),
        ("rnorm_dgrad", "dy", "float32"),
        ("lrn_maxpool_dgrad", "dy", "float32"),
        ("softmax_cross_entropy", "logits", "float32"),
        ("sgd_update", "v", "float32"),
        ("sgd_update", "dw", "float32"),
        ("split_weights", "w", "float32"),
    ],
)
def test_bfloat16_where_the_others_are_not(be: Any, op: str, name: str, expected: str) -> None:
    given = be.asarray(EXAMPLES[op].inputs[name].astype(BFLOAT16))
    sentence = refusal(be, EXAMPLES[op], **{name: given})
    assert f"{name} is bfloat16; {expected} was expected" in sentence


@ANY_BACKEND
@pytest.mark.parametrize(
    ("op", "name"), [("maxpool_dgrad", "gate"), ("lrn_maxpool_dgrad", "y")], ids=str
)
def test_outputs_of_a_relu(be: Any, op: str, name: str) -> None:
    """They must have the gradient's shape and type."""
    shape = {"gate": (2, 8, 6, 4), "y": (2, 3, 4, 16)}[name]
    for wrong in (normal(*shape).astype(BFLOAT16), normal(*shape[:3], 3), normal(*shape[1:])):
        sentence = refusal(be, EXAMPLES[op], **{name: be.asarray(wrong)})
        assert sentence.startswith(f"{op}: {name} ")


@ANY_BACKEND
def test_halves_of_weights(be: Any) -> None:
    """The lower one goes only with bfloat16."""
    update = EXAMPLES["sgd_update"]
    high, low = be.split_weights(be.asarray(update.inputs["w"]))
    assert "low is given" in refusal(be, update, low=low)
    assert "low is None" in refusal(be, update, w=high)
    assert "low is float32; uint16" in refusal(be, update, w=high, low=be.asarray(normal(4, 3)))
    assert "low has shape" in refusal(be, update, w=high, low=be.asarray(be.to_numpy(low)[:3]))
    assert "overlap" in refusal(be, update, w=high, low=be.asarray(high).view(np.uint16))


# ---------------------------------------------------------------------------------- other arguments

INTEGERS = (0, -1, 1.5, "2", None)
NUMBERS = (np.nan, np.inf, "x", None)
# Beside three images: values that are not arrays, or have a shape or type that is right for none.
BESIDE_IMAGES = (
    None,
    1,
    [[0, 0]] * 3,
    np.zeros(3),
    np.zeros((3, 2)),
    np.zeros((3, 3)),
    np.zeros(0),
)
LRN_MAXPOOL = ("lrn_maxpool_fprop", "lrn_maxpool_dgrad")
NORMS = ("lrn_fprop", "lrn_dgrad", "rnorm_fprop", "rnorm_dgrad", *LRN_MAXPOOL)
PARAMETERS = [
    (("augment",), "size", (None, 5, (5,), (5, 4, 3), (5, 0), (5.0, 4), (8, 4), (5, 7))),
    (("augment",), "scale", NUMBERS),
    (("augment", "images_to_depth", "filters_to_depth", "filters_from_depth"), "block", INTEGERS),
    (("augment", "images_to_depth"), "pad", (-1, 1.5, "2", (1, 1), (1, 1, 1, -1))),
    (("augment", "images_to_depth"), "dtype", (np.float64, np.uint8, "bf16", None)),
    (("filters_from_depth",), "w_shape", (None, (4, 5, 3), (4, 5, 0, 2), (4, 7, 3, 2))),
    (("augment",), "corners", BESIDE_IMAGES),
    (("augment",), "flips", BESIDE_IMAGES),
    (("augment",), "shifts", BESIDE_IMAGES),
    (("conv_fprop", "conv_dgrad", "conv_wgrad"), "stride", (*INTEGERS, (1,), (1, 0), (1, 2, 3))),
    (("conv_fprop", "conv_dgrad", "conv_wgrad"), "pad", (-1, 1.5, "2", (1, 1), (1, 1, 1, -1))),
    (("conv_fprop", "conv_dgrad", "conv_wgrad"), "groups", (*INTEGERS, 4)),
    (("conv_fprop", "linear_fprop"), "towers", (*INTEGERS, 9)),
    (("conv_fprop", "linear_fprop"), "activation", ("sigmoid", "ReLU", 1)),
    (("conv_fprop", "linear_fprop"), "dtype", (np.float64, BFLOAT16, "bf16")),
    (("conv_fprop", "linear_fprop"), "dropout", (0.5, True, {"keep": 0.5}, (0.5, 1, 2, 3))),
    (("conv_dgrad", "linear_dgrad"), "factor", NUMBERS),
    (("conv_dgrad", "linear_dgrad"), "gate", (1.0, [[1.0]])),
    (("conv_dgrad",), "x_shape", (None, (2, 7, 5), (2, 7, 5, 6.0), (2, 0, 5, 6), (2, 7, 5, 8))),
    (("conv_wgrad",), "w_shape", (None, (4, 3, 2), (4, 3, 0, 3), (4, 3, 2, 6))),
    (NORMS, "size", INTEGERS),
    (NORMS, "alpha", (-0.1, *NUMBERS)),
    (NORMS, "beta", NUMBERS),
    (NORMS, "k", (0.0, -1.0, *NUMBERS)),
    (("lrn_fprop", "lrn_dgrad", *LRN_MAXPOOL), "groups", (*INTEGERS, 5)),
    (LRN_MAXPOOL, "pool_size", (*INTEGERS, 257)),
    (LRN_MAXPOOL, "pool_stride", INTEGERS),
    (("softmax_cross_entropy",), "dtype", (None, np.float64, np.int32, "x", 1)),
    (("maxpool_fprop", "avgpool_fprop", "maxpool_dgrad", "avgpool_dgrad"), "stride", INTEGERS),
    (
        ("maxpool_fprop", "avgpool_fprop", "maxpool_dgrad", "avgpool_dgrad"),
        "size",
        (*INTEGERS, 257),
    ),
    (("maxpool_dgrad", "avgpool_dgrad"), "x_shape", (None, (2, 8, 6), (2, 8, 6, -3))),
    (("dropout_fprop", "dropout_dgrad"), "keep", (-0.1, 1.1, *NUMBERS)),
    (("dropout_fprop", "dropout_dgrad"), "seed", (-1, 2**64, 1.5, None)),
    (("dropout_fprop", "dropout_dgrad"), "step", (-1, 2**32, 1.5, None)),
    (("dropout_fprop", "dropout_dgrad"), "layer", (-1, 2**32, 1.5, None)),
    (("dropout_fprop", "dropout_dgrad"), "offset", (-1, 1, 1.5)),
    (("dropout_fprop", "dropout_dgrad"), "total", (0, 9, 1.5)),
    (("dropout_fprop", "dropout_dgrad"), "first", (-1, 2**63 // 12, 2**63, 1.5, None)),
    (("sgd_update",), "lr", NUMBERS),
    (("sgd_update",), "momentum", NUMBERS),
    (("sgd_update",), "weight_decay", NUMBERS),
    (("exchange_scatter_add",), "start", (-1, 5, 1.5, None)),
    (("exchange_scatter_add",), "channels", (0, -1, 6, 1.5, None)),
    (("sum_parts",), "dtype", (np.float64, np.int32, "x", 1)),
]


@ANY_BACKEND
@pytest.mark.parametrize(
    ("op", "name", "value"),
    [(op, name, value) for ops, name, values in PARAMETERS for op in ops for value in values],
)
def test_parameters(be: Any, op: str, name: str, value: Any) -> None:
    assert name.removesuffix("_shape") in refusal(be, EXAMPLES[op], **{name: value})


@ANY_BACKEND
@pytest.mark.parametrize("op", ["conv_fprop", "linear_fprop"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("keep", value) for value in (-0.1, 1.1, *NUMBERS)),
        *(("seed", value) for value in (-1, 2**64, 1.5, None)),
        *(("step", value) for value in (-1, 2**32, 1.5, None)),
        *(("layer", value) for value in (-1, 2**32, 1.5, None)),
        *(("offset", value) for value in (-1, 1.5)),
        *(("total", value) for value in (0, 4, 1.5)),
        *(("factor", value) for value in NUMBERS),
        *(("first", value) for value in (-1, 2**63 - 1, 1.5)),
    ],
)
def test_masks(be: Any, op: str, name: str, value: Any) -> None:
    mask = Mask(**{**DRAW, name: value})
    assert name in refusal(be, EXAMPLES[op], dropout=mask)


@ANY_BACKEND
@pytest.mark.parametrize("op", ["conv_dgrad", "linear_dgrad"])
def test_gates_that_do_not_fit(be: Any, op: str) -> None:
    """With a shape other than dx's, or a type other than dy's."""
    (dx,) = results(be, EXAMPLES[op])
    for bad in (dx[1:], dx.astype(np.float64), dx.astype(BFLOAT16)):
        assert "gate" in refusal(be, EXAMPLES[op], gate=be.asarray(np.ascontiguousarray(bad)))


# Arrays of a shape, and numbers of a type, that are right for none of them.
UPDATES = pytest.mark.parametrize("op", ["conv_wgrad_sgd", "linear_wgrad_sgd"])
WRONG = {"w": np.zeros(6), "v": np.zeros(6, np.float32), "low": np.zeros(6, np.uint16)}


@ANY_BACKEND
@UPDATES
@pytest.mark.parametrize("name", ["w", "b"])
@pytest.mark.parametrize(
    ("part", "value"),
    [
        *((part, value) for part in ("w", "v", "low") for value in (WRONG[part], 5, "x")),
        *((part, None) for part in ("w", "v")),
        *(("lr", value) for value in NUMBERS),
        *(("momentum", value) for value in NUMBERS),
        *(("weight_decay", value) for value in NUMBERS),
    ],
    ids=str,
)
def test_parameters_to_learn(be: Any, op: str, name: str, part: str, value: Any) -> None:
    """Including low halves, which float32 lacks. Valid arguments are left unchanged."""
    given = place(be, EXAMPLES[op].inputs[name])
    bad = be.asarray(value) if isinstance(value, np.ndarray) else value
    sentence = refusal(be, EXAMPLES[op], **{name: given._replace(**{part: bad})})
    assert f"{name}.{part}" in sentence, sentence
    for kept in {"w", "v"} - {part}:
        was = getattr(EXAMPLES[op].inputs[name], kept)
        assert same_bits(be.to_numpy(getattr(given, kept)), was)


@ANY_BACKEND
@UPDATES
def test_halves_of_weights_that_do_not_fit(be: Any, op: str) -> None:
    """bfloat16 weights have a low half, and go with bfloat16 maps; biases are whole."""
    example = EXAMPLES[op]
    x, dy = (be.asarray(example.inputs[name].astype(BFLOAT16)) for name in ("x", "dy"))
    w, b = (place(be, example.inputs[name]) for name in ("w", "b"))
    half = w._replace(w=be.asarray(example.inputs["w"].w.astype(BFLOAT16)))
    short = be.zeros((1, *w.w.shape[1:]), np.uint16)
    for bad in (w, half, half._replace(low=short), half._replace(low=w.v)):
        assert "w." in refusal(be, example, x=x, dy=dy, w=bad)
    low = be.zeros(w.w.shape, np.uint16)
    narrow = b._replace(w=be.asarray(example.inputs["b"].w.astype(BFLOAT16)))
    assert "b.w" in refusal(be, example, x=x, dy=dy, w=half._replace(low=low), b=narrow)
    assert "dy" in refusal(be, example, x=x, w=half._replace(low=low))


@ANY_BACKEND
@UPDATES
@pytest.mark.parametrize("name", ["w", "b"])
@pytest.mark.parametrize("value", [None, 1, "x", ()], ids=repr)
def test_no_parameters(be: Any, op: str, name: str, value: Any) -> None:
    assert f"{name} is of type" in refusal(be, EXAMPLES[op], **{name: value})


@ANY_BACKEND
@UPDATES
def test_parameters_that_overlap(be: Any, op: str) -> None:
    """w with its momentum, biases with the weights, and either with an input."""
    example = EXAMPLES[op]
    x, w, b = (place(be, example.inputs[name]) for name in ("x", "w", "b"))
    inside = w.w.reshape(-1)[: b.w.size]
    for changes in (
        {"w": w._replace(v=w.w)},
        {"w": w, "b": b._replace(w=inside)},
        {"w": w, "b": b._replace(v=inside)},
        {"x": x, "b": b._replace(w=x.reshape(-1)[: b.w.size])},
    ):
        assert "overlap" in refusal(be, example, **changes)


@ANY_BACKEND
@pytest.mark.parametrize("op", ["maxpool_fprop", "avgpool_fprop"])
def test_no_pool_fits(be: Any, op: str) -> None:
    """Without ceil, a window larger than the image does not fit."""
    assert "8 x 6" in refusal(be, EXAMPLES[op], size=7, ceil=False)


@ANY_BACKEND
@pytest.mark.parametrize("op", ["dropout_fprop", "dropout_dgrad"])
@pytest.mark.parametrize(("dtype", "shape"), [(np.int64, ()), (np.uint32, (1,))])
def test_step_of_another_kind(be: Any, op: str, dtype: Any, shape: tuple[int, ...]) -> None:
    assert "step" in refusal(be, EXAMPLES[op], step=be.asarray(np.zeros(shape, dtype)))


@ANY_BACKEND
@pytest.mark.parametrize(("dtype", "shape"), [(np.float64, ()), (np.float32, (1,))])
def test_lr_of_another_kind(be: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    assert "lr" in refusal(be, EXAMPLES["sgd_update"], lr=be.asarray(np.zeros(shape, dtype)))


@ANY_BACKEND
@pytest.mark.parametrize("bad", [(-1, 0), (0, -1), (3, 0), (0, 3), (2**31 - 1, 0), (0, -(2**31))])
def test_crop_that_leaves_its_image(be: Any, bad: tuple[int, int]) -> None:
    """Refused whenever the host sees the corners, as it does here for every device."""
    corners = np.array([(2, 2), bad, (0, 0)], np.int32)
    sentence = refusal(be, EXAMPLES["augment"], corners=corners)
    assert f"corners has {bad}" in sentence and "(0, 0) to (2, 2)" in sentence


@ANY_BACKEND
@pytest.mark.parametrize("name", ["corners", "flips", "shifts"])
def test_too_few_beside_the_images(be: Any, name: str) -> None:
    """Of the right type, but one image short."""
    given = EXAMPLES["augment"].parameters[name]
    sentence = refusal(be, EXAMPLES["augment"], **{name: be.asarray(given[:-1].copy())})
    assert f"{name} has shape" in sentence and str(given.shape) in sentence


# ------------------------------------------------------------------------------------------- labels


@ANY_BACKEND
@pytest.mark.parametrize("bad", [9, -1, 2**40])
def test_label_that_is_no_class(be: Any, bad: int) -> None:
    """Refused whenever the host sees the labels, as it does here for every device."""
    labels = np.array([0, 8, bad, 1])
    sentence = refusal(be, EXAMPLES["softmax_cross_entropy"], labels=labels)
    assert "labels" in sentence and str(bad) in sentence and "0 to 8" in sentence


@ANY_BACKEND
@pytest.mark.parametrize(
    "labels",
    [np.array([0, 1, 2]), np.array([[0, 1, 2, 3]]), np.array(2), [0, 1, 2, 3, 4], ["a"] * 4],
    ids=["few", "two dimensions", "none", "many", "text"],
)
def test_labels_that_do_not_fit(be: Any, labels: Any) -> None:
    assert "labels" in refusal(be, EXAMPLES["softmax_cross_entropy"], labels=labels)


@ANY_BACKEND
def test_labels_as_true_and_false(be: Any) -> None:
    """A mask is not a label."""
    sentence = refusal(be, EXAMPLES["softmax_cross_entropy"], labels=np.array([True] * 4))
    assert "bool" in sentence


# ----------------------------------------------------------------------------------------- exchange


@ANY_BACKEND
@pytest.mark.parametrize(
    ("op", "name", "arrays", "words"),
    [
        ("exchange_gather", "parts", [], ("empty",)),
        ("exchange_gather", "parts", [(2, 3), (3, 2)], ("parts[1]", "(3, 2)")),
        ("exchange_gather", "parts", [(2, 3), (2, 1, 3)], ("parts[1]", "(2, 1, 3)")),
        ("exchange_gather", "parts", [(2, 3), (2, 0)], ("parts[1]", "(2, 0)")),
        ("exchange_gather", "parts", [()], ("parts[0]",)),
        ("exchange_scatter_add", "dwholes", [], ("empty",)),
        ("exchange_scatter_add", "dwholes", [(2, 8), (2, 9)], ("dwholes[1]", "(2, 9)")),
        ("exchange_scatter_add", "dwholes", [()], ("dwholes[0]",)),
        ("sum_parts", "parts", [], ("empty",)),
        ("sum_parts", "parts", [(2, 3), (2, 4)], ("parts[1]", "(2, 4)", "(2, 3)")),
        ("sum_parts", "parts", [(2, 3), (6,)], ("parts[1]", "(6,)")),
        ("sum_parts", "parts", [(1,)] * 65, ("65", "1 to 64")),
    ],
    ids=str,
)
def test_parts_that_do_not_fit(
    be: Any, op: str, name: str, arrays: list[tuple[int, ...]], words: tuple[str, ...]
) -> None:
    parts = [be.asarray(normal(*shape)) for shape in arrays]
    sentence = refusal(be, EXAMPLES[op], **{name: parts})
    for word in words:
        assert word in sentence, sentence


@ANY_BACKEND
@pytest.mark.parametrize("op", ["exchange_gather", "exchange_scatter_add", "sum_parts"])
def test_parts_of_another_type(be: Any, op: str) -> None:
    (name,) = EXAMPLES[op].inputs
    good = be.asarray(normal(2, 8))
    for bad in (be.asarray(normal(2, 8).astype(np.float64)), be.asarray(normal(2, 16))[:, ::2], 1):
        assert f"{name}[1]" in refusal(be, EXAMPLES[op], **{name: [good, bad]})
    assert "ndarray" in refusal(be, EXAMPLES[op], **{name: good})


# ---------------------------------------------------------------------------------------------- out


def results(be: Any, example: Call) -> list[np.ndarray[Any, Any]]:
    """What an example returns."""
    inputs = [place(be, value) for value in example.inputs.values()]
    return [
        be.to_numpy(y) for y in as_tuple(getattr(be, example.op)(*inputs, **example.parameters))
    ]


def refused_out(be: Any, example: Call, good: list[Any], index: int, bad: Any) -> str:
    """The refusal of one array of `out`; none of the others may have been written."""
    out = [be.asarray(garbage(y)) for y in good]
    out[index] = bad
    sentence = refusal(be, example, out=tuple(out) if len(out) > 1 else out[0])
    for i, y in enumerate(good):
        if i != index:
            assert same_bits(be.to_numpy(out[i]), garbage(y))
    return sentence


@ANY_BACKEND
@pytest.mark.parametrize("example", RETURNING, ids=str)
def test_out_that_does_not_fit(be: Any, example: Call) -> None:
    good = results(be, example)
    for index, y in enumerate(good):
        larger = np.zeros((*y.shape[:-1], y.shape[-1] + 1) if y.ndim else (1,), y.dtype)
        for bad in (larger, y.astype(np.float64), y[None]):
            sentence = refused_out(be, example, good, index, be.asarray(bad.copy()))
            assert "out" in sentence
        if y.ndim:
            strided = be.asarray(np.repeat(y, 2, axis=-1))[..., ::2]
            assert "contiguous" in refused_out(be, example, good, index, strided)
        assert "out" in refused_out(be, example, good, index, y.tolist())


@ANY_BACKEND
@pytest.mark.parametrize("example", RETURNING, ids=str)
def test_out_of_another_number(be: Any, example: Call) -> None:
    """One array too many, or one instead of several."""
    good = [be.asarray(y.copy()) for y in results(be, example)]
    assert "out" in refusal(be, example, out=(*good, good[0]))
    if len(good) > 1:
        assert "out" in refusal(be, example, out=good[0])


@ANY_BACKEND
@pytest.mark.parametrize("example", RETURNING, ids=str)
def test_out_that_overlaps_an_input(be: Any, example: Call) -> None:
    """Shifted by one element, so that not even an elementwise op could do it."""
    good = results(be, example)
    first = next(iter(example.inputs))
    value = example.inputs[first]
    array = value[0] if isinstance(value, list) else value
    memory = be.zeros((array.nbytes + good[0].nbytes,), np.uint8)
    source = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
    source[...] = be.asarray(array)
    shift = good[0].itemsize
    bad = memory[shift : shift + good[0].nbytes].view(good[0].dtype).reshape(good[0].shape)
    changed = [source, *map(be.asarray, value[1:])] if isinstance(value, list) else source
    out: Any = (bad, *(be.asarray(garbage(y)) for y in good[1:])) if len(good) > 1 else bad
    sentence = refusal(be, example, **{first: changed}, out=out)
    assert "overlap" in sentence
    assert same_bits(be.to_numpy(source), array), "the input was written before the refusal"


@ANY_BACKEND
@pytest.mark.parametrize("op", ["conv_wgrad", "linear_wgrad", "softmax_cross_entropy"])
def test_outs_that_overlap_each_other(be: Any, op: str) -> None:
    good = results(be, EXAMPLES[op])
    memory = be.zeros((sum(y.size for y in good),))
    out = tuple(memory[: y.size].reshape(y.shape) for y in good)
    assert "overlap" in refusal(be, EXAMPLES[op], out=out)


@ANY_BACKEND
@pytest.mark.parametrize(("one", "other"), [("w", "v"), ("w", "dw"), ("v", "dw")])
def test_update_of_overlapping_arrays(be: Any, one: str, other: str) -> None:
    shared = be.asarray(normal(4, 3))
    sentence = refusal(be, EXAMPLES["sgd_update"], **{one: shared, other: shared})
    assert "overlap" in sentence


@pytest.mark.parametrize("be", HOSTS, indirect=True)
def test_out_that_is_read_only(be: Any) -> None:
    for example in RETURNING:
        good = results(be, example)
        for index, y in enumerate(good):
            frozen = be.asarray(y.copy())
            frozen.flags.writeable = False
            assert "read-only" in refused_out(be, example, good, index, frozen)


# ----------------------------------------------------------------------------------------- backends


def test_unknown_backend() -> None:
    with pytest.raises(ArgumentError, match=r"'opencl'.*cpu.*sim.*cuda"):
        pyalexnet.backend("opencl")


@pytest.mark.parametrize("be", parameters(CPU, SIM, SIMCHECK), indirect=True)
@pytest.mark.parametrize("device", [-1, 1.5, None])
def test_no_device(be: Any, device: Any) -> None:
    with pytest.raises(ArgumentError, match="device"):
        pyalexnet.backend(be.name, device=device)


@pytest.mark.parametrize("be", parameters(CPU, SIM, SIMCHECK), indirect=True)
@pytest.mark.parametrize("device", [2, 10**6, 2**40])
def test_no_such_device(be: Any, device: int) -> None:
    """The processor counts as two devices, so that two towers can be tried on it."""
    assert [pyalexnet.backend(be.name, device=number).device for number in (0, 1)] == [0, 1]
    with pytest.raises(ArgumentError, match=f"{be.name}: device is {device}; 0 or 1 was expected"):
        pyalexnet.backend(be.name, device=device)


def test_the_emulation_has_as_many_devices() -> None:
    sim = extension("_sim", "")
    for number in range(DEVICES):
        assert sim.empty((1,), np.dtype(np.uint8), number).size == 1
    with pytest.raises(ValueError, match=f"there are {DEVICES}"):
        sim.empty((1,), np.dtype(np.uint8), DEVICES)


def test_missing_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CuPy there is no cuda, auto becomes cpu, and the reason includes the remedy."""
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match=r"(?i)cupy.*pip install"):
        pyalexnet.backend("cuda")
    assert "pip install" in (pyalexnet.backends.why_unavailable("cuda") or "")
    assert pyalexnet.backend().name == "cpu"


def test_errors_are_value_errors() -> None:
    """Callers unfamiliar with this package can catch what they expect."""
    assert issubclass(ArgumentError, ValueError) and issubclass(
        ArgumentError, pyalexnet.errors.PyalexnetError
    )


@pytest.mark.parametrize(("example", "name"), INPUTS, ids=str)
@ANY_BACKEND
def test_a_batch_of_no_images_is_refused_by_what_is_zero(be: Any, example: Call, name: str) -> None:
    """The sentence names the dimension that is empty, not only a shape that looks right."""
    value = example.inputs[name]
    sentence = refusal(be, example, **{name: place(be, value[:0])})
    if name == next(iter(example.inputs)):
        assert f"{name} has shape {value[:0].shape}, so " in sentence
        assert " is 0; at least 1 was expected" in sentence

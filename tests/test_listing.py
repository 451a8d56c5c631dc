"""`bench --list-step`: the launches of a step, their traffic and arithmetic."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from bench import cards, cli, floors, listing
from bench.listing import Choices, Launch
from pyalexnet import nets
from pyalexnet.commands.show import show_app
from pyalexnet.step import plan
from pyalexnet.step.plan import PRECISIONS, Precision

H100 = cards.get("H100")


def listed(choices: Choices) -> list[Launch]:
    made = plan.make(
        choices.spec(),
        goal="update",
        precision=choices.precision,
        fused=not choices.unfused,
        source="images",
    )
    return list(listing.launches(made, choices.batch, choices.precision, H100))


def only(launches: list[Launch], operation: str, array: str) -> Launch:
    """The launch of an operation that reads or writes an array."""
    (found,) = (
        one
        for one in launches
        if one.operation.startswith(operation)
        and any(name.startswith(f"{array} ") for name in (*one.reads, *one.writes))
    )
    return found


def test_a_fused_step_in_bf16() -> None:
    """fc6 of the paper: 37,748,736 weights, 256 images; every byte by hand."""
    launches = listed(Choices(batch=256, precision="bf16"))
    fprop = only(launches, "linear_fprop", "fc6.w")
    assert fprop.operation == "linear_fprop + relu + dropout"
    assert fprop.reads == ("pool5 256x9216", "fc6.w 4096x9216", "fc6.b 4096")
    assert fprop.writes == ("drop6 256x4096",)
    weights, outputs = 4096 * 9216, 4096
    x, y = 2 * 256 * 9216, 2 * 256 * 4096
    assert fprop.nbytes == x + 2 * weights + 4 * outputs + y
    assert fprop.flops == 2 * 256 * weights
    assert fprop.seconds == fprop.nbytes / 3.0e12  # bound by traffic
    learning = only(launches, "linear_wgrad_sgd", "fc6.w")
    assert learning.writes == ("fc6.w 4096x9216 (+low, v)", "fc6.b 4096 (+v)")
    # Weight and momentum are 2 + 2 + 4 bytes, a bias and its momentum 8; each read and written.
    assert learning.nbytes == x + y + 16 * weights + 16 * outputs
    assert learning.flops == fprop.flops


def test_products_of_a_convolution() -> None:
    """conv2 of the paper, 2 x 223,948,800 operations an image, in all three directions."""
    launches = [one for one in listed(Choices(batch=2)) if any("conv2.w" in n for n in one.reads)]
    assert [one.operation for one in launches] == ["conv_fprop + relu", "conv_dgrad"]
    learning = only(listed(Choices(batch=2)), "conv_wgrad_sgd", "conv2.w")
    assert {one.flops for one in (*launches, learning)} == {2 * 2 * 223_948_800}
    assert launches[0].seconds == launches[0].flops / 60e12  # bound by arithmetic


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("unfused", [True, False])
@pytest.mark.parametrize("net", nets.names())
def test_sums(net: str, precision: Precision, unfused: bool) -> None:
    """The same products as the floors, which ignore plans; and fewer bytes when fused."""
    choices = Choices(net, None, 4, precision, unfused)
    launches = listed(choices)
    due = floors.floor(choices.spec(), 4, precision, H100)
    if unfused or net != "alexnet":  # its fused conv1 also reads zeros
        assert sum(one.flops for one in launches) == due.flops
    other = listed(dataclasses.replace(choices, unfused=not unfused))
    fewer, more = (launches, other) if not unfused else (other, launches)
    assert len(fewer) < len(more)
    assert sum(one.nbytes for one in fewer) < sum(one.nbytes for one in more)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list-step", "--precision", "bf16", "--batch", "256", "--card", "a100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# One training step of alexnet, 256 images, bf16"
    assert "Computed for one A100" in lines[2] and "nothing was run" in lines[2]
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table[:-6]}) == 1  # every column is as wide everywhere
    made = listed(Choices(batch=256, precision="bf16"))
    assert sum(" conv_" in line for line in table) == sum(
        one.operation.startswith("conv_") for one in made
    )
    sums = [line.split("|")[1].strip() for line in table[-4:]]
    assert sums == [
        "this step, fused",
        "the same, unfused",
        "bench/floors.py, fused",
        "bench/floors.py, unfused",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--list-step", "--net", "vgg"], "net is 'vgg'; one of alexnet-tiny"),
        (["--list-step", "--preset", "vgg"], "alexnet: preset is 'vgg'; one of source"),
        (
            ["--list-step", "--net", "cifar-18pct", "--preset", "paper"],
            "--preset is 'paper'; cifar-18pct has none, only alexnet.",
        ),
        (["--list-step", "--batch", "0"], "bench: --batch is 0; at least 1 was expected."),
        (
            ["--list-step", "--precision", "fp8"],
            "plan: precision is 'fp8'; one of fp32, fp32x3, bf16",
        ),
        (["--list-step", "--card", "GTX580"], "card is 'GTX580'; one of H100"),
        (["--batch", "4"], "--batch is given; --list-step was expected beside it."),
    ],
)
def test_refusals(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {sentence}") and not said.out


@pytest.mark.parametrize(
    ("options", "held"), [((), "lrn_fprop"), (("--fused",), "lrn_maxpool_fprop")]
)
def test_show_step_prints_the_calls_in_order(options: tuple[str, ...], held: str) -> None:
    result = CliRunner().invoke(show_app, ["step", "alexnet", "--batch-size", "2", *options])
    assert result.exit_code == 0, result.output
    assert "conv1 2x55x55x96" in result.output and held in result.output
    order = [result.output.index(op) for op in ("conv_fprop", held, "softmax", "sgd_update")]
    assert order == sorted(order)


def test_show_step_of_two_towers_exchanges() -> None:
    result = CliRunner().invoke(show_app, ["step", "alexnet", "--towers", "2"])
    assert result.exit_code == 0, result.output
    assert "exchange_gather" in result.output and "conv1@1 128x55x55x48" in result.output


def test_show_step_of_a_rank_sums() -> None:
    result = CliRunner().invoke(show_app, ["step", "alexnet-tiny", "--ranks=2", "--shards=4"])
    assert result.exit_code == 0, result.output
    for words in ("128 = 2 ranks x 2 shards x 32 images", "all_reduce", "conv1.w@1.grad 32x5x5x3"):
        assert words in result.output
    result = CliRunner().invoke(show_app, ["step", "--ranks=3"])
    assert "batch_size is 128; a multiple of 3 ranks was expected" in str(result.exception)


@pytest.mark.parametrize(
    ("kernels", "precision", "held"),
    [
        ("cpu", "fp32", {"winograd, tile 5 x 5", "direct", "linear"}),
        ("sim", "fp32", {"fma, tile 128 x 128"}),
        ("sim", "bf16", {"mma, tile 128 x 128", "patches, tile"}),
        ("sim", "fp32x3", {"mma in three planes, tile 128 x 64"}),
    ],
)
def test_show_step_says_how_products_are_computed(
    kernels: str, precision: str, held: set[str]
) -> None:
    """Of conv1 to fc8, forward and backward; of nothing else."""
    options = ["--kernels", kernels, "--precision", precision]
    options += ["--fused"] if kernels == "sim" else []
    result = CliRunner().invoke(show_app, ["step", "alexnet", *options])
    assert result.exit_code == 0, result.output
    assert "computed by" in result.output
    text = " ".join(result.output.split())
    assert all(words in text for words in held), result.output

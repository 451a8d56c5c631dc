"""`pyalexnet presets`: its output, and that no convention can differ without a row."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pyalexnet.commands.presets import presets as command
from pyalexnet.errors import ArgumentError
from pyalexnet.nets import conventions, presets
from pyalexnet.nets.presets import Preset
from pyalexnet.nets.recipe import Augment, Rate, Recipe
from pyalexnet.nets.schedule import Constant, Linear, Steps

NAMES = ("source", "paper", "caffe", "owt")


def fields(kind: type, before: str = "") -> set[str]:
    """Names of a dataclass's fields."""
    return {before + field.name for field in dataclasses.fields(kind)}


def test_every_field_has_a_row() -> None:
    """A field added to any of the four needs a row here, and none appears twice."""
    covered = [field for row in conventions.conventions() for field in row.fields]
    assert len(covered) == len(set(covered))
    assert set(covered) == (
        fields(Preset) - {"recipe"}
        | fields(Recipe, "recipe.") - {"recipe.rate", "recipe.augment"}
        | fields(Rate, "recipe.rate.")
        | fields(Augment, "recipe.augment.")
    )


# For each field, a value other than that of the preset `source`.
OTHERS: dict[str, Any] = {
    "input_size": 128,
    "pad": 2,
    "pixel_scale": 0.5,
    "maps": (96, 256, 384, 384, 128),
    "units": (4096, 2048),
    "towers": 1,
    "exchange": ("conv4", "fc8"),
    "activation": "tanh",
    "activation_after_pool": False,
    "pool": (2, 2),
    "pad2": 1,
    "pad5": 0,
    "norms": ("norm1",),
    "lrn_alpha": 1e-4,
    "lrn_k": 1.0,
    "lrn_per_tower": False,
    "dropout": 0.25,
    "dropout_inverted": True,
    "dropout_before": True,
    "std": {**presets.get("source").std, "fc7": 0.005},
    "bias": {**presets.get("source").bias, "fc8": -7.0},
    "without": ("conv4",),
    "recipe.epochs": 60,
    "recipe.batch_size": 256,
    "recipe.momentum": 0.5,
    "recipe.schedule": Linear(divisor=10, epochs=90),
    "recipe.rates": {},
    "recipe.rate.lr_w": 0.02,
    "recipe.rate.lr_b": 0.01,
    "recipe.rate.decay_w": 0.0,
    "recipe.rate.decay_b": 1e-4,
    "recipe.rate.schedule_w": Constant(),
    "recipe.rate.schedule_b": None,
    "recipe.augment.stored": 224,
    "recipe.augment.flip": False,
    "recipe.augment.chunk": 1,
    "recipe.augment.jitter": 0.2,
    "recipe.augment.jitter_shrinks": False,
    "recipe.augment.jitter_until": None,
    "recipe.augment.mean": "channel",
}


def changed(value: Any, path: str, new: Any) -> Any:
    """A dataclass with the field at a dotted path replaced."""
    name, _, rest = path.partition(".")
    inner = changed(getattr(value, name), rest, new) if rest else new
    return dataclasses.replace(value, **{name: inner})


@pytest.mark.parametrize("row", conventions.conventions(), ids=lambda row: str(row.name))
def test_a_row_tells_each_of_its_fields(row: conventions.Convention) -> None:
    source = presets.get("source")
    for field in row.fields:
        other = changed(source, field, OTHERS[field])
        assert other != source
        assert row.value(other) != row.value(source), field
        if field != "norms":
            rest = [one for one in conventions.conventions() if field not in one.fields]
            told = [one.name for one in rest if one.value(other) != one.value(source)]
            assert told in ([], ["layers with rates of their own"]), field


def test_another_rate_of_a_single_layer_is_told() -> None:
    source = presets.get("source")
    rates = {**source.recipe.rates}
    own = next(row for row in conventions.conventions() if row.fields == ("recipe.rates",))
    values = {own.value(source)}
    for change in (
        {"lr_w": 1.0},
        {"lr_b": 1.0},
        {"decay_w": 1.0},
        {"decay_b": 1.0},
        {"schedule_w": Steps()},
        {"schedule_b": Steps()},
    ):
        conv1 = dataclasses.replace(rates["conv1"], **change)
        other = changed(source, "recipe.rates", {"conv1": conv1})
        values.add(own.value(other))
    assert len(values) == 7


def test_no_augmentation_is_told() -> None:
    none = changed(presets.get("source"), "recipe.augment", None)
    rows = [r for r in conventions.conventions() if r.fields[0].startswith("recipe.augment")]
    assert {row.value(none) for row in rows} == {"none"}


@pytest.mark.parametrize(("first", "second"), list(permutations(NAMES, 2)))
def test_differences(first: str, second: str) -> None:
    """The rows of the fields that differ; an absent norm has no differing constants."""
    one, other = presets.get(first), presets.get(second)
    told = {field for row in conventions.differences(first, second) for field in row.fields}
    for row in conventions.conventions():
        differ = any(value_at(one, field) != value_at(other, field) for field in row.fields)
        if not row.fields[0].startswith("lrn_"):
            assert differ == (row.fields[0] in told), row.name
    assert conventions.differences(first, first) == ()


def value_at(value: Any, path: str) -> Any:
    """The field at a dotted path."""
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_every_preset_says_where_each_value_stands() -> None:
    for row in conventions.conventions():
        assert set(row.where) == set(NAMES)
        assert all(row.where.values())
        assert row.where["paper"].startswith("section")


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ArgumentError, match="preset is 'google'; one of source, paper, caffe, owt"):
        conventions.differences("source", "google")


# The command


@pytest.fixture
def said() -> Callable[..., str]:
    """What the command prints when not on a terminal."""
    app = typer.Typer()
    app.command()(command)

    def run(*arguments: str, **env: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False, env=env)
        assert done.exit_code == 0
        return done.stdout

    return run


def test_two_presets(said: Callable[..., str]) -> None:
    lines = said("source", "paper").splitlines()
    rows = [line for line in lines if not line.startswith(" ")]
    assert rows == [row.name for row in conventions.differences("source", "paper")]
    alpha = lines.index("alpha of the LRN, a square")
    assert lines[alpha + 1 : alpha + 4] == [
        "  source: 2e-05",
        "  paper:  0.0001",
        "  where:  layer.py:1183; section 3.3",
    ]


def test_equal_presets(said: Callable[..., str]) -> None:
    assert said("owt", "owt") == "owt and owt agree on every convention\n"


def test_one_preset(said: Callable[..., str]) -> None:
    lines = said("caffe").splitlines()
    rows = [line for line in lines if not line.startswith(" ")]
    assert rows == [row.name for row in conventions.conventions()]
    assert lines[1:3] == ["  caffe: 256 x 256", "  where: data_transformer.cpp"]


def test_all_presets(said: Callable[..., str]) -> None:
    head, *lines = said().splitlines()
    assert head.split() == ["convention", *NAMES]
    rows = [line for line in lines if not line.startswith(" ")]
    assert len(rows) == len(conventions.conventions())
    assert "\x1b" not in head + "".join(lines)
    # Read down its column, a folded cell is complete.
    start, end = (head.index(f" {name}") + 1 for name in ("source", "paper"))
    last = lines[lines.index(rows[-1]) :]
    own = conventions.conventions()[-1].value(presets.get("source"))
    assert "".join(line[start:end] for line in last).replace(" ", "") == own.replace(" ", "")


@pytest.mark.parametrize(
    ("names", "width"),
    [((), 120), *(((one,), 100) for one in NAMES), *((two, 100) for two in permutations(NAMES, 2))],
)
def test_lines_that_fit(said: Callable[..., str], names: tuple[str, ...], width: int) -> None:
    assert max(map(len, said(*names).splitlines())) <= width


def test_json(said: Callable[..., str]) -> None:
    document = json.loads(said("source", "caffe", "--json"))
    assert len(document) == len(conventions.differences("source", "caffe"))
    rows = {row["convention"]: row for row in document}
    assert rows["input"] == {
        "convention": "input",
        "values": {"source": "224 x 224, 3 zeros below, 3 zeros right", "caffe": "227 x 227"},
        "where": {"source": "layer.py:1004", "caffe": "bvlc_alexnet/train_val.prototxt"},
    }
    assert json.loads(said("owt", "owt", "--json")) == []
    assert len(json.loads(said("--json"))[0]["values"]) == 4


@pytest.mark.parametrize("names", [["source", "paper"], []], ids=["two", "all"])
def test_on_a_terminal(said: Callable[..., str], names: list[str]) -> None:
    """A table with lines; cells are folded, and none is cut."""
    table = said(*names, FORCE_COLOR="1", TERM="xterm", COLUMNS="100")
    plain = re.sub("\x1b\\[[0-9;]*m", "", table)
    assert "─" in plain and "…" not in plain
    assert max(map(len, plain.splitlines())) <= 100
    assert "one for 32 images" in plain and table != plain
    dumb = said(*names, FORCE_COLOR="1", TERM="dumb")
    assert dumb == said(*names)

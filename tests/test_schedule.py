"""The course of learning rates: each schedule's formula, its text form, TOML, and overrides."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pydantic
import pytest

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import (
    Constant,
    Dexp,
    Exp,
    Linear,
    Plateau,
    PlateauState,
    Schedule,
    Steps,
    parse,
    rates_from,
)

EACH: tuple[Schedule, ...] = (
    Constant(),
    Steps(),
    Steps(((25, 0.1), (51.5, 1 / 3))),
    Linear(250, 90),
    Exp(0.3, 90),
    Dexp(250, 90, 7),
    Plateau(4, 2, 1.5, 0.125),
)
READER: pydantic.TypeAdapter[Schedule] = pydantic.TypeAdapter(Schedule)


def recipe(**more: Any) -> Recipe:
    """conv1's biases learn twice as fast as its weights; fc8's have their own schedule."""
    rates = {"conv1": Rate(0.01, 0.02, 0), "fc8": Rate(0.1, 0.3, 0, schedule_b=Steps(((5, 0.5),)))}
    usual = {"rate": Rate(0.05, 0.05, 0), "schedule": Steps(((5, 0.1),)), "rates": rates}
    return Recipe(epochs=10, batch_size=4, momentum=0.9, **{**usual, **more})


# Formulas


def test_constant() -> None:
    assert [Constant().factor(epoch) for epoch in (0, 3.5, 1000)] == [1, 1, 1]


def test_linear_goes_straight_down() -> None:
    """From the base rate to a quarter of it in 8 epochs; powers of two, so exact."""
    factors = [Linear(4, 8).factor(epoch) for epoch in (0, 2, 4, 8, 9)]
    assert factors == [1, 0.8125, 0.625, 0.25, 0.25]


def test_exp_falls_by_equal_ratios() -> None:
    factors = [Exp(16, 8).factor(epoch) for epoch in (0, 2, 4, 6, 8, 9)]
    assert factors == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]


def test_dexp_has_the_original_stairs() -> None:
    """cuda-convnet2's on one GPU: .01, divided by 250 in 4 stairs over 90 epochs."""
    dexp = Dexp(250, 90, 4)
    for stair, epochs in enumerate([(0, 22.4), (22.5, 44.9), (45, 67.4), (67.5, 90, 100)]):
        for epoch in epochs:
            assert math.isclose(dexp.factor(epoch), 250 ** -(stair / 3), rel_tol=1e-15)
    assert [Dexp(4, 3, 3).factor(epoch) for epoch in (0, 1, 2, 3)] == [1, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_stretched(schedule: Schedule) -> None:
    """Stretched to 3 times the epochs, epoch 3 e has the rate that epoch e had."""
    long = schedule.stretched(3)
    for epoch in (0, 11, 22, 27, 52, 88.5, 200):
        assert math.isclose(long.factor(3 * epoch, drops=1), schedule.factor(epoch, drops=1))
    assert type(long) is type(schedule)


def test_patience_stretches_with_the_run() -> None:
    short = recipe(schedule=Plateau(patience=5, times=2)).override(epochs=5)
    assert short.schedule == Plateau(patience=2.5, times=2)


# The paper's rule


def run(plateau: Plateau, *errors: float) -> list[PlateauState]:
    states = [PlateauState()]
    for error in errors:
        states.append(plateau.after(states[-1], error))
    return states[1:]


def test_plateau_drops_when_nothing_improves() -> None:
    states = run(Plateau(patience=2), 0.5, 0.4, 0.4, 0.45, 0.3, 0.35, 0.25, 0.3, 0.3)
    assert [state.drops for state in states] == [0, 0, 0, 1, 1, 1, 1, 1, 2]
    assert [state.waited for state in states] == [0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert [state.best for state in states] == [0.5, 0.4, 0.4, 0.4, 0.3, 0.3, 0.25, 0.25, 0.25]
    assert [Plateau(divisor=10).factor(7, state.drops) for state in states[2:4]] == [1, 0.1]


def test_plateau_ends_after_the_last_drop() -> None:
    states = run(Plateau(times=2, patience=2), 0.5, *[0.5] * 6)
    assert [state.drops for state in states] == [0, 0, 1, 1, 2, 2, 2]
    assert [state.ended for state in states] == [False] * 6 + [True]
    assert run(Plateau(times=2, patience=2), 0.5, *[0.5] * 6, 0.1)[-1] == states[-1]


def test_plateau_needs_a_real_improvement() -> None:
    """0.4995 is only half a threshold better; gains over two epochs add up."""
    plateau = Plateau(patience=3, threshold=0.001)
    assert [state.waited for state in run(plateau, 0.5, 0.4995, 0.4985, 0.4985)] == [0, 1, 0, 1]
    assert run(plateau, 0.5, math.nan)[-1] == PlateauState(best=0.5, waited=1)


def test_patience_below_an_epoch_is_one() -> None:
    assert [state.drops for state in run(Plateau(patience=0.3), 0.5, 0.4, 0.4, 0.4)] == [0, 0, 1, 2]
    assert [state.drops for state in run(Plateau(patience=1.5), 0.5, 0.5, 0.5)] == [0, 0, 1]


def test_plateau_state_goes_through_json() -> None:
    for state in run(Plateau(patience=2), 0.5, 0.5, 0.5):
        assert PlateauState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state


# Texts


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("const", Constant()),
        ("steps[25=0.1;51=0.01]", Steps(((25, 0.1), (51, 0.01)))),
        ("linear[factor=250]", Linear(250, 90)),
        ("exp[factor=250]", Exp(250, 90)),
        ("dexp[factor=250;steps=4]", Dexp(250, 90, 4)),
        ("plateau[factor=10;times=3;patience=5;threshold=0.001]", Plateau()),
    ],
)
def test_text_forms(text: str, schedule: Schedule) -> None:
    assert parse(text, 90) == schedule
    assert str(schedule) == text


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_every_text_is_read_back(schedule: Schedule) -> None:
    assert parse(str(schedule), 90) == schedule


def test_texts_are_read_kindly() -> None:
    assert parse(" dexp[ factor = 250 ; steps = 4 ] ", 30) == Dexp(250, 30, 4)
    assert parse("plateau[times=2]", 90) == Plateau(times=2)
    assert parse("plateau", 18) == Plateau(patience=1)  # in 18 epochs as long as 5 in 90


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tanh[factor=3]", ("'tanh[factor=3]'", "dexp[factor=250;steps=4]")),
        ("dexp[factor=3", ("'dexp[factor=3'", "dexp[factor=250;steps=4]")),
        ("", ("''", "const")),
        ("dexp[factor=250]", ("without steps", "factor, steps")),
        ("exp[factor=250;steps=3]", ("with 'steps'", "factor")),
        ("exp[factor=]", ("''", "a number")),
        ("steps[25:0.1]", ("''", "a number")),
        ("steps[x=0.1]", ("'x'", "a number")),
        ("steps[5=0.1;3=0.1]", ("epochs are [5.0, 3.0]",)),
        ("const[factor=3]", ("with 'factor'", "no option")),
        ("linear[factor=0]", ("divisor is 0",)),
        ("dexp[factor=250;steps=1]", ("steps is 1; at least 2",)),
        ("dexp[factor=250;steps=2.5]", ("steps is 2.5; an integer",)),
        ("plateau[times=0]", ("times is 0",)),
        ("plateau[patience=0]", ("patience is 0",)),
        ("plateau[threshold=2]", ("threshold is 2",)),
        ("exp[factor=nan]", ("divisor is nan",)),
    ],
)
def test_refused_texts(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError) as error:
        parse(text, 90)
    sentence = str(error.value)
    assert sentence.startswith("schedule") and sentence.endswith("expected.")
    assert all(part in sentence for part in parts), sentence


# TOML and JSON


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_tables_are_read_back(schedule: Schedule) -> None:
    table = json.loads(json.dumps(dataclasses.asdict(schedule)))
    assert next(iter(table)) == "kind"
    assert READER.validate_python(table) == schedule
    assert READER.validate_python(schedule) == schedule


def test_a_table_of_before_there_were_kinds() -> None:
    assert READER.validate_python({"steps": [[25, 0.1]]}) == Steps(((25, 0.1),))
    assert READER.validate_python({"steps": []}) == Steps()


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        ("const", (), "const, steps, linear, exp, dexp, plateau"),
        ({"kind": "tanh"}, (), "const, steps, linear, exp, dexp, plateau"),
        ({"kind": "exp", "divisor": "x", "epochs": 3}, ("exp", "divisor"), "valid number"),
        ({"kind": "exp", "divisor": -1, "epochs": 3}, ("exp",), "divisor is -1"),
    ],
)
def test_refused_tables(value: Any, where: tuple[str, ...], message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        READER.validate_python(value)
    (first,) = error.value.errors()
    assert first["loc"] == where
    assert message in first["msg"]


# In a recipe


def test_drops_reach_the_rates() -> None:
    """Those with a schedule of their own do not wait for a plateau."""
    plateau = recipe(schedule=Plateau())
    assert math.isclose(plateau.lr("conv1.w", 7, drops=2), 0.0001)
    assert math.isclose(plateau.lr("fc8.b", 7, drops=2), 0.15)
    assert plateau.lr("conv1.w", 7) == 0.01


def test_override_of_the_schedule() -> None:
    new = recipe().override(schedule="steps[2=0.5]")
    assert [new.lr(name, 3) for name in ("conv1.w", "conv1.b")] == [0.005, 0.01]
    assert [new.lr("fc8.b", epoch) for epoch in (3, 6)] == [0.3, 0.15]
    own = recipe(rates={"conv1": Rate(0.01, 0.02, 0, schedule_w=Constant())})
    assert own.override(schedule=Steps(((2, 0.5),))).lr("conv1.w", 3) == 0.005


def test_override_of_the_biases_schedule() -> None:
    new = recipe().override(bias_schedule="const")
    assert [new.lr("fc8.b", 6), new.lr("conv1.b", 6), new.lr("other.b", 6)] == [0.3, 0.02, 0.05]
    assert math.isclose(new.lr("fc8.w", 6), 0.01)


def test_a_schedule_is_read_for_the_new_number_of_epochs() -> None:
    new = recipe().override(epochs=40, schedule="exp[factor=2]", bias_schedule="linear[factor=2]")
    assert new.schedule == Exp(2, 40)
    assert new.rate.schedule_b == Linear(2, 40)


def test_only_the_recipe_waits_for_a_plateau() -> None:
    with pytest.raises(ArgumentError, match="one at a time"):
        recipe().override(bias_schedule="plateau")


def test_override_of_layers() -> None:
    """Biases keep their proportion, even with their own schedule; 0 freezes weights and biases."""
    new = recipe().override(layer_lr={"conv1": 0.1, "fc8": 0, "fc7": 0.2})
    rates = {name: new.lr(name, 0) for name in ("conv1.w", "conv1.b", "fc7.w", "fc7.b", "x.w")}
    expected = {"conv1.w": 0.1, "conv1.b": 0.2, "fc7.w": 0.2, "fc7.b": 0.2, "x.w": 0.05}
    assert all(math.isclose(rates[name], expected[name]) for name in expected), rates
    assert new.lr("fc8.w", 0) == new.lr("fc8.b", 0) == 0
    assert new.rates["fc8"].frozen and not new.rates["conv1"].frozen


def test_a_frozen_layer_can_be_thawed() -> None:
    """It has lost its own proportion, and takes that of the others."""
    frozen = recipe(rate=Rate(0.05, 0.1, 0)).override(layer_lr={"conv1": 0})
    assert math.isclose(frozen.override(layer_lr={"conv1": 0.01}).lr("conv1.b", 0), 0.02)
    assert frozen.override(bias_lr=0.5).lr("conv1.b", 0) == 0
    assert frozen.override(lr=0.5).lr("conv1.w", 0) == 0


def test_override_of_the_biases_rate() -> None:
    new = recipe().override(bias_lr=0.25, layer_lr={"fc7": 0.2}, lr=0.5)
    assert {new.lr(f"{layer}.b", 0) for layer in ("conv1", "fc7", "fc8", "other")} == {0.25}
    assert [new.lr("fc7.w", 0), new.lr("other.w", 0)] == [0.2, 0.5]
    for wrong in ({"bias_lr": -1}, {"layer_lr": {"conv1": math.nan}}):
        with pytest.raises(ArgumentError, match=r"^recipe: "):
            recipe().override(**wrong)


# Options of the command line


def test_rates_by_layer() -> None:
    layers = ("conv1", "fc8")
    assert rates_from(["conv1=0", " fc8 = 1e-1 "], layers) == {"conv1": 0, "fc8": 0.1}
    assert rates_from([], layers) == {}


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("pool1=0", "'pool1=0'; LAYER=LR with one of conv1, fc8"),
        ("0.1", "'0.1'; LAYER=LR"),
        ("conv1", "conv1 is ''; a number"),
        ("conv1=fast", "conv1 is 'fast'; a number"),
        ("conv1=-1", "conv1 is -1; at least 0"),
    ],
)
def test_refused_rates(option: str, part: str) -> None:
    with pytest.raises(ArgumentError) as error:
        rates_from([option], ("conv1", "fc8"))
    assert part in str(error.value)

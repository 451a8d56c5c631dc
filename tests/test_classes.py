"""A class is identified by its id, in any order, set or network; otherwise it is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from image_files import encoded
from networks import CLASS_NAMES, STORED, files, invoked, pictures, written
from pyalexnet import data, nets
from pyalexnet.commands.evaluate import evaluate
from pyalexnet.commands.predict import predict
from pyalexnet.data import listing, prepare
from pyalexnet.data.classes import Classes
from pyalexnet.data.pack import Storage
from pyalexnet.data.prepare import Options
from pyalexnet.errors import ArgumentError, CheckpointError, DataError
from pyalexnet.files import sealed
from pyalexnet.foreign import torchvision, weights
from pyalexnet.foreign.import_weights import import_run, write_run
from pyalexnet.foreign.weights import ForeignNet
from pyalexnet.runs import checkpoint
from pyalexnet.trained.load import Trained
from samples import generator
from trained_nets import lively
from training import assert_same, began, fitted, last, lines, resumed, without_pictures

NUMBERED = tuple(str(number) for number in range(12))


def classes(ids: str, names: str = "") -> Classes:
    return Classes(tuple(ids.split()), tuple((names or ids).split()))


# ------------------------------------------------------------------ which classes are the same


SAME: dict[str, tuple[Classes, Classes, tuple[int, ...] | None]] = {
    "by id": (classes("a b c"), classes("c a b"), (2, 0, 1)),
    "by id, whatever the names": (classes("n1 n2", "x y"), classes("n2 n1", "v w"), (1, 0)),
    "by number": (Classes.numbered(12), classes(" ".join(sorted(NUMBERED))), None),
    "by name": (classes("0 1", "cat dog"), classes("dog cat"), (1, 0)),
    "name and id": (classes("n1 n2", "cat dog"), classes("cat dog"), (0, 1)),
    "names, ids that differ": (classes("n1 n2", "cat dog"), classes("m1 m2", "dog cat"), (1, 0)),
    "the same number of others": (classes("a b"), classes("a c"), None),
    "numbers for names": (Classes.numbered(2), classes("a b"), None),
    "a part": (classes("a b c"), classes("a b"), None),
    "numbers from 1": (Classes.numbered(2), classes("1 2"), None),
    "numbers with the same names": (classes("0 1", "a b"), classes("1 0", "b a"), (1, 0)),
    "numbers with other names": (classes("0 1", "a b"), classes("0 1", "b a"), None),
    "numbers, and names on one side": (classes("0 1", "a b"), Classes.numbered(2), (0, 1)),
    "a name twice": (Classes.named(("x", "x", "y")), classes("n1 n2 n3", "x x y"), (0, 1, 2)),
    "a name twice, turned": (Classes.named(("x", "x", "y")), classes("a b c", "x y x"), None),
    "a name twice, turned, no ids": (Classes.named("xxy"), Classes.named("xyx"), None),
    "a name twice, and numbers": (Classes.named("xxy"), Classes.numbered(3), None),
}
SAME["by number"] = (*SAME["by number"][:2], (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9))


@pytest.mark.parametrize("case", SAME)
def test_places(case: str) -> None:
    these, others, expected = SAME[case]
    assert these.places(others) == expected
    back = others.places(these)
    assert (back is None) == (expected is None)
    if expected is not None and back is not None:
        assert [back[place] for place in expected] == list(range(len(these)))
    else:
        assert these.difference(others)


def test_ids_are_there_once_and_have_names() -> None:
    with pytest.raises(ArgumentError, match="the id 'a' is there twice"):
        classes("a b a")
    with pytest.raises(ArgumentError, match="there are 2 ids and 1 names"):
        classes("a b", "c")
    assert Classes.named(("x", "y", "x")).ids == ("x (0)", "y", "x (2)")
    assert Classes.named(("x", "x", "x (0)")).ids == ("x (0) (0)", "x (1)", "x (0)")
    again = ("x", "x", "x (0)", "x (0)")
    assert Classes.named(again).ids == ("x (0) (0)", "x (1)", "x (0) (2)", "x (0) (3)")


def test_what_a_file_says_of_them_is_read_back() -> None:
    own = Classes(("n1", "n2"), ("cat", "Katzenbär"))
    assert Classes.read(own.described()) == own
    for ids in ('["n1"]', '{"n1": 0}', "[1, 2]", "n1", '["n1", "n1"]'):
        with pytest.raises((ValueError, TypeError)):
            Classes.read({**own.described(), "class_ids": ids})


# ------------------------------------------------------------------ sets of photographs


def photographs(root: Path, names: Sequence[str], count: int = 4) -> Path:
    """`train` and `val` with a folder per name; images differ, and each class has a colour."""
    for part, images in (("train", count), ("val", 2)):
        for label, name in enumerate(names):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(images):
                noise = generator(len(part), label, number).integers(0, 90, (20, 20, 3))
                noise[..., label % 3] += 10 * label
                image = Image.fromarray(noise.astype(np.uint8))
                (folder / f"{number}.png").write_bytes(encoded(image))
    return root


def packed(source: Path, out: Path, **options: Any) -> Path:
    prepare.prepare(source, out, Options(Storage(STORED, "uint8"), **options), workers=1)
    return out


def network(folder: Path, own: Classes, order: Sequence[int]) -> Path:
    """A run of a network with outputs in this order: output i is class `order[i]` of `own`."""
    run = written(folder, class_names=own.names, data=None)
    saved = checkpoint.load(checkpoint.newest(run))
    for name in ("fc6.w", "fc6.b"):
        saved.params[name][:] = saved.params[name][list(order)]
    ids, names = (tuple(texts[number] for number in order) for texts in (own.ids, own.names))
    meta = dataclasses.replace(saved.meta, class_ids=ids, class_names=names)
    checkpoint.save(run / "checkpoints", dataclasses.replace(saved, meta=meta))
    return run


def scores(run: Path, where: Path, *more: str) -> tuple[float, float]:
    asked = (run, "--data", where, "--json", "--backend=cpu", *more)
    (found,) = json.loads(invoked(evaluate, *asked).stdout)["runs"]
    return found["top1_error"], found["top5_error"]


def test_numbers_in_any_order_give_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder 10 is class 10, also for an imported network, which knows its classes by number.

    The same holds for a pack made before classes were sorted by number.
    """
    source = photographs(tmp_path / "set", NUMBERED)
    with monkeypatch.context() as then:
        then.setattr(listing, "natural", lambda name: name)
        old = without_ids(packed(source, tmp_path / "old"))
    assert data.load(old).classes.ids == tuple(sorted(NUMBERED))
    places = [source, packed(source, tmp_path / "pack"), old]
    orders = {"imported": range(12), "by_bytes": [NUMBERED.index(one) for one in sorted(NUMBERED)]}
    runs = {
        name: network(tmp_path / name, Classes.numbered(12), order)
        for name, order in orders.items()
    }
    found = {scores(run, where) for run in runs.values() for where in places}
    assert len(found) == 1
    ((top1, _),) = found
    images, labels = [], []
    for number in range(12):
        for path in sorted((source / "val" / str(number)).iterdir()):
            images.append(np.asarray(Image.open(path)))
            labels.append(number)
    net = Trained.load(runs["imported"], backend="cpu")
    assert top1 == np.mean(net.logits(np.array(images)).argmax(axis=1) != np.array(labels))


@pytest.mark.parametrize("form", ["folder", "pack"])
def test_other_names_are_refused_or_taken_in_order_on_request(tmp_path: Path, form: str) -> None:
    run = network(tmp_path / "run", Classes.numbered(4), range(4))
    for name, names in (("letters", "abcd"), ("from_one", "1234"), ("own", "0123")):
        photographs(tmp_path / name, names)
        if form == "pack":
            packed(tmp_path / name, tmp_path / f"{name}_pack")
    end = "_pack" if form == "pack" else ""
    expected = scores(run, tmp_path / f"own{end}")
    for name in ("letters", "from_one"):
        where = tmp_path / f"{name}{end}"
        with pytest.raises(
            DataError, match=r"its classes are not those of run: .*; --classes-in-o"
        ):
            scores(run, where)
        # The images are those of the same number.
        assert scores(run, where, "--classes-in-order") == expected


def test_a_pack_with_names_takes_the_folders_that_it_was_made_of(tmp_path: Path) -> None:
    source = photographs(tmp_path / "set", ("n01", "n02", "n03", "n04"))
    (tmp_path / "names.txt").write_text("n03 cat\nn01 ant\nn02 bee\nn04 dog\n")
    pack = packed(source, tmp_path / "pack", class_names=tmp_path / "names.txt")
    assert data.load(pack).classes == classes("n01 n02 n03 n04", "ant bee cat dog")
    by_name = photographs(tmp_path / "by_name", CLASS_NAMES)
    runs = (
        network(tmp_path / "ids", classes("n01 n02 n03 n04"), (3, 1, 0, 2)),
        network(tmp_path / "both", classes("n01 n02 n03 n04", "ant bee cat dog"), (1, 3, 2, 0)),
        network(tmp_path / "names", classes("ant bee cat dog"), (0, 2, 1, 3)),
    )
    ids, both, names = runs
    assert len({scores(run, pack) for run in runs}) == 1
    assert scores(ids, source) == scores(both, source) == scores(both, by_name)
    assert scores(names, by_name) == scores(both, by_name)
    for run, where in ((names, source), (ids, by_name)):
        with pytest.raises(DataError, match="its classes are not those of"):
            scores(run, where)


def test_labels_by_id_or_name(tmp_path: Path) -> None:
    own = Classes(("n01", "n02", "n03", "n04"), ("crane", "ant", "crane", "bee"))
    run = network(tmp_path / "run", own, range(4))
    for folder, label in (("n03", "crane"), ("n02", "ant"), ("ant", "ant")):
        (path,) = files(tmp_path / folder, pictures(1))
        said = invoked(predict, run, path, "--labels", "--json", "--backend=cpu").stdout
        (document,) = json.loads(said)
        assert document["label"] == label
        by_index = {one["index"]: one["id"] for one in document["predictions"]}
        assert by_index == dict(enumerate(own.ids))
    (path,) = files(tmp_path / "crane", pictures(1))
    with pytest.raises(ArgumentError, match=r"folder 'crane'; the name of one of the 4 classes"):
        invoked(predict, run, path, "--labels")


def test_a_number_is_the_number_of_the_class(tmp_path: Path) -> None:
    run = network(tmp_path / "run", Classes.numbered(12), range(12))
    x = pictures(1)
    best = int(Trained.load(run, backend="cpu").logits(x).argmax())
    for number in range(12):
        (path,) = files(tmp_path / str(number), x)
        said = invoked(predict, run, path, "--labels", "--top=1", "--backend=cpu").stdout
        assert said.splitlines()[-1] == f"right: {int(number == best)} of 1"


# ------------------------------------------------------------------ packs of earlier versions


def without_ids(pack: Path) -> Path:
    """A pack as made before there were ids."""
    document = json.loads((pack / "pack.json").read_text())
    del document["class_ids"]
    (pack / "pack.json").write_bytes(sealed(document))
    return pack


def test_a_pack_of_before_there_were_ids(tmp_path: Path) -> None:
    source = photographs(tmp_path / "set", ("n01", "n02", "n03", "n04"))
    (names := tmp_path / "names.txt").write_text("crane\nant\ncrane\nbee\n")
    pack = packed(source, tmp_path / "pack", class_names=names)
    whole = (pack / "pack.json").read_bytes()
    old = data.load(without_ids(pack))
    assert old.class_names == ("crane", "ant", "crane", "bee")
    assert old.classes.ids == ("crane (0)", "ant", "crane (2)", "bee")
    plain = without_ids(packed(source, tmp_path / "plain"))
    assert data.load(plain).classes == classes("n01 n02 n03 n04")
    # Repeating the call adds the ids, and runs that were trained on the pack still accept it.
    packed(source, pack, class_names=names)
    assert (pack / "pack.json").read_bytes() == whole
    run = network(tmp_path / "run", old.classes, range(4))
    scores(run, pack)


# ------------------------------------------------------------------ training


def numbered_run(tmp_path: Path, source: Path, name: str, steps: int | None = None) -> Path:
    trainer = began(tmp_path / name, source, epochs=2)
    without_pictures(trainer)
    fitted(trainer, steps)
    return trainer.folder.path


def test_a_run_of_before_classes_were_sorted_by_number_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class 2 is folder 10, and remains so."""
    source = photographs(tmp_path / "set", NUMBERED)
    with monkeypatch.context() as then:
        then.setattr(listing, "natural", lambda name: name)
        straight = numbered_run(tmp_path, source, "straight")
        stopped = numbered_run(tmp_path, source, "stopped", 5)
    state = checkpoint.newest(stopped) / "state.json"
    document = json.loads(state.read_text())
    document["format"] = checkpoint.WITHOUT_IDS
    del document["meta"]["class_ids"]
    state.write_bytes(sealed(document))
    trainer = resumed(stopped)
    without_pictures(trainer)
    fitted(trainer)
    assert_same(straight, stopped)
    assert last(stopped).meta.class_ids == tuple(sorted(NUMBERED))
    # Data for its evaluation are numbered in the same way.
    asked = ("--json", "--backend=cpu")
    (found,) = json.loads(invoked(evaluate, stopped, *asked).stdout)["runs"]
    last_epoch = lines(stopped, "epoch")[-1]
    if last_epoch["step"] == Trained.load(stopped, backend="cpu").meta.step:
        assert found["top1_error"] == pytest.approx(last_epoch["test"]["top1_error"], abs=1e-6)


def test_other_classes_are_not_those_of_a_run(tmp_path: Path) -> None:
    source = photographs(tmp_path / "set", "0123")
    run = numbered_run(tmp_path, source, "run", 1)
    for label, name in enumerate("abcd"):
        for part in ("train", "val"):
            (source / part / str(label)).rename(source / part / name)
    with pytest.raises(DataError, match="their classes differ: 'a' is a class of the one, '0' of"):
        resumed(run)
    with pytest.raises(ArgumentError, match="classes_in_order is given for"):
        resumed(run, classes_in_order=True)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    return numbered_run(folder, photographs(folder / "set", "0123"), "runs", 1)


def child(tmp_path: Path, names: str, parent: Path, **more: Any) -> Any:
    source = photographs(tmp_path / f"of {names}", names)
    trainer = began(tmp_path / "runs", source, init_from=str(parent), **more)
    trainer.folder.close()
    return trainer


def test_a_child_keeps_the_last_layer_for_the_same_classes_only(
    parent: Path, tmp_path: Path
) -> None:
    before = last(parent).params
    same, others = child(tmp_path, "3210", parent), child(tmp_path, "abcd", parent)
    for trainer, kept in ((same, True), (others, False)):
        for name, value in before.items():
            assert np.array_equal(trainer.net.params[name], value) == (
                kept or not name.startswith("fc6.")
            ), name
    assert same.dataset.classes == Classes.numbered(4)
    begun = lines(others.folder.path, "start")[0]["init_from"]
    assert "fc6 anew as its classes are others (--classes-in-order takes them in their" in begun
    assert others.dataset.class_names == ("a", "b", "c", "d")


def test_a_child_takes_classes_in_order_on_request(parent: Path, tmp_path: Path) -> None:
    trainer = child(tmp_path, "abcd", parent, classes_in_order=True)
    for name, value in last(parent).params.items():
        assert np.array_equal(trainer.net.params[name], value), name
    assert trainer.dataset.class_names == ("a", "b", "c", "d")
    with pytest.raises(DataError, match=r"not those of .*: there are 3 and 4\."):
        child(tmp_path, "abc", parent, classes_in_order=True)
    with pytest.raises(ArgumentError, match="none is in init_from; a network with the classes"):
        began(tmp_path / "runs", tmp_path / "of abcd", classes_in_order=True)


def test_a_child_in_its_parents_order(parent: Path, tmp_path: Path) -> None:
    """A network with outputs in another order keeps that order: labels follow the outputs."""
    saved = last(parent)
    turned = Path(shutil.copytree(parent, tmp_path / "turned"))
    order = [2, 0, 3, 1]
    for name in ("fc6.w", "fc6.b"):
        saved.params[name][:] = saved.params[name][order]
    own = tuple(str(number) for number in order)
    meta = dataclasses.replace(saved.meta, class_ids=own, class_names=own)
    checkpoint.save(turned / "checkpoints", dataclasses.replace(saved, meta=meta))
    trainer = child(tmp_path, "0123", turned)
    straight = child(tmp_path / "other", "0123", parent)
    assert trainer.dataset.classes.ids == own
    labels = np.array(order)[trainer.dataset.train.labels]
    assert np.array_equal(labels, straight.dataset.train.labels)


# ------------------------------------------------------------------ there and back


@pytest.mark.slow
def test_one_network_by_folder_and_pack_exported_and_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores each time, or a refusal; under other names they would differ."""
    narrow: dict[str, Any] = {"preset": "owt", "width": 0.0625}
    monkeypatch.setattr(torchvision, "NET_ARGS", narrow)
    source = photographs(tmp_path / "set", NUMBERED)
    names = [chr(ord("l") - number) for number in range(12)]
    (told := tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    pack = tmp_path / "pack"
    options = Options(Storage(256, "uint8"), class_names=told)
    prepare.prepare(source, pack, options, workers=1)

    spec = nets.alexnet(classes=12, **narrow)
    begin = tmp_path / "begin"
    mean = np.zeros((256, 256, 3), np.float32)
    write_run(begin, ForeignNet(spec, narrow, lively(spec), mean), Classes.numbered(12))
    trainer = began(tmp_path / "runs", pack, init_from=str(begin), lr=1e-5)
    fitted(trainer, 2)
    run, file, back = trainer.folder.path, tmp_path / "weights.safetensors", tmp_path / "back"
    trained = Trained.load(run, backend="cpu")
    torchvision.write(trained, file)
    import_run(file, back)
    again = Trained.load(back, backend="cpu")
    assert again.classes == Classes(NUMBERED, tuple(names))
    assert np.array_equal(again.mean[0, 0], trained.mean[0, 0])  # the mean of its own data

    by_name, by_letter = (
        Path(shutil.copytree(source, tmp_path / name)) for name in ("by_name", "by_letter")
    )
    for folder, called in ((by_name, names), (by_letter, "mnopqrstuvwx")):
        for part in ("train", "val"):
            for number, name in enumerate(called):
                (folder / part / str(number)).rename(folder / part / name)
    for one in (run, back):
        assert scores(one, source) == scores(one, pack) == scores(one, by_name)
        with pytest.raises(DataError, match="its classes are not those of"):
            scores(one, by_letter)
        assert scores(one, by_letter, "--classes-in-order") == scores(one, source)
        assert scores(one, by_name, "--classes-in-order") != scores(one, source)
    assert scores(run, pack) == scores(back, pack)

    # Another program's file does not name its classes: they are numbers, like the folders.
    arrays = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file(arrays, tmp_path / "foreign.safetensors")
    import_run(tmp_path / "foreign.safetensors", tmp_path / "foreign")
    assert scores(tmp_path / "foreign", source) == scores(run, pack)
    with pytest.raises(DataError, match="its classes are not those of foreign"):
        scores(tmp_path / "foreign", by_name)


@pytest.mark.parametrize("ids", ['["a"]', "[1, 2]", "{", '["a", "a"]'])
def test_an_export_that_tells_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: str
) -> None:
    monkeypatch.setattr(torchvision, "NET_ARGS", {"preset": "owt", "width": 0.0625})
    spec = nets.alexnet(classes=2, preset="owt", width=0.0625)
    found = weights.theirs(spec, lively(spec))
    arrays = {torchvision._NAMES[name]: value for name, value in found.items()}
    told = {"class_ids": ids, "class_names": '["x", "y"]'}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", metadata=told)
    with pytest.raises(CheckpointError, match="what it calls its classes cannot be read"):
        import_run(tmp_path / "a.safetensors", tmp_path / "run")

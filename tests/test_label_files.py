"""Label files and lists of classes, as common data sets and programs write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyalexnet.data import label_files, tables
from pyalexnet.errors import DataError

FOLDERS = ("n01440764", "n01443537", "n02979186")
NAMES = ("tench, Tinca tinca", "goldfish", "cassette player")
FILES = tuple(f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 7))
LABELS = [2, 0, 1, 1, 2, 0]
IDS = [FOLDERS[label] for label in LABELS]
STEMS = [file.removesuffix(".JPEG") for file in FILES]


def lines(*columns: Sequence[object], by: str = " ", head: str = "", end: str = "\n") -> str:
    rows = [by.join(map(str, row)) for row in zip(*columns, strict=True)]
    return end.join(([head] if head else []) + rows) + end


BOXES = [f"{synset} 85 1 499 272 " for synset in IDS]
TINY = [f"val_{number}.JPEG" for number in range(6)]
PATHS = [f"val/{synset}/{file}" for synset, file in zip(IDS, FILES, strict=True)]
NOISY = (
    "path,noisy_labels_0,noisy_labels_1,noisy_labels_50,is_valid\n"
    + "".join(
        f"train/{one}/{one}_{n}.JPEG,{one},{one},{one},False\n" for n in (7, 8) for one in IDS
    )
    # one label of the noisier columns is another class
    + lines(PATHS, IDS, [FOLDERS[0], *IDS[1:]], IDS[::-1], ["True"] * 6, by=",")
)

SPELLINGS: dict[str, tuple[str, Sequence[str]]] = {
    "wnids, a line an image": (lines(IDS), FILES),
    "the same below a title": (lines(IDS, head="label"), FILES),
    "names, a line an image": (lines([NAMES[label] for label in LABELS]), FILES),
    "Caffe's val.txt": (lines(FILES, LABELS), FILES),
    "DALI's file list": (lines(PATHS, LABELS), FILES),
    "DALI's by folder": (lines([f"./{path}" for path in PATHS], LABELS, by="\t"), FILES),
    "Windows paths": (lines([path.replace("/", "\\") for path in PATHS], LABELS, by=","), FILES),
    "Kaggle's LOC_val_solution.csv": (
        lines(STEMS, BOXES, by=",", head="ImageId,PredictionString"),
        FILES,
    ),
    "Kaggle's, two boxes of a class": (
        lines(STEMS, [box * 2 for box in BOXES], by=",", head="ImageId,PredictionString"),
        FILES,
    ),
    "Tiny ImageNet's val_annotations.txt": (
        lines(TINY, IDS, *[[0, 32, 44, 62, 5, 1]] * 4, by="\t"),
        TINY,
    ),
    "the same, by blanks": (lines(TINY, IDS, *[[0, 32, 44, 62, 5, 1]] * 4), TINY),
    "noisy_imagenette.csv": (NOISY, FILES),
    "Keras: filename,label": (lines(FILES, IDS, by=",", head="filename,label"), FILES),
    "file,class": (lines(FILES, LABELS, by=",", head="file,class"), FILES),
    "image_id,label": (lines(STEMS, LABELS, by=",", head="image_id,label"), FILES),
    "path,target": (lines(PATHS, LABELS, by=",", head="path,target"), FILES),
    "label before file": (lines(IDS, FILES, by=",", head="label,image"), FILES),
    "without a title": (lines(FILES, IDS, by=","), FILES),
    "semicolons": (lines(FILES, LABELS, by=";", head="Foto;Klasse"), FILES),
    "tabs": (lines(FILES, IDS, by="\t", head="file\tsynset"), FILES),
    "several blanks": (lines(FILES, LABELS, by="    "), FILES),
    "commas and blanks": (lines(FILES, LABELS, by=", "), FILES),
    "quotes": (lines([f'"{file}"' for file in FILES], [f'"{one}"' for one in IDS], by=","), FILES),
    "names with commas in quotes": (
        lines(FILES, [f'"{NAMES[label]}"' for label in LABELS], by=",", head="file,name"),
        FILES,
    ),
    "a byte order mark and CRLF": ("\ufeff" + lines(FILES, LABELS, by=",", end="\r\n"), FILES),
    "pandas with its index": (
        lines(range(6), FILES, LABELS, by=",", head=",filename,label"),
        FILES,
    ),
    "pandas, without titles": (lines(range(6), FILES, LABELS, by=","), FILES),
    "pandas with floats": (lines(FILES, [float(n) for n in LABELS], by=",", head="file,y"), FILES),
    "id and name": (
        lines(FILES, IDS, [NAMES[n].split(",")[0] for n in LABELS], by="\t", head="f\tid\tname"),
        FILES,
    ),
    "width, height and label": (
        lines(FILES, [500, 375, 500, 333, 500, 500], LABELS, by=",", head="image,width,label"),
        FILES,
    ),
    "a column of the part": (
        lines(
            [*(f"{one}_1.JPEG" for one in IDS), *FILES],
            IDS * 2,
            ["train"] * 6 + ["val"] * 6,
            by=",",
            head="image,label,split",
        ),
        FILES,
    ),
    "file names with blanks": (
        lines([f"white bear {n}.jpg" for n in range(6)], LABELS),
        [f"white bear {n}.jpg" for n in range(6)],
    ),
    "any order": (lines(FILES[::-1], LABELS[::-1]), FILES),
    "numbers for stems": (
        lines(range(1, 7), IDS, by=",", head="id,label"),
        [f"{n}.png" for n in range(1, 7)],
    ),
    "JSON, by path": (json.dumps(dict(zip(PATHS, LABELS, strict=True)), indent=1), FILES),
    "JSON, by file, to id": (json.dumps(dict(zip(FILES, IDS, strict=True))), FILES),
    "JSON, rows": (json.dumps([*zip(FILES, LABELS, strict=True)]), FILES),
    "JSON, objects": (
        json.dumps([{"file": f, "label": n} for f, n in zip(FILES, LABELS, strict=True)]),
        FILES,
    ),
    "JSON, an object a line": (
        "\n".join(
            json.dumps({"file_name": f, "label": n}) for f, n in zip(FILES, LABELS, strict=True)
        ),
        FILES,
    ),
    "JSON, a list of labels": (json.dumps(IDS), FILES),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_labels(tmp_path: Path, spelling: str) -> None:
    text, files = SPELLINGS[spelling]
    path = tmp_path / "labels"
    path.write_text(text, newline="")
    found = label_files.val_labels(path, None, files, FOLDERS, NAMES)
    assert found.tolist() == LABELS


GROUND_TRUTH = lines([{0: 30, 1: 1, 2: 20}[label] for label in LABELS])
MEANINGS = {
    "NUMBER FOLDER": "30 n01440764\n1 n01443537\n20 n02979186\n",
    "map_clsloc.txt": "n01440764 30 tench\nn01443537 1 goldfish\nn02979186 20 cassette_player\n",
    "CSV": "ILSVRC_ID,WNID,words\n30,n01440764,tench\n1,n01443537,g\n20,n02979186,c\n",
    "JSON to folders": '{"30": "n01440764", "1": "n01443537", "20": "n02979186"}',
    "imagenet_class_index.json": '{"30": ["n01440764", "tench"], "1": ["n01443537", "goldfish"],'
    ' "20": ["n02979186", "cassette_player"]}',
    "JSON, class to number": '{"n01440764": 30, "n01443537": 1, "n02979186": 20}',
}


@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("bare", [True, False], ids=["ground truth", "with files"])
def test_labels_by_numbers_of_their_own(tmp_path: Path, meaning: str, bare: bool) -> None:
    labels, numbers = tmp_path / "labels", tmp_path / "numbers"
    labels.write_text(GROUND_TRUTH if bare else lines(FILES, GROUND_TRUTH.split()))
    numbers.write_text(MEANINGS[meaning])
    assert label_files.val_labels(labels, numbers, FILES, FOLDERS).tolist() == LABELS


@pytest.mark.parametrize("first", [0, 1])
def test_folders_alone_are_counted_as_the_labels_are(tmp_path: Path, first: int) -> None:
    """Caffe's synsets.txt, with its own order."""
    labels, numbers = tmp_path / "labels", tmp_path / "numbers"
    numbers.write_text(lines(FOLDERS[::-1]))
    labels.write_text(lines(FILES, [2 - label + first for label in LABELS]))
    assert label_files.val_labels(labels, numbers, FILES, FOLDERS).tolist() == LABELS
    labels.write_text(lines(FILES, [1, 2, 1, 2, 1, 2]))
    with pytest.raises(DataError, match="neither of 0 and 3 are labels"):
        label_files.val_labels(labels, numbers, FILES, FOLDERS)


OTHER = [IDS[-1], *IDS[:-1]]
REFUSED: dict[str, tuple[str, str]] = {
    "two columns of classes": (
        lines(FILES, IDS, OTHER, by=","),
        "line 1 is 'ILSVRC2012_val_00000001.JPEG n02979186 n01440764', and 2 of the columns may be",
    ),
    "two columns of numbers": (
        lines(FILES, LABELS, LABELS[::-1], by=",", head="file,first,second"),
        "and 2 of the columns of file, first, second may be the labels",
    ),
    "no column of classes": (
        lines(FILES, ["x"] * 6, ["z"] * 6, by=",", head="file,a,b"),
        "and none of the columns of file, a, b may be the labels",
    ),
    "one misspelt": (
        lines(FILES, [*IDS[:5], "n0144"], LABELS, by=","),
        "line 6 has the label 'n0144'; one of the 3 classes",
    ),
    "words beside a box": (
        lines(FILES, ["n9", *IDS[1:3], "x", "y", "z"], *[[0, 32, 44, 62, 5, 1]] * 4, by="\t"),
        "line 1 has the label 'n9'; one of the 3 classes was expected, n01440764 to n02979186",
    ),
    "boxes of two classes": (
        lines(STEMS, [*BOXES[:5], "n01440764 1 2 3 4 n01443537 1 2 3 4"], by=","),
        "line 6 has the label 'n01440764 1 2 3 4 n01443537 1 2 3 4'",
    ),
    "no column of images": (
        lines([f"x{n}.jpg" for n in range(6)], IDS, by=","),
        "line 1 is 'x0.jpg,n02979186'; a class folder's name, a number or FILE LABEL was expected, "
        "FILE as in ILSVRC2012_val_00000001.JPEG",
    ),
    "an unknown image among them": (
        lines([*FILES[:5], "extra.JPEG"], IDS, by=",", head="file,label"),
        "line 7 has an image that is not in val, extra.JPEG",
    ),
    "a key of JSON twice": (
        f'{{"{FILES[0]}": 0, "{FILES[0]}": 1}}',
        "is JSON that cannot be used (it has the key 'ILSVRC2012_val_00000001.JPEG' twice)",
    ),
    "damaged JSON": ('{"a": 0,', "is JSON that cannot be used ("),
    "JSON in JSON": ('{"images": {"a": 0}}', "(it contains a dict)"),
    "JSON of nothing": ("[null]", "(it contains null)"),
    "a list without entries": ("[]", "is JSON that cannot be used (it is empty)"),
    "an object without entries": ("{}\n", "is JSON that cannot be used (it is empty)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_refused(tmp_path: Path, case: str) -> None:
    text, said = REFUSED[case]
    path = tmp_path / "labels"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        label_files.val_labels(path, None, FILES, FOLDERS, NAMES)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    """Excel's and PowerShell's text files are UTF-16."""
    path, mark = tmp_path / "labels", "\ufeff" if encoding == "utf-16-be" else ""
    path.write_text(mark + lines(FILES, IDS, by="\t", end="\r\n"), encoding=encoding)
    assert label_files.val_labels(path, None, FILES, FOLDERS).tolist() == LABELS
    path.write_bytes(path.read_bytes()[:101])
    if encoding != "utf-8-sig":
        with pytest.raises(DataError, match=r"'utf-16-.e' codec can't decode .*; a file of lines"):
            label_files.val_labels(path, None, FILES, FOLDERS)


@pytest.mark.parametrize("count", [3, 10, 11])
def test_folders_that_are_called_by_their_places(tmp_path: Path, count: int) -> None:
    """Like MNIST's; with 11 or more, some programs sort 10 third, and label it 2."""
    path, folders = tmp_path / "labels", [str(number) for number in range(count)]
    for text in (lines(FILES, LABELS), lines(LABELS)):
        path.write_text(text)
        if count <= 10:
            assert label_files.val_labels(path, None, FILES, folders).tolist() == LABELS
        else:
            with pytest.raises(DataError, match="folders are called by numbers, too"):
                label_files.val_labels(path, None, FILES, folders)


def test_labels_of_no_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text("a.png 1\n")
    with pytest.raises(DataError, match="labels images of val; there are none"):
        label_files.val_labels(path, None, (), FOLDERS)


def test_an_id_goes_before_a_name(tmp_path: Path) -> None:
    """If one class has the name of another's folder."""
    path = tmp_path / "labels"
    path.write_text(lines(["ant", "bee"]))
    files, folders, names = ("a.png", "b.png"), ("ant", "bee"), ("bee", "ant")
    assert label_files.val_labels(path, None, files, folders, names).tolist() == [0, 1]
    path.write_text(lines(["insect", "bee"]))
    with pytest.raises(DataError, match="'insect'"):  # a name shared by two identifies neither
        label_files.val_labels(path, None, files, folders, ("insect", "insect"))


CLASS_LISTS = {
    "LOC_synset_mapping.txt": lines(FOLDERS, NAMES),
    "tabs": lines(FOLDERS, NAMES, by="\t"),
    "CSV": lines(FOLDERS, [f'"{name}"' for name in NAMES], by=",", head="wnid,name"),
    "CSV with commas unquoted": lines(FOLDERS, NAMES, by=","),
    "names before folders": lines([f'"{name}"' for name in NAMES], FOLDERS, by=","),
    "map_clsloc.txt": lines(FOLDERS, [2, 3, 1], NAMES),
    "with numbers, by tabs": lines([0, 1, 2], FOLDERS, NAMES, by="\t"),
    "words.txt": "n00001740\tentity\n" + lines(FOLDERS, NAMES, by="\t") + "n99\tlast\n",
    "any order": lines(FOLDERS[::-1], NAMES[::-1]),
    "CRLF": "\ufeff" + lines(FOLDERS, NAMES, end="\r\n"),
    "names alone": lines(NAMES),
    "imagenet_class_index.json": json.dumps(
        {str(n): pair for n, pair in enumerate(zip(FOLDERS, NAMES, strict=True))}
    ),
    "JSON by folder": json.dumps(dict(zip(FOLDERS, NAMES, strict=True))),
    "JSON by number": json.dumps({str(n): NAMES[n] for n in (2, 0, 1)}),
    "JSON names": json.dumps(NAMES),
    "JSON objects": json.dumps(
        [{"id": one, "name": name} for one, name in zip(FOLDERS, NAMES, strict=True)]
    ),
}


@pytest.mark.parametrize("spelling", CLASS_LISTS)
def test_class_names(tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "names"
    path.write_text(CLASS_LISTS[spelling], newline="")
    assert label_files.class_names(path, FOLDERS) == NAMES


def test_folders_alone_are_their_own_names(tmp_path: Path) -> None:
    """Tiny ImageNet's wnids.txt."""
    path = tmp_path / "wnids.txt"
    path.write_text(lines(FOLDERS[::-1]))
    assert label_files.class_names(path, FOLDERS) == FOLDERS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lines(FOLDERS[:2] * 2, NAMES[:2] * 2), "begins 4 of its 4 lines"),
        (lines(FOLDERS, NAMES) + "n01440764 again\n", "begins 4 of its 4 lines"),
        (json.dumps({"a": [1, 2], "b": [3, 4], "c": [5, 6]}), "begins with no class folder's name"),
        (json.dumps({"1": "a", "2": "b", "3": "c"}), "begins with no class folder's name"),
    ],
)
def test_class_names_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "names"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        label_files.class_names(path, FOLDERS)


def test_numbers_in_names_stay(tmp_path: Path) -> None:
    """A column counts as class numbers only if it consists of nothing else."""
    path = tmp_path / "names"
    path.write_text(lines(FOLDERS, ["7 up", "8 ball", "9 pin"]))
    assert label_files.class_names(path, FOLDERS) == ("7 up", "8 ball", "9 pin")


def test_a_table_is_read_in_every_way(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b'a, b ;"c d"\r\n\xff 1\n')
    *_, halves, whole = ways = tables.read(path)
    assert [[row.cells for row in way.rows] for way in ways[:3]] == [
        [('a, b ;"c d"',), ("\udcff 1",)],
        [("a, b", "c d"), ("\udcff 1",)],
        [("a", 'b ;"c d"'), ("\udcff 1",)],
    ]
    assert halves.rows[1].cells == ("\udcff", "1") and whole.rows[1].cells == ("\udcff 1",)
    assert str(whole.rows[1]) == "'\\\\xff 1'" and whole.rows[1].where == "line 2"

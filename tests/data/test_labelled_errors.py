"""Labelled texts that cannot be used: each mistake has its one error, with the way out."""

from pathlib import Path

import pytest

from jaxgen.config import LabelledData
from jaxgen.data.labelled import LabelledCorpus, load_labelled
from jaxgen.data.labels import LabelSet
from jaxgen.errors import UserError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(*paths: Path, **settings: object) -> LabelledCorpus:
    return load_labelled(LabelledData(files=paths, **settings))


BAD = {
    "one class": ("a;x\nb;x\nc;x\n", {}, r"every training text has the label 'x'.* two or more"),
    "a class with one text": (
        "a;x\nb;x\nc;y\nd;z\n",
        {},
        r"one text only of class `y`, `z`, so no share.*name validation and test files",
    ),
    "a header": ("sentence;emotion\na;x\nb;y\n", {}, r"first row .* `emotion` .*is a header, name"),
    "empty texts": (
        "a;x\n ;y\n\t;x\nb;y\n",
        {},
        r"2 of 4 texts of .* are empty, the first in .* 2;",
    ),
    "no label": ("a;x\nb;\n", {}, r"line 2 has no label; label it, or take"),
    "blanks": ("a;x\nb; x\n", {}, r"label ' x' in .* line 2 has blanks around it, .* take the bl"),
    "no separator": (
        "".join(f"{n};{n % 2}\n" for n in range(20)) + "no label\n",
        {},
        r"line 21 has no ';' between a text and a label: 'no label'; mend that line",
    ),
    "nothing recognised": ("a\nb;c\nd\n", {}, r"no labels that could be found; .*--data.format"),
    "mixed labels": ("a;1\nb;1\nc;pos\n", {}, r"got 'pos' in .* 3 and integers as in .* line 1; w"),
    "several labels": (
        "__label__x __label__y a\n",
        {},
        r"line 1 has 2 labels .*: x, y; set --data.m",
    ),
    "no label in fastText": (
        "__label__x a\nb\n",
        {},
        r"line 2 has no labels .*; label it, or take",
    ),
    "one file": ("a\nb\n", {"format": "file_per_class"}, r"needs two or more in `data.files`"),
    "no table": ("a\tb\n", {"format": "table"}, r"table is for csv.*rename it, or choose another"),
    "not UTF-8": (b"caf\xe9;x\n", {}, r"not UTF-8 at byte 3 \(0xe9\); .*--data.errors replace"),
    "an empty file": ("\n \n", {}, r"has no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines(case: str, tmp_path: Path) -> None:
    content, settings, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, "a.txt", content), **settings)


BAD_TABLES = {
    "no column": (
        "a.csv",
        "text,sentiment\na,x\n",
        r"no column `label`; there are: text, sentiment; "
        r"choose one with --data.label-column",
    ),
    "no text": (
        "a.jsonl",
        '{"label": 1, "txt": "a"}',
        r"no column `text`, did you mean `txt`\?; there "
        r"are: label, txt; choose one with --data.column",
    ),
    "a missing label": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b"}',
        r"line 2 has no label;",
    ),
    "mixed": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": true}',
        r"got 'true' in .*"
        r"line 2 and integers as in .*line 1; write all",
    ),
    "floats": ("a.jsonl", '{"text": "a", "label": 0.5}', r"words or integers, got 0.5 in .*line 1"),
    "numbers for texts": (
        "a.jsonl",
        '{"text": 1, "label": 0}',
        r"must hold text, got 1 in .*line 1",
    ),
    "half a pair": ("a.jsonl", '{"text": "\\ud800", "label": 0}', r"half a surrogate pair"),
    "null text": (
        "a.jsonl",
        '{"text": null, "label": 0}',
        r"1 of 1 texts of .* is empty, the first",
    ),
    "blanks": (
        "a.csv",
        "text,label\na,2\nb,2  \n",
        r"label '2  ' in .* row 3 has blanks around it",
    ),
    "not UTF-8": ("a.csv", b"text,label\ncaf\xe9,x\n", r"not UTF-8 at byte 14 \(0xe9\)"),
    "a list": (
        "a.jsonl",
        '{"text": "a", "label": ["x", "y"]}',
        r"2 labels.*set --data.multi-label",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_TABLES[case]
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, name, content))


def test_bad_sets_of_files(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", "text,label\na,x\n")
    (tmp_path / "other").mkdir()
    names = ("a.txt", "b.txt", "b.neg", "other/a.txt")
    text = [write(tmp_path, name, "a\nb\n") for name in names]
    with pytest.raises(UserError, match=r"must all be tables or all be lines of text"):
        load(table, text[0])
    with pytest.raises(UserError, match=r"must all be tables .* with format lines"):
        load(table, format="lines")
    with pytest.raises(UserError, match=r"must differ in their stem, their suffix or their folder"):
        load(text[0], text[2], text[1], text[3])
    with pytest.raises(UserError, match=r"there is no file .*c.txt"):
        load(tmp_path / "c.txt")


def test_labels_that_training_never_saw(tmp_path: Path) -> None:
    train = write(tmp_path, "train.txt", "a;x\nb;y\n")
    test = write(tmp_path, "test.txt", "c;x\nd;z\n")
    corpus = load(train, test_files=(test,), validation_fraction=0)
    assert corpus.test is not None
    labels = LabelSet.fit(corpus.train.labels)
    with pytest.raises(UserError, match=r"test.txt has a label .* z; known are: x, y; mend"):
        labels.encode(corpus.test.labels, corpus.test.name)


def test_a_share_that_holds_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "a;x\nb;y\nc;x\nd;y\n")
    with pytest.raises(
        UserError, match=r"share of 0.1 of the 4 texts of .* for validation holds no"
    ):
        load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "lines"}, "`data.format` says how `data.files` are written"),
        ({"column": "label"}, "`data.column` and `data.label_column` must differ"),
        ({"label_separator": ";"}, "`data.label_separator` goes with `data.multi_label`"),
        ({"label_separator": "", "multi_label": True}, "must not be empty"),
        ({"separator": ";"}, "`data.separator` is for csv and tsv files"),
        ({"separator": ";", "files": ("a.jsonl",)}, "`data.separator` is for csv and tsv files"),
        ({"separator": ";", "files": ("a.txt",), "format": "fasttext"}, "`data.separator` is for"),
        ({"max_length": 0}, "max_length"),
        ({"streaming": True}, "streaming"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledData(**settings)

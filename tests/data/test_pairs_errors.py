"""Pairs that cannot be used: each mistake has its one error, with the way out."""

from pathlib import Path

import pytest

from jaxgen.config import PairData
from jaxgen.data.pairs import PairCorpus, load_pairs, read_pairs
from jaxgen.errors import UserError

COLUMNS = {"source_column": "en", "target_column": "fr"}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(*paths: Path, **settings: object) -> PairCorpus:
    return load_pairs(PairData(files=paths, **settings))


def beside(sources: Path, targets: Path) -> PairCorpus:
    return load_pairs(PairData(source_files=(sources,), target_files=(targets,)))


BAD = {
    "three columns": (
        "a.txt",
        "Go.\tVa !\tCC-BY\nRun.\tCours !\tCC-BY\n",
        {},
        r"a.txt has 3 columns and none is named as source or target; there are: 0 \('Go.'\), "
        r"1 \('Va !'\), 2 \('CC-BY'\); name two with --data.source-column and "
        r"--data.target-column, where that is a header by its names$",
    ),
    "three keys": (
        "a.jsonl",
        '{"id": 1, "en": "a", "fr": "b"}',
        {},
        r"has 3 columns and none .*; there are: id, en, fr; name two with .*-column$",
    ),
    "two keys": (
        "a.jsonl",
        '{"translation": {"en": "a", "fr": "b"}}',
        {},
        r"2 columns .* there are: translation.en, translation.fr; name two",
    ),
    "one column": (
        "a.txt",
        "Go. Va !\n",
        {},
        r"a.txt has one column, got 'Go. Va !', where a pair needs two; put a tab .*separator, or "
        r"give two files with --data.source-files and --data.target-files",
    ),
    "a missing column": (
        "a.csv",
        "english,fr\na,b\n",
        COLUMNS,
        r"a.csv has no column `en`; there are: english, fr; choose one "
        r"with --data.source-column \(a number, counted from 0, where the file has no header\)",
    ),
    "a missing number": (
        "a.tsv",
        "Go.\tVa !\n",
        {"source_column": "0", "target_column": "2"},
        r"no column `2`.*; there are: 0, 1; choose one with --data.target-column",
    ),
    "a missing key": (
        "a.jsonl",
        '{"en": "a", "de": "b"}',
        COLUMNS,
        r"no column `fr`; there are: en, de; choose one with --data.target-column",
    ),
    "a missing nested key": (
        "a.jsonl",
        '{"t": {"en": "a", "fr": "b"}}\n{"t": {"en": "c"}}',
        {"source_column": "t.en", "target_column": "t.fr"},
        r"line 2 has no `t.fr` but {'en': 'c'} in its place; mend .* with --data.target-column",
    ),
    "empty texts": (
        "a.tsv",
        "a\tb\n \tc\nd\t\ne\t\n",
        {},
        r"1 sources and 2 targets of .*a.tsv are empty, the first a source in .*a.tsv row 2; take",
    ),
    "null": (
        "a.jsonl",
        '{"source": "a", "target": null}',
        {},
        r"0 sources and 1 targets .* the first a target in .* line 1; take such pairs out",
    ),
    "numbers": (
        "a.jsonl",
        '{"source": "a", "target": 5}',
        {},
        r"a target must be text, got 5 in .* line 1; choose another column with --data.target-col",
    ),
    "half a pair": ("a.jsonl", '{"source": "\\ud800", "target": "b"}', {}, "half a surrogate pair"),
    "a header only": ("a.csv", "source,target\n", {}, r"has no pairs; give a file with some"),
    "not UTF-8": ("a.txt", b"caf\xe9\tb\n", {}, r"not UTF-8 at byte 3 \(0xe9\)"),
    "an uneven row": (
        "a.txt",
        "a\tb\nc\td\te\n",
        {},
        r"row 2 \(line 2\) has 3 fields and the first row has 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_of_pairs(case: str, tmp_path: Path) -> None:
    name, content, settings, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, name, content), **settings)


def test_files_that_are_not_as_long(tmp_path: Path) -> None:
    longer = write(tmp_path, "a.de", "eins\nzwei\ndrei\n")
    shorter = write(tmp_path, "a.en", "one\ntwo\n")
    message = r"as many lines, but .*a.en ends after line 2 and .*a.de goes on with 'drei'; give"
    for pair in ((longer, shorter), (shorter, longer)):
        with pytest.raises(UserError, match=message):
            beside(*pair)
    # An empty line too many is a line.
    with pytest.raises(UserError, match=r"a.en ends after line 2 and .*b.de goes on with ''"):
        beside(write(tmp_path, "b.de", "eins\nzwei\n\n"), shorter)


def test_empty_lines_and_missing_files(tmp_path: Path) -> None:
    sources = write(tmp_path, "a.de", "eins\n\ndrei\n")
    targets = write(tmp_path, "a.en", "one\ntwo\n \n")
    with pytest.raises(
        UserError,
        match=r"1 sources and 1 targets of .*a.de, .*a.en are empty, the first a source in .*a.de "
        r"and .*a.en, line 2; take such pairs out",
    ):
        beside(sources, targets)
    with pytest.raises(UserError, match=r"there is no file .*b.en"):
        beside(sources, tmp_path / "b.en")
    with pytest.raises(UserError, match=r"b.de is empty"):
        beside(write(tmp_path, "b.de", ""), targets)


def test_a_target_that_is_the_source_is_warned_of(tmp_path: Path) -> None:
    same = write(tmp_path, "a.tsv", "a\ta\nb\tb\nc\td\n")
    with pytest.warns(UserWarning, match=r"the source itself in 2 of 3 pairs of .*a.tsv; are thes"):
        load(same, validation_fraction=0, test_fraction=0)
    half = write(tmp_path, "b.tsv", "a\ta\nb\tc\n")
    load(half, validation_fraction=0, test_fraction=0)


def test_files_that_nothing_reads(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "a\tb\n")
    with pytest.raises(UserError, match=r"`data.test_files` go with `data.files`, which is empty"):
        load(validation_files=(path,))
    with pytest.raises(UserError, match=r"go with `data.source_files`, which is empty"):
        load(test_source_files=(path,), test_target_files=(path,))
    with pytest.warns(UserWarning, match=r"is in `data.files` and in `data.test_files`"):
        load(path, test_files=(path,), validation_fraction=0)
    for files in ({}, {"source_files": [path]}, {"files": [path], "target_files": [path]}):
        with pytest.raises(UserError, match=r"either files of pairs, or as many source files as t"):
            read_pairs(PairData(), **files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source_files": ("a", "b"), "target_files": ("c",)},
            "`data.source_files` and `data.target_files` must be as many, got 2 and 1",
        ),
        (
            {"test_target_files": ("c",)},
            "`data.test_source_files` and `data.test_target_files` must be as many, got 0 and 1",
        ),
        ({"source_files": ("a",), "target_files": ("b",), "files": ("c",)}, "not several"),
        ({"dataset": "a", "files": ("c",)}, "either `data.dataset` or `data.files`"),
        (
            {"files": ("a",), "source_column": "en"},
            "be two columns, got 'en' and None; name both",
        ),
        (
            {"files": ("a",), "source_column": "en", "target_column": "en"},
            "must be two columns, got 'en' and 'en'",
        ),
        (COLUMNS, "are columns of `data.dataset` or `data.files`, and there are none"),
        ({"separator": ";", "files": ("a.jsonl",)}, "`data.separator` is for csv and tsv files"),
        ({"source_length": 0}, "source_length"),
        ({"too_long": "drop"}, "too_long"),
        ({"column": "text"}, "column"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairData(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": 80_000}, r"at most 73049, the days of the years 1900 to 2099, got 80000"),
        (
            {"embedded": "addition", "examples": 28, "digits": 1},
            r"at most 27, half of all sums of numbers of 1 digits, got 28; .* raise `data.digits`",
        ),
    ],
)
def test_more_embedded_pairs_than_there_are(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_pairs(PairData(**settings))

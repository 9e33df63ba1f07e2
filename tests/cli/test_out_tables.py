"""Tables: what is written is read back as it was, and no file is replaced unasked."""

import csv
import json
import os
from pathlib import Path

import pytest

from jaxgen.cli.tables import check_table, write_table
from jaxgen.errors import UserError

TEXTS = [
    "a\rb",
    "a\r\nb",
    "\r",
    "a\nb",
    'say "x", or\r"y"',
    " a ",
    "",
    "a,b",
    "\u2028 \x85 \x0b",
    "é",
]
ROWS = [{"prompt": "x\r", "text": text, "tokens": 3} for text in TEXTS]


def test_a_csv_grid_reads_back(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ROWS)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [row | {"tokens": "3"} for row in ROWS]


def test_pandas_reads_the_same(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_table(tmp_path / "a.csv", ROWS)
    table = pandas.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert table["text"].tolist() == TEXTS
    assert set(table["prompt"]) == {"x\r"}


def test_other_tables_have_one_line_a_row(tmp_path: Path) -> None:
    write_table(tmp_path / "a.md", ROWS)
    lines = (tmp_path / "a.md").read_bytes().replace(b"\r", b"\n").split(b"\n")
    assert len(lines) == len(ROWS) + 3
    write_table(tmp_path / "a.jsonl", ROWS)
    lines = (tmp_path / "a.jsonl").read_bytes().split(b"\n")[:-1]
    assert [json.loads(line) for line in lines] == ROWS


def test_a_table_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    check_table(path)
    path.write_text("mine")
    with pytest.raises(UserError, match=r"a\.csv is there already; replace it with --force"):
        check_table(path)
    check_table(path, overwrite=True)
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    with pytest.raises(UserError, match="is there already"):
        check_table(tmp_path / "loop.csv")


def test_a_full_disk_keeps_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("earlier")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write --out .*a\.csv: No space left on device"):
        write_table(tmp_path / "a.csv", ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "earlier"

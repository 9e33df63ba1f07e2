"""Documents: every format gives its rows, and every bad one its one error."""

import gzip
import json
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxgen.config import CorpusConfig
from jaxgen.data.corpora import Corpus, load_corpus
from jaxgen.errors import UserError

ROWS = ['He said, "NA".', "한글\nzwei Zeilen", "null", "12", "été 'quoted"]
NO_HOLD_OUT = {"validation_fraction": 0.0, "test_fraction": 0.0}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("this test must not reach for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(*paths: Path, **settings: object) -> Corpus:
    return load_corpus(CorpusConfig(files=paths, **{**NO_HOLD_OUT, **settings}))


def csv_text(rows: list[str], header: str = "id,text") -> str:
    quoted = [f'{number},"{row.replace(chr(34), 2 * chr(34))}"' for number, row in enumerate(rows)]
    return "\n".join([header, *quoted]) + "\n"


def write_rows(folder: Path, name: str) -> Path:
    path = folder / name
    suffix = name.removesuffix(".gz").rpartition(".")[2]
    if suffix == "csv":
        data = csv_text(ROWS).encode()
    elif suffix == "tsv":
        lines = [f"{number}\t{row}".replace("\n", " ") for number, row in enumerate(ROWS)]
        data = "\n".join(["id\ttext", *lines]).encode()
    elif suffix == "jsonl":
        data = "".join(json.dumps({"id": 0, "text": row}) + "\n" for row in ROWS).encode()
    elif suffix == "json":
        data = json.dumps([{"id": 0, "text": row} for row in ROWS]).encode()
    else:
        pq.write_table(pa.table({"id": range(len(ROWS)), "text": ROWS}), path)
        return path
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"],
)
def test_every_format_gives_its_rows(tmp_path: Path, name: str) -> None:
    source = load(write_rows(tmp_path, name)).train
    expected = [row.replace("\n", " ") for row in ROWS] if "tsv" in name else ROWS
    assert list(source) == expected
    assert list(source) == expected
    assert source.documents


def test_columns_of_integers(tmp_path: Path) -> None:
    rows = [[60, 62, -1], [], [64]]
    lines = tmp_path / "notes.jsonl"
    lines.write_text("".join(json.dumps({"notes": row}) + "\n" for row in rows))
    assert list(load(lines, column="notes").train) == rows
    table = tmp_path / "notes.parquet"
    pq.write_table(pa.table({"notes": rows}), table)
    assert list(load(table, column="notes").train) == rows


def test_the_last_documents_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"{row}"}) + "\n" for row in range(20)))
    corpus = load(path, validation_fraction=0.1, test_fraction=0.05)
    parts = [list(part) for part in (corpus.train, corpus.validation, corpus.test) if part]
    assert parts == [[str(row) for row in range(17)], ["17", "18"], ["19"]]
    with pytest.raises(UserError, match=r"0.01 of .* for test holds nothing; raise `data.test_fr"):
        load(path, test_fraction=0.01)


def test_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text('Go.\tVa !\nRun "fast!\tCours !\n')
    assert list(load(path, column="0").train) == ["Go.", 'Run "fast!']
    assert list(load(path, column="1").train) == ["Va !", "Cours !"]
    with pytest.raises(
        UserError, match=r"no column `2`, did you mean|no column `2`; there are: 0, 1"
    ):
        load(path, column="2")
    with pytest.raises(UserError, match=r"no column `text`; there are: Go\., Va !; .* no header"):
        load(path)


def test_rows_without_a_value_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gaps.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"text": ""}\n{"text": "b"}\n')
    with pytest.warns(UserWarning, match=r"1 of 4 rows of .*gaps.jsonl have no value in column `t"):
        assert list(load(path).train) == ["a", "", "b"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_an_unknown_column_lists_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=r"no column `texts`, did you mean `text`\?; there are: id, text"
    ):
        load(write_rows(tmp_path, name), column="texts")


def test_columns_of_a_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"label": 0.5, "tags": ["a"]}\n')
    for column, value in (("label", "0.5"), ("tags", r"\['a'\]")):
        with pytest.raises(
            UserError, match=rf"column `{column}` .* text or .* got {value} in .*a.jsonl line 1"
        ):
            list(load(path, column=column).train)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_broken_utf8_in_a_table(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    data = b'{"text": "a\xff"}\n' if name == "a.jsonl" else b"text\na\xff\n"
    path.write_bytes(data)
    offset = data.index(0xFF)
    with pytest.raises(UserError, match=rf"not UTF-8 at byte {offset} \(0xff\).*replace"):
        list(load(path).train)
    assert capfd.readouterr() == ("", "")
    assert list(load(path, errors="replace").train) == ["a\ufffd"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a"\n'),
        ("a.parquet", b"not parquet at all"),
        ("a.csv.gz", b"not gzip"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read .*{name}"):
        list(load(path).train)


def test_tables_that_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("")
    with pytest.raises(UserError, match=r"a.csv is empty"):
        load(path)
    path.write_text("text\n")
    assert list(load(path).train) == []
    table = tmp_path / "a.jsonl"
    table.write_text("\n")
    with pytest.raises(UserError, match=r"has no rows|cannot read"):
        load(table)


def test_mixed_formats(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("text")
    paths = [write_rows(tmp_path, "a.csv"), write_rows(tmp_path, "a.jsonl")]
    with pytest.raises(UserError, match=r"must have one format, got .csv, .jsonl"):
        load(*paths)
    with pytest.raises(UserError, match="all be plain text or all be tables"):
        load(text, paths[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset as the hub holds it, but in a folder; `datasets` reads both alike."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "dataset"
    data.mkdir()
    for split, rows in {"train": range(10), "validation": range(2), "test": range(3)}.items():
        lines = [json.dumps({"text": f"{split} {row}", "id": row}) + "\n" for row in rows]
        (data / f"{split}.jsonl").write_text("".join(lines))
    return data


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_with_splits(folder: Path, streaming: bool) -> None:
    corpus = load_corpus(CorpusConfig(dataset=str(folder), streaming=streaming))
    assert list(corpus.train) == [f"train {row}" for row in range(10)]
    assert list(corpus.validation or ()) == ["validation 0", "validation 1"]
    assert list(corpus.test or ()) == ["test 0", "test 1", "test 2"]
    assert (corpus.train.fingerprint is None) == streaming
    other = load_corpus(
        CorpusConfig(
            dataset=str(folder),
            streaming=streaming,
            split="test",
            validation_split="train",
            test_fraction=0.34,
        )
    )
    assert list(other.train) == ["test 0", "test 1"]
    assert list(other.test or ()) == ["test 2"]
    assert len(list(other.validation or ())) == 10


def test_a_part_of_a_split(folder: Path) -> None:
    corpus = load_corpus(CorpusConfig(dataset=str(folder), split="train[:30%]"))
    assert list(corpus.train) == ["train 0", "train 1", "train 2"]


@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_split_and_column(folder: Path, streaming: bool) -> None:
    with pytest.raises(
        UserError, match=r"no split `valid`, did you mean `validation`\?; there are: train, valid"
    ):
        load_corpus(
            CorpusConfig(dataset=str(folder), streaming=streaming, validation_split="valid")
        )
    with pytest.raises(UserError, match=r"no column `body`; there are: text, id"):
        load_corpus(CorpusConfig(dataset=str(folder), streaming=streaming, column="body"))


def test_datasets_is_imported_only_where_it_is_used() -> None:
    code = "import sys, jaxgen.data.corpora; sys.exit('datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_no_network_for_a_hub_id() -> None:
    """HF_HUB_OFFLINE is set for all tests; this is what `datasets` says then."""
    with pytest.raises(UserError, match=r"cannot reach the Hugging Face hub .* --data.files my_c"):
        load_corpus(CorpusConfig(dataset="karpathy/tiny_shakespeare"))


def test_other_failures_of_a_hub_id(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import datasets

    real = datasets.load_dataset

    def fails(error: Exception) -> None:
        def load_dataset(path: str, **options: object) -> object:
            if options.get("revision") == "refs/convert/parquet":
                return real(str(folder))
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    config = CorpusConfig(dataset="some/thing")
    fails(datasets.exceptions.DatasetNotFoundError("Dataset 'some/thing' doesn't exist"))
    with pytest.raises(UserError, match="no dataset some/thing on the hub, or it is private"):
        load_corpus(config)
    fails(ValueError("Config name is missing.\nPlease pick one"))
    with pytest.raises(UserError, match=r"Config name is missing.; choose one with --data.subset"):
        load_corpus(config)
    # A dataset that was once made by a script is read from the hub's parquet copy.
    fails(RuntimeError("Dataset scripts are no longer supported, but found thing.py"))
    assert len(list(load_corpus(config).train)) == 10

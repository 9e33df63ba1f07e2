"""Tables: each field as it was written, each null counted, each row that does not fit an error."""

import csv
import gzip
import io
import json
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgen.config import CorpusConfig, TokenizerConfig
from jaxgen.data import csv_files, json_files
from jaxgen.data.corpora import Corpus, fit_tokenizer, load_corpus
from jaxgen.data.tables import open_table
from jaxgen.data.tokens import encode_corpus
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError

FIELD = st.text(st.sampled_from("ab ,;\t|\"'\n\ré\ufeff\0\\"), max_size=8)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(*paths: Path, **settings: object) -> list[object]:
    settings = {"validation_fraction": 0, "test_fraction": 0, **settings}
    return list(load_corpus(CorpusConfig(files=paths, **settings)).train)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1), st.sampled_from(["\n", "\r\n"]))
@example([("", "a\rb\r\nc\n"), ('"', '""')], "\r\n")
def test_what_pythons_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], line_end: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "text"), *rows])
    path = write(tmp_path_factory.mktemp("csv"), "a.csv", "\ufeff" + text.getvalue())
    # A NUL at the very beginning means a binary file.
    if "\0" not in text.getvalue():
        table = open_table([path], ["text", "id"])
        assert [row.values for row in table.rows()] == [(text, name) for name, text in rows]


def test_columns_of_several_files_with_their_places(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x", "more": 1}, {"text": "b"}, {"label": None, "text": "c"}]
    lines = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    other = write(tmp_path, "b.json", json.dumps([{"text": "d", "label": "y"}], indent=2))
    table = open_table([lines, other], ["label", "text"])
    assert [(row.values, row.place) for row in table.rows()] == [
        (("x", "a"), f"{lines} line 1"),
        ((None, "b"), f"{lines} line 2"),
        ((None, "c"), f"{lines} line 3"),
        (("y", "d"), f"{other} line 2"),
    ]
    pairs = write(tmp_path, "pairs.tsv", 'Go.\tVa !\tCC\n\nRun "!\tCours\r!\tCC\r\n')
    assert [(row.values, row.number) for row in open_table([pairs], ["1", "0", "2"]).rows()] == [
        (("Va !", "Go.", "CC"), 1),
        (("Cours\r!", 'Run "!', "CC"), 2),
    ]
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", None]}), tmp_path / "a.parquet")
    parquet = open_table([tmp_path / "a.parquet"], ["text", "id"])
    assert [row.values for row in parquet.rows()] == [("a", 1), (None, 2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "text\nfine\nthe cat sat, and ran\n",
            r"a.csv row 3 \(line 3\) has 2 fields and the header has 1 \(text\): 'the cat sat', "
            r"' and ran'; put texts that hold commas in quotation marks, or name another",
        ),
        (
            "a.csv",
            'id,text\n1,"hello\nthere"\n\n2,"hello there",\n',
            r"row 3 \(line 5\) has 3 fields and the header has 2 \(id, text\): '2', 'hello there'",
        ),
        ("a.csv", "id,text\n1\n", r"row 2 \(line 2\) has 1 fields and the header has 2"),
        ("a.tsv", "id\ttext\n1\ta\tb\n", r"row 2 .* has 3 fields .* a tsv file has no quoting"),
        (
            "a.csv",
            'id,text\n1,a\n2,"b\n3,c\n4,d\n',
            r"starts in line 3: a quotation mark that opens there is never closed",
        ),
        ("a.csv", 'id,text\n1,"b\n2,"c"\n', r"starts in line 2: .* followed by text; write \"\""),
        ("a.csv", 'id,text\n1,"say \\"hi\\" now"\n', r"starts in line 2: .* followed by text"),
        ("a.csv", "id,text\n1,a\rb\n", r"starts in line 2: it has a carriage return between"),
        ("a.csv", "text,text\na,b\n", r"has 2 columns `text`; give each a name of its own"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_rows_that_do_not_fit(
    tmp_path: Path, name: str, content: str, message: str, zipped: bool
) -> None:
    path = write(tmp_path, name, content)
    if zipped:
        path = write(tmp_path, f"{name.upper()}.GZ", gzip.compress(content.encode()))
    with pytest.raises(UserError, match=message.replace("a.csv", path.name)):
        texts(path)


def test_a_first_row_that_is_no_header_has_its_width_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "Go.,Va !\nRun!,Cours,!\n")
    with pytest.raises(UserError, match=r"row 2 \(line 2\) has 3 fields and the first row has 2: "):
        texts(path, column="0")


def test_an_unclosed_quotation_mark_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "_LONGEST_FIELD", 200_000)
    long = write(tmp_path, "long.csv", 'text\n"' + "a" * 190_000 + '"\n')
    assert texts(long) == ["a" * 190_000]
    path = write(tmp_path, "a.csv", 'text\na\n"' + "b\n" * 200_000)
    with pytest.raises(UserError, match=r"starts in line 3: .* never closed"):
        texts(path)


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_found_and_said(tmp_path: Path, separator: str, name: str) -> None:
    rows = "id,text\n1,'a | b'\n2,x y\n".replace(",", separator)
    path = write(tmp_path, "a.csv", rows)
    with pytest.warns(UserWarning, match=f"a.csv is read with {name} between") as caught:
        assert texts(path) == ["'a | b'", "x y"]
    assert len(caught) == 1
    assert texts(path, separator=separator) == ["'a | b'", "x y"]
    with pytest.raises(UserError, match=r"no column `text`.* --data.separator"):
        texts(path, separator=",")
    # Commas of a German text between semicolons.
    path = write(tmp_path, "b.csv", "x;a, b\ny;c\n".replace(";", separator))
    with pytest.warns(UserWarning, match=f"b.csv is read with {name}"):
        assert texts(path, column="1") == ["a, b", "c"]


def test_commas_stay_the_usual_separator(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.csv", "text\na;b\n")) == ["a;b"]
    assert texts(write(tmp_path, "b.csv", "a;b\nc;d;e\n"), column="0") == ["a;b", "c;d;e"]
    assert texts(write(tmp_path, "c.csv", "a;b,1\nc;d,2\n"), column="0") == ["a;b", "c;d"]


def test_separators_that_are_none(tmp_path: Path) -> None:
    table, text = tmp_path / "a.csv", tmp_path / "a.txt"
    assert CorpusConfig(files=(table,), separator="\\t").separator == "\t"
    for separator in ("", "ab", '"', "\n"):
        with pytest.raises(ValueError, match=r"`data.separator` must be one character"):
            CorpusConfig(files=(table,), separator=separator)
    with pytest.raises(ValueError, match=r"is for csv and tsv files, and `data.files` has none"):
        CorpusConfig(files=(text,), separator=";")


def test_line_ends_of_an_old_mac(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.csv", 'id,text\r1,"a\rb"\r2,c\r')) == ["a\rb", "c"]
    assert texts(write(tmp_path, "a.tsv", "id\ttext\r1\ta\r")) == ["a"]


def test_lines_without_fields_are_no_rows(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.csv", 'text\n\na\n""\n\r\n')) == ["a", ""]
    assert texts(write(tmp_path, "a.csv", "id,text\n1,a\n  \n")) == ["a"]


def test_json_is_not_judged_by_its_first_rows(tmp_path: Path) -> None:
    nulls = write(tmp_path, "a.jsonl", '{"text": null}\n{"id": 1}\n')
    other = write(tmp_path, "b.jsonl", '{"id": "x", "tags": {"a": 1}}\n{"text": "a", "id": 2}\n')
    with pytest.warns(UserWarning, match="3 of 4 rows of .* have no value in column `text`"):
        assert texts(nulls, other) == ["a"]


def test_rows_without_text_do_not_move_what_is_held_out(tmp_path: Path) -> None:
    rows = [{"text": None if number % 3 == 0 else str(number)} for number in range(30)]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def parts() -> list[list[str]]:
        corpus: Corpus = load_corpus(
            CorpusConfig(files=(path,), validation_fraction=0.2, test_fraction=0.1)
        )
        return [list(part) for part in (corpus.train, corpus.validation, corpus.test) if part]

    with pytest.warns(UserWarning, match=r"10 of 30 rows") as caught:
        first = parts()
    assert len(caught) == 1
    assert list(map(len, first)) == [14, 4, 2]
    assert list(chain.from_iterable(first)) == [str(number) for number in range(30) if number % 3]
    with pytest.warns(UserWarning, match=r"10 of 30 rows"):
        assert parts() == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n\n{"text": 1}\n', r"must hold text as in .* line 1, got 1 in .* line 3"),
        ('{"text": "a"}\n{"text": [1]}\n', r"must hold text as in .* line 1, got \[1\] in .* 2"),
        ('{"text": [1]}\n{"text": "a"}\n', r"lists of integers as in .* line 1, got 'a' in .* 2"),
        ('{"text": [1]}\n{"text": [true]}\n', r"lists of integers as in .*, got \[True\] in"),
        ('{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', r"starts in line 2 is not JSON \(Expecti"),
        ('{"text": "a"}\n{"text": "b\n"}\n', r"starts in line 2 is not JSON \(Invalid control"),
        ('{"text": "a"}\n{text: "b"}\n', r"starts in line 2 is not JSON"),
        ('{"text": "a"}\n{"text": "b', r"starts in line 2 is not JSON \(Unterminated string"),
        ('{"text": "a"}\n17\n', r"line 2 has 17 where a row must be an object"),
        ('[{"text": "a"}\n{"text": "b"}]', r"line 2 is not JSON \(expected , or \] .* got '{'"),
        ('[{"text": "a"},', r"is not JSON"),
        ('[{"text": "a"}', r"the list is not closed"),
        ('{"text": "a"}\n{"text": "\\ud800"}\n', r"line 2 has '\\ud800', half a surrogate pair"),
        ('{"text": "a", "text": "b"}\n', r"line 1 has the key `text` twice; keep one"),
        ("[" + "[" * 100_000, r"too many lists or objects|where a row must be an object"),
    ],
)
def test_json_that_is_not_rows_of_text(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        texts(write(tmp_path, "a.jsonl", content))


@given(st.lists(st.text(max_size=20), max_size=5), st.integers(1, 30), st.sampled_from([0, 1, 2]))
def test_json_in_any_layout_and_any_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], size: int, layout: int
) -> None:
    rows = [row for row in rows if not any("\ud800" <= character <= "\udfff" for character in row)]
    values = [{"text": row, "more": [1, {"a": "}"}]} for row in rows]
    written = [
        json.dumps(values),
        "\n".join(json.dumps(value, ensure_ascii=False) for value in values),
        "\n".join(json.dumps(value, indent=1) for value in values),
    ][layout]
    path = write(tmp_path_factory.mktemp("json"), "a.json", written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_READ_CHARACTERS", size)
        read = list(json_files.json_rows(path, ["text"], "strict"))
    assert [row.values for row in read] == [(row,) for row in rows]
    if layout == 1:
        assert [row.number for row in read] == list(range(1, len(rows) + 1))


def test_an_unclosed_string_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "_READ_CHARACTERS", 100)
    monkeypatch.setattr(json_files, "_LONGEST_ROW", 1000)
    assert texts(write(tmp_path, "a.jsonl", json.dumps({"text": "a" * 900}))) == ["a" * 900]
    path = write(tmp_path, "b.jsonl", '\n{"text": "' + "a" * 100_000)
    with pytest.raises(UserError, match=r"starts in line 2 .* goes on for more than 1,000 char"):
        texts(path)


def test_nothing_but_nulls(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": null}\n')
    with (
        pytest.warns(UserWarning, match="1 of 1 rows"),
        pytest.raises(UserError, match="for train holds nothing; give more text"),
    ):
        load_corpus(CorpusConfig(files=(path,)))


def test_keys_given_twice_matter_only_where_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a", "id": 1, "id": {"x": 1, "x": 2}}\n')
    assert texts(path) == ["a"]


def test_lists_where_text_is_read_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": [1, 2]}\n')
    corpus = load_corpus(CorpusConfig(files=(path,), validation_fraction=0, test_fraction=0))
    with pytest.raises(UserError, match=r"char tokenizer reads text, but .*a.jsonl holds .*\[1, 2"):
        fit_tokenizer(TokenizerConfig(), corpus)
    tokenizer = build_tokenizer(TokenizerConfig(kind="byte"), [])
    with pytest.raises(UserError, match=r"byte tokenizer reads text, but .*a.jsonl holds"):
        encode_corpus(corpus, tokenizer)


def test_a_list_of_strings(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.json", '["a", "b"]')) == ["a", "b"]


def test_a_table_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text\na\nb\n")
    rows = open_table([path], ["text"]).rows()
    next(rows)
    path.write_text("text\na,b\n")
    with pytest.raises(UserError, match="changed while it was read"):
        list(rows)


def test_files_that_nothing_reads_and_files_read_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text\na\nb\n")
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    with pytest.raises(UserError, match=r"go with `data.files`, .* a.csv would not be read|would"):
        load_corpus(CorpusConfig(validation_files=(path,)))
    with pytest.warns(UserWarning, match=r"is in `data.files` and in `data.validation_files`"):
        load_corpus(CorpusConfig(files=(path,), validation_files=(link,), test_fraction=0))
    with pytest.warns(UserWarning, match="`data.files` names a file twice"):
        assert texts(path, link) == ["a", "b", "a", "b"]

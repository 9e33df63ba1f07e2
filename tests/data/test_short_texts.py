"""Short texts: read from files and tables, divided into parts, encoded between two ends."""

from pathlib import Path
from typing import Any

import pytest

from jaxgen.config import TextGanData, TokenizerConfig
from jaxgen.data.labelled import LabelledTexts
from jaxgen.data.short_texts import encode_texts, load_texts, read_texts
from jaxgen.data.tokenizers import EOS, Tokenizer
from jaxgen.data.vocabulary import build_tokenizer, count_tokenizer
from jaxgen.errors import UserError

LINES = ["a cat sat", "the dog", "", "a dog sat on the mat", "  the   cat  "]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def words(texts: list[str]) -> Tokenizer:
    return build_tokenizer(TokenizerConfig(kind="word"), texts, specials=(EOS,))


def test_lines_are_texts(lines: Path) -> None:
    data = TextGanData(files=(lines,), validation_fraction=0.25, test_fraction=0.25)
    corpus = load_texts(data)
    assert corpus.validation is not None
    assert corpus.test is not None
    parts = [corpus.train.texts, corpus.validation.texts, corpus.test.texts]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert sorted(text for part in parts for text in part) == sorted(
        ["a cat sat", "the dog", "a dog sat on the mat", "the cat"]
    )
    assert corpus.train.labels == [(), ()]


def test_files_and_columns(lines: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("words,mood\none two,sad\nthree,glad\nfour,sad\nfive,glad\n")
    whole: dict[str, Any] = {"validation_fraction": 0, "test_fraction": 0}
    data = TextGanData(files=(table,), column="words", test_files=(lines,), **whole)
    corpus = load_texts(data)
    assert corpus.test is not None
    assert corpus.test.texts[0] == "a cat sat"
    assert corpus.train.texts == ["one two", "three", "four", "five"]
    named = TextGanData(files=(table,), column="words", label_column="mood", **whole)
    assert load_texts(named).train.labels == [("sad",), ("glad",), ("sad",), ("glad",)]
    assert read_texts(data, [table]).texts == ["one two", "three", "four", "five"]
    assert read_texts(TextGanData(), [lines]).texts[0] == "a cat sat"


def test_a_share_that_holds_nothing(lines: Path) -> None:
    with pytest.raises(UserError, match=r"a share of 0.05 of the 4 texts of .* holds nothing"):
        load_texts(TextGanData(files=(lines,)))


def test_a_file_of_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "blank.txt"
    path.write_text("\n \n")
    with pytest.raises(UserError, match="holds no text; give a file with some"):
        load_texts(TextGanData(files=(path,)))


def test_rows_stand_between_two_ends() -> None:
    texts = ["a cat sat", "the dog"]
    tokenizer = words(texts)
    encoded = encode_texts(
        tokenizer, LabelledTexts(texts, [(), ()], "x"), TextGanData(max_length=3)
    )
    rows = [encoded.rows.row(index).tolist() for index in range(2)]
    end = tokenizer.eos_id
    assert [row[0] for row in rows] == [row[-1] for row in rows] == [end, end]
    assert [tokenizer.decode(row[1:-1]) for row in rows] == texts


@pytest.mark.parametrize(
    ("too_long", "left", "said"), [("cut", 3, "cut there"), ("drop", 2, "left")]
)
def test_long_texts_are_counted(too_long: Any, left: int, said: str) -> None:
    texts = LabelledTexts(["a b c d", "a b", "b a"], [()] * 3, "the corpus")
    data = TextGanData(max_length=2, too_long=too_long)
    with pytest.warns(UserWarning, match=f"1 of the 3 texts of the corpus .* longest 4.*{said}"):
        encoded = encode_texts(words(list(texts.texts)), texts, data)
    assert len(encoded.rows) == len(encoded.kept) == left
    assert encoded.rows.lengths.max() == 4


def test_long_texts_are_refused() -> None:
    texts = LabelledTexts(["a b c d", "a b"], [()] * 2, "the corpus")
    with pytest.raises(UserError) as error:
        encode_texts(words(list(texts.texts)), texts, TextGanData(max_length=2))
    assert str(error.value) == (
        "1 of the 2 texts of the corpus have more than the 2 tokens of `data.max_length`, the "
        "longest 4; raise it, or set `data.too_long` to cut or drop (--data.too-long)"
    )


@pytest.mark.filterwarnings("ignore:2 of the 2 texts")
def test_no_text_is_left() -> None:
    texts = LabelledTexts(["a b c d", "a b"], [()] * 2, "the corpus")
    data = TextGanData(max_length=1, too_long="drop")
    with pytest.raises(UserError, match="no text of the corpus has at most the 1 tokens"):
        encode_texts(words(list(texts.texts)), texts, data)


def test_a_tokenizer_of_counts() -> None:
    tokenizer = Tokenizer.from_text(count_tokenizer(12).backend.to_str())
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.start_id) == (12, None, 0)
    assert tokenizer.encode("3 11 0").tolist() == [3, 11, 0]
    assert tokenizer.decode([3, 11, 0]) == "3 11 0"

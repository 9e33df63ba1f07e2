"""From settings to parts and tokens: what is held out, how documents end, what is kept on disk."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from jaxgen.config import CorpusConfig, TokenizerConfig
from jaxgen.data.corpora import fit_tokenizer, load_corpus
from jaxgen.data.tokenizers import UnknownTokenWarning
from jaxgen.data.tokens import TokenArray, TokenFile, encode_corpus
from jaxgen.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the development corpora")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("0123456789" * 20)
    return path


def test_the_default_needs_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus = load_corpus(CorpusConfig())
        tokenizer = fit_tokenizer(TokenizerConfig(), corpus)
        splits = encode_corpus(corpus, tokenizer)
    assert splits.validation is not None
    assert splits.test is not None
    assert tokenizer.eos_id is None
    assert len(splits.train) > 15 * len(splits.validation) > 0
    assert tokenizer.decode(splits.train.read(0, len(splits.train))) == "".join(corpus.train)


def test_the_end_of_a_text_is_held_out(text: Path) -> None:
    corpus = load_corpus(CorpusConfig(files=(text,), validation_fraction=0.1, test_fraction=0.05))
    parts = ["".join(part) for part in (corpus.train, corpus.validation, corpus.test) if part]
    assert parts == ["0123456789" * 17, "0123456789" * 2, "0123456789"]
    whole = load_corpus(CorpusConfig(files=(text,), validation_fraction=0, test_fraction=0))
    assert (whole.validation, whole.test) == (None, None)
    assert "".join(whole.train) == text.read_text()


def test_files_of_their_own_are_held_out(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("abc")
    corpus = load_corpus(CorpusConfig(files=(text,), validation_files=(other,), test_fraction=0.1))
    parts = ["".join(part) for part in (corpus.train, corpus.validation, corpus.test) if part]
    assert parts == ["0123456789" * 18, "abc", "0123456789" * 2]


def test_held_out_parts_too_small(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("0123456789")
    with pytest.raises(UserError, match=r"0.01 of .* for validation holds nothing"):
        load_corpus(CorpusConfig(files=(path,), validation_fraction=0.01, test_fraction=0))
    corpus = load_corpus(CorpusConfig(files=(path,), validation_fraction=0.1, test_fraction=0))
    with pytest.raises(UserError, match=r"validation text .* has 1 tokens and needs at least 2"):
        encode_corpus(corpus, fit_tokenizer(TokenizerConfig(kind="byte"), corpus))


def test_unknown_characters_of_held_out_text_warn_once(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("a" * 80 + "ab" * 10)
    corpus = load_corpus(CorpusConfig(files=(path,), validation_fraction=0.2, test_fraction=0))
    tokenizer = fit_tokenizer(TokenizerConfig(), corpus)
    with pytest.warns(
        UnknownTokenWarning, match=r"the validation text has 'b' U\+0062 \(10x\)"
    ) as caught:
        encode_corpus(corpus, tokenizer)
    assert len(caught) == 1


def test_lower_case_belongs_to_the_tokenizer(tmp_path: Path) -> None:
    """So that a prompt is lower-cased as the corpus was."""
    path = tmp_path / "corpus.txt"
    path.write_text("The CAT the cat")
    corpus = load_corpus(
        CorpusConfig(files=(path,), lowercase=True, validation_fraction=0, test_fraction=0)
    )
    tokenizer = fit_tokenizer(TokenizerConfig(), corpus)
    assert tokenizer.vocab_size == len(set("the cat")) + 1
    assert tokenizer.decode(tokenizer.encode("ThE")) == "the"


def jsonl(path: Path, column: str, rows: list) -> CorpusConfig:
    path.write_text("".join(json.dumps({column: row}) + "\n" for row in rows))
    return CorpusConfig(files=(path,), column=column, validation_fraction=0, test_fraction=0)


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe", "integer"])
def test_documents_end_with_eos(tmp_path: Path, kind: str) -> None:
    rows = [[1, 2], [3], [1]] if kind == "integer" else ["a b", "b\n", "", "c c"]
    corpus = load_corpus(jsonl(tmp_path / "rows.jsonl", "rows", rows))
    tokenizer = fit_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), corpus)
    tokens = encode_corpus(corpus, tokenizer).train
    ids = tokens.read(0, len(tokens))
    assert (ids == tokenizer.eos_id).sum() == len(rows)
    assert ids[-1] == tokenizer.eos_id
    expected = {"integer": "1 2\n3\n1\n", "word": "a b\nb\n\nc c\n"}
    assert tokenizer.decode(ids) == expected.get(kind, "a b\nb\n\n\nc c\n")


def test_a_large_text_goes_to_a_file_and_is_found_again(text: Path, tmp_path: Path) -> None:
    config = CorpusConfig(files=(text,))
    corpus = load_corpus(config)
    tokenizer = fit_tokenizer(TokenizerConfig(), corpus)
    cache = tmp_path / "tokens"
    in_memory = encode_corpus(corpus, tokenizer, cache)
    assert isinstance(in_memory.train, TokenArray)
    assert not cache.exists()

    def encode() -> list[TokenFile]:
        parts = encode_corpus(load_corpus(config), tokenizer, cache, in_memory_bytes=0)
        return [part for part in (parts.train, parts.validation, parts.test) if part is not None]

    files = encode()
    assert all(isinstance(part, TokenFile) for part in files)
    assert files[0].path.suffix == ".uint8"
    for part, expected in zip(files, (in_memory.train, in_memory.validation), strict=False):
        assert len(part) == len(expected)
        for start, stop in ((0, len(part)), (3, 8), (len(part), len(part))):
            ids = part.read(start, stop)
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(ids, expected.read(start, stop))
    written = [part.path.stat().st_mtime_ns for part in files]
    assert [part.path.stat().st_mtime_ns for part in encode()] == written

    # A file that was cut short is not taken for whole; a source that changed is encoded anew.
    files[0].path.write_bytes(files[0].path.read_bytes()[:-1])
    with pytest.raises(UserError, match="ends early; delete it"):
        files[0].read(0, len(files[0]))
    assert len(encode()[0]) == len(in_memory.train)
    text.write_text("9876543210" * 20)
    changed = encode()[0]
    assert changed.read(0, 3).tolist() == [9, 8, 7]
    other = fit_tokenizer(TokenizerConfig(kind="byte"), corpus)
    assert encode_corpus(load_corpus(config), other, cache, in_memory_bytes=0).train.read(
        0, 1
    ).tolist() == [ord("9")]


def test_digests_follow_the_tokens_and_nothing_else(text: Path, tmp_path: Path) -> None:
    config = CorpusConfig(files=(text,), validation_fraction=0.1, test_fraction=0.1)
    tokenizer = fit_tokenizer(TokenizerConfig(), load_corpus(config))
    first = encode_corpus(load_corpus(config), tokenizer)
    assert first.digests.keys() == {"train", "validation", "test"}
    assert first.digests["train"] != first.digests["test"] == first.digests["validation"]
    expected = hashlib.sha256(bytes(first.train.read(0, len(first.train)).tolist())).hexdigest()
    assert first.digests["train"] == expected[:32]

    cache = tmp_path / "tokens"
    for _ in range(2):  # written, and found again
        filed = encode_corpus(load_corpus(config), tokenizer, cache, in_memory_bytes=0)
        assert isinstance(filed.train, TokenFile)
        assert filed.digests == first.digests
    moved = text.rename(tmp_path / "moved.txt")
    config = config.model_copy(update={"files": (moved,)})
    assert encode_corpus(load_corpus(config), tokenizer).digests == first.digests

    # One character of the validation text.
    moved.write_text("0123456789" * 16 + "1123456789" + "0123456789" * 3)
    changed = encode_corpus(load_corpus(config), tokenizer).digests
    assert changed["train"] == first.digests["train"]
    assert changed["validation"] != first.digests["validation"]


@pytest.mark.parametrize(("size", "dtype"), [(256, "uint8"), (257, "uint16"), (70_000, "uint32")])
def test_the_smallest_integers_that_hold_the_ids(tmp_path: Path, size: int, dtype: str) -> None:
    corpus = load_corpus(jsonl(tmp_path / "rows.jsonl", "rows", [list(range(size - 2))]))
    tokenizer = fit_tokenizer(TokenizerConfig(kind="integer"), corpus)
    assert tokenizer.vocab_size == size
    tokens = encode_corpus(corpus, tokenizer, tmp_path / "tokens", in_memory_bytes=0).train
    assert isinstance(tokens, TokenFile)
    assert tokens.path.suffix == f".{dtype}"
    assert tokens.read(size - 3, size - 1).tolist() == [size - 3, tokenizer.eos_id]


def test_a_full_disk(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus(CorpusConfig(files=(text,)))
    tokenizer = fit_tokenizer(TokenizerConfig(), corpus)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxgen.data.tokens.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write the token file .*No space left"):
        encode_corpus(corpus, tokenizer, tmp_path / "tokens", in_memory_bytes=0)
    assert list((tmp_path / "tokens").iterdir()) == []


@real_data
def test_wikitext_counts() -> None:
    """The published vocabulary and numbers of tokens, line ends included."""
    folder = DATA / "wikitext-2"
    corpus = load_corpus(
        CorpusConfig(
            files=(folder / "train.txt",),
            validation_files=(folder / "valid.txt",),
            test_files=(folder / "test.txt",),
        )
    )
    tokenizer = fit_tokenizer(TokenizerConfig(kind="word"), corpus)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = encode_corpus(corpus, tokenizer)
    assert tokenizer.vocab_size == 33_278
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test) if part]
    assert sizes == [2_088_628, 217_646, 245_569]


@real_data
def test_nietzsche_counts() -> None:
    path = DATA / "nietzsche" / "nietzsche.txt"
    corpus = load_corpus(CorpusConfig(files=(path,), lowercase=True, test_fraction=0))
    tokenizer = fit_tokenizer(TokenizerConfig(), corpus)
    splits = encode_corpus(corpus, tokenizer)
    assert tokenizer.vocab_size == 57 + 1
    assert splits.validation is not None
    assert len(splits.train) + len(splits.validation) == 600_893

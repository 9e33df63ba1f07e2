"""Text files: exact text, cut anywhere, and one clear error for each that cannot be read."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.config import CorpusConfig
from jaxgen.data import text_files
from jaxgen.data.corpora import load_corpus
from jaxgen.data.text_files import TextFiles
from jaxgen.errors import UserError

TEXT = "Ein Satz.\r\nZwei\rDrei\n\n한글 👩‍👩‍👧 e\u0301 \t\x85 end without line end"


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads of five bytes split every long character."""
    monkeypatch.setattr(text_files, "_READ_BYTES", 5)


def write(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.txt" for number, _ in enumerate(texts)]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return paths


def test_the_text_is_exact_and_read_again(tmp_path: Path) -> None:
    source = TextFiles.open(write(tmp_path, TEXT, "more"))
    assert "".join(source) == TEXT + "more"
    assert "".join(source) == TEXT + "more"
    assert source.nbytes == len((TEXT + "more").encode())


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    source = TextFiles.open([path])
    assert "".join(source) == TEXT
    assert source.nbytes == len(TEXT.encode())
    assert "".join("".join(part) for part in source.cut([0.5, 0.5])) == TEXT


def test_cut_parts_join_to_the_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = st.lists(st.text(st.sampled_from("a é한👩\n"), min_size=1), min_size=1, max_size=3)

    @given(texts, st.floats(0, 0.49), st.floats(0, 0.49))
    def check(texts: list[str], validation: float, test: float) -> None:
        source = TextFiles.open(write(tmp_path_factory.mktemp("cut"), *texts))
        shares = [1 - validation - test, validation, test]
        parts = source.cut(shares)
        # A part that began inside a character would not decode.
        assert "".join("".join(part) for part in parts) == "".join(texts)
        for part, share in zip(parts, shares, strict=True):
            assert abs(part.nbytes - share * source.nbytes) <= 4

    check()


def test_the_end_is_held_out(tmp_path: Path) -> None:
    train, validation, test = TextFiles.open(write(tmp_path, "0123456789" * 10)).cut(
        [0.8, 0.1, 0.1]
    )
    assert (train.nbytes, "".join(validation), "".join(test)) == (80, "0123456789", "0123456789")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert "".join(TextFiles.open(write(tmp_path, "\ufeffab\ufeff", "\ufeffcd"))) == "ab\ufeffcd"


def test_broken_utf8_names_file_and_offset(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_bytes(TEXT.encode())
    for offset, broken in ((6, b"\xff\xfe"), (13, "한".encode()[:2] + b"a"), (20, b"\xed\x95")):
        bad.write_bytes(b"x" * offset + broken)
        with pytest.raises(
            UserError, match=rf"bad.txt is not UTF-8 at byte {offset} \(0x.*replace"
        ):
            list(TextFiles.open([good, bad]))
        assert "".join(TextFiles.open([bad], "replace")).startswith("x" * offset + "\ufffd")
        assert "".join(TextFiles.open([bad], "ignore")).strip("a") == "x" * offset
    # After a cut and a byte order mark, offsets still count from the file's start.
    bad.write_bytes(b"\xef\xbb\xbf" + b"a" * 47 + b"\xff")
    with pytest.raises(UserError, match="byte 50"):
        list(TextFiles.open([bad]).cut([0.5, 0.5])[1])


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_READ_BYTES", 1 << 20)
    path = tmp_path / "corpus.txt"
    with pytest.raises(UserError, match=r"no file .*corpus.txt; check the path"):
        TextFiles.open([path])
    with pytest.raises(UserError, match="is not a file"):
        TextFiles.open([tmp_path])
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"corpus.txt is empty"):
        TextFiles.open([path])
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(UserError, match=r"is binary, not text \(byte 8 is NUL\)"):
        TextFiles.open([path])
    path.write_bytes("text".encode("utf-16"))
    with pytest.raises(UserError, match=r"is UTF-16.* iconv"):
        TextFiles.open([path])
    zipped = tmp_path / "corpus.txt.gz"
    zipped.write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"cannot read .*corpus.txt.gz"):
        TextFiles.open([zipped])
    zipped.write_bytes(gzip.compress(TEXT.encode() * 100)[:-20])
    with pytest.raises(UserError, match=r"cannot read .*corpus.txt.gz"):
        TextFiles.open([zipped])


def test_a_file_cut_short_while_read(tmp_path: Path) -> None:
    """A writer that truncates the file must neither lose text silently nor keep us for ever."""
    (path,) = write(tmp_path, TEXT)
    source = TextFiles.open([path])
    path.write_bytes(TEXT.encode()[:10])
    with pytest.raises(UserError, match=r"0.txt changed while it was read"):
        list(source)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*0.txt: No such file"):
        list(source)
    with pytest.raises(UserError, match=r"cannot read .*0.txt: No such file"):
        assert source.fingerprint


def test_upper_case_suffixes(tmp_path: Path) -> None:
    path = tmp_path / "TEXT.TXT.GZ"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert "".join(TextFiles.open([path])) == TEXT


def test_other_encodings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_READ_BYTES", 1 << 20)
    path = tmp_path / "text.txt"
    for encoding in ("utf-32", "utf-16"):
        path.write_bytes("text".encode(encoding))
        with pytest.raises(
            UserError, match=rf"is {encoding.upper()}.* iconv -f {encoding.upper()}"
        ):
            TextFiles.open([path])
    path.write_bytes("text".encode("utf-16-be"))
    with pytest.raises(UserError, match=r"looks like UTF-16, .* iconv -f UTF-16BE"):
        TextFiles.open([path])
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UserError, match=r"no file .*text.txt"):
        load_corpus(CorpusConfig(files=(path,)))
    path.unlink()
    path.write_bytes(gzip.compress(b"text"))
    with pytest.raises(UserError, match=r"text.txt is gzipped; let its name end in .gz"):
        TextFiles.open([path])

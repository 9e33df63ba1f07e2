"""Plain text files as one exact stream of text, read in bounded memory and any number of times."""

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase, TextIOWrapper
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

from jaxgen.data.pieces import repiece
from jaxgen.errors import UserError

_READ_BYTES = 1 << 20
_MARKS = {
    # UTF-16's mark is the beginning of UTF-32's.
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_GZIP = b"\x1f\x8b"
_READ_ERRORS = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class TextFiles:
    """The text of some files, one after the other, line ends and all; or a byte range of it.

    A UTF-8 byte order mark at the start of a file is not text and is left out. Iterating gives
    pieces of text that end where words end.

    Attributes:
        paths: the files, also gzipped.
        sizes: their bytes, uncompressed.
        start: first byte of the range, counted over all files.
        stop: one past the last byte.
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    start: int
    stop: int
    errors: str = "strict"
    documents = False

    @classmethod
    def open(cls, paths: Sequence[Path], errors: str = "strict") -> "TextFiles":
        """Check the files; UserError for one that is missing, empty or not text."""
        check_files(paths)
        sizes = tuple(_size(path) for path in paths)
        return cls(tuple(paths), sizes, 0, sum(sizes), errors)

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(map(str, self.paths))

    @property
    def fingerprint(self) -> str:
        """Changes when a file is written to."""
        return f"{stamp(self.paths)} {self.start} {self.stop} {self.errors}"

    @property
    def nbytes(self) -> int:
        """Bytes of UTF-8."""
        return self.stop - self.start

    @property
    def empty(self) -> bool:
        """Whether there is no text."""
        return self.nbytes == 0

    def cut(self, shares: Sequence[float]) -> "list[TextFiles]":
        """Consecutive parts holding these shares of the bytes, moved to whole characters."""
        cuts = [self.start + round(share * self.nbytes) for share in accumulate(shares[:-1])]
        ends = [self.start, *map(self._character_start, cuts), self.stop]
        return [replace(self, start=a, stop=b) for a, b in pairwise(ends)]

    def __iter__(self) -> Iterator[str]:
        """Yield the text in pieces."""
        return repiece(self._decoded())

    def _decoded(self) -> Iterator[str]:
        for path, start, stop in self._ranges(self.start, self.stop):
            decoder = codecs.getincrementaldecoder("utf-8")(self.errors)
            position = start
            with open_bytes(path) as file:
                while True:
                    data = read_at(file, path, position, min(_READ_BYTES, stop - position))
                    if not data and position < stop:
                        raise changed(path)
                    position += len(data)
                    if position == len(data) and data.startswith(codecs.BOM_UTF8):
                        data = data.removeprefix(codecs.BOM_UTF8)
                    try:
                        yield decoder.decode(data, final=not data)
                    except UnicodeDecodeError as error:
                        offset = position - len(error.object) + error.start
                        raise broken_utf8(path, offset, error.object[error.start]) from None
                    if not data:
                        break

    def _ranges(self, start: int, stop: int) -> Iterator[tuple[Path, int, int]]:
        """The part of each file that lies in a range over all files."""
        before = 0
        for path, size in zip(self.paths, self.sizes, strict=True):
            low, high = max(start - before, 0), min(stop - before, size)
            if low < high:
                yield path, low, high
            before += size

    def _character_start(self, position: int) -> int:
        """The position, or the next that does not lie inside a character."""
        for path, start, stop in self._ranges(position, min(position + 4, self.stop)):
            with open_bytes(path) as file:
                data = read_at(file, path, start, stop - start)
            for byte in data:
                if byte & 0xC0 != 0x80:
                    return position
                position += 1
        return position


def check_files(paths: Sequence[Path]) -> None:
    """UserError for a file that is missing, a directory, unreadable, empty or not text."""
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no file {path}; check the path (relative to {Path.cwd()})")
        if not path.is_file():
            raise UserError(f"{path} is not a file; give the files of the corpus themselves")
        with open_bytes(path) as file:
            head = read_at(file, path, 0, _READ_BYTES)
        if not head:
            raise UserError(f"{path} is empty; give a file with text")
        for encoding, marks in _MARKS.items():
            if head.startswith(marks):
                raise UserError(
                    f"{path} is {encoding}, not UTF-8; "
                    f"convert it: iconv -f {encoding} -t UTF-8 {path}"
                )
        if head.startswith(_GZIP) and not is_gzip(path):
            raise UserError(f"{path} is gzipped; let its name end in .gz, or uncompress it")
        if max(head[::2].count(0), head[1::2].count(0)) > len(head) // 4:
            encoding = "UTF-16LE" if head[1:2] == b"\0" else "UTF-16BE"
            raise UserError(
                f"{path} looks like UTF-16, not UTF-8; "
                f"convert it: iconv -f {encoding} -t UTF-8 {path}"
            )
        if b"\0" in head and ".parquet" not in map(str.lower, path.suffixes):
            raise UserError(
                f"{path} is binary, not text (byte {head.index(0)} is NUL); "
                "give a txt, csv, tsv, json, jsonl or parquet file"
            )


def check_utf8(paths: Sequence[Path]) -> None:
    """UserError naming the first byte of the files that is not UTF-8."""
    for _ in TextFiles.open(paths)._decoded():
        pass


def broken_utf8(path: Path, offset: int, byte: int) -> UserError:
    """The error for a byte that is not UTF-8."""
    return UserError(
        f"{path} is not UTF-8 at byte {offset} (0x{byte:02x}); "
        "convert the file, or replace such bytes with --data.errors replace"
    )


def changed(path: Path) -> UserError:
    """The error for a file that is not what it was when it was opened."""
    return UserError(f"{path} changed while it was read; wait until it is written and start again")


def stamp(paths: Sequence[Path]) -> str:
    """Path, size and time of change of each file."""
    return repr([_stamp(path) for path in paths])


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return os.path.realpath(path), stat.st_size, stat.st_mtime_ns


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its name."""
    return path.suffix.lower() == ".gz"


def open_bytes(path: Path) -> BufferedIOBase:
    """Open for reading, uncompressed."""
    try:
        return gzip.open(path, "rb") if is_gzip(path) else path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def open_text(path: Path, errors: str, newline: str = "") -> Iterator[TextIOWrapper]:
    """Open for reading as text without its byte order mark; lines keep their ends.

    Args:
        path: the file, also gzipped.
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.
        newline: what ends a line, as in `open`.

    Raises:
        UserError: whatever is read within cannot be read, uncompressed or decoded.
    """
    try:
        with (
            open_bytes(path) as file,
            TextIOWrapper(
                cast("Any", file), encoding="utf-8-sig", errors=errors, newline=newline
            ) as text,
        ):
            yield text
    except UnicodeDecodeError:
        check_utf8([path])
        raise
    except _READ_ERRORS as error:
        raise UserError(f"cannot read {path}: {error}") from error


def read_at(file: BufferedIOBase, path: Path, position: int, size: int) -> bytes:
    """Bytes of an open file; UserError where it cannot be read or uncompressed."""
    try:
        file.seek(position)
        return file.read(size)
    except _READ_ERRORS as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _size(path: Path) -> int:
    if not is_gzip(path):
        return path.stat().st_size
    with open_bytes(path) as file:
        try:
            return file.seek(0, os.SEEK_END)
        except _READ_ERRORS as error:
            raise UserError(f"cannot read {path}: {error}") from error

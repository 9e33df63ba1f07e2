"""Files written as a whole: readers see the old content or the new one, never a part."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for new content, which takes the old one's place where the block ends well.

    The content is on the disk before it gets its name, and the name before this returns; after a
    power cut the file is the old one or the new one.

    Args:
        path: The file. Meanwhile `.NAME.part` lies beside it.

    Raises:
        OSError: The disk is full or failing, or the directory cannot be written. The old content
            is still there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content; text is written as UTF-8. Errors are those of `replacing`."""
    with replacing(path) as file:
        file.write(as_bytes(content))


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk, where the system can do that."""
    if os.name == "nt":  # opens no directories
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def as_bytes(content: str | bytes) -> bytes:
    """Content as it lies on the disk."""
    return content.encode() if isinstance(content, str) else content


def digest(content: str | bytes) -> str:
    """SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(as_bytes(content)).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's content; None where there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


def reason(error: OSError) -> str:
    """What went wrong, in the system's words, without the number and the path."""
    return error.strerror or str(error) or type(error).__name__

"""A corpus as token ids: in memory, or in a file where it is larger."""

import hashlib
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.corpora import Corpus, Source, readable
from jaxgen.data.progress import Progress
from jaxgen.data.streams import TokenArray, Tokens
from jaxgen.data.tokenizers import Tokenizer, warn_unknown
from jaxgen.errors import UserError
from jaxgen.types import Int

IN_MEMORY_BYTES = 64 << 20
_BATCH_CHARACTERS = 1 << 20
_BATCH_TOKENS = 1 << 20


class TokenFile:
    """Tokens in a file of bare little-endian unsigned integers; nothing of it stays in memory."""

    def __init__(self, path: Path):
        """Open a file whose suffix names its integer type."""
        self.path = path
        self._dtype = np.dtype(path.suffix[1:]).newbyteorder("<")
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._length = os.fstat(self._descriptor).st_size // self._dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Int[np.ndarray, " N"]:
        """The range, int32."""
        width = self._dtype.itemsize
        data = os.pread(self._descriptor, (stop - start) * width, start * width)
        if len(data) != (stop - start) * width:
            raise UserError(
                f"token file {self.path} ends early; delete it and start again to rebuild it"
            )
        return np.frombuffer(data, self._dtype).astype(np.int32)


@dataclass(frozen=True)
class TokenSplits:
    """The corpus as tokens; a part that the corpus does not hold out is None.

    Attributes:
        digests: for each part a hash of its token ids, the same wherever they come from and lie.
    """

    train: Tokens
    validation: Tokens | None = None
    test: Tokens | None = None
    digests: dict[str, str] = field(default_factory=dict)


def encode_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache_dir: str | Path | None = None,
    *,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> TokenSplits:
    """Encode all parts of a corpus; an ``<eos>`` ends each document where the tokenizer has one.

    Text larger than `in_memory_bytes`, or of unknown size, goes to a file in `cache_dir` and is
    found there again as long as neither the source nor the tokenizer has changed. Without
    `cache_dir` everything stays in memory. Unknown characters of held-out text are named in one
    warning a part; in the training text they are what the settings cut away.

    Raises:
        UserError: a part has fewer than two tokens, or the cache cannot be written.
    """
    parts: dict[str, Tokens] = {}
    digests: dict[str, str] = {}
    for part in ("train", "validation", "test"):
        source: Source | None = getattr(corpus, part)
        if source is None:
            continue
        large = source.nbytes is None or source.nbytes > in_memory_bytes
        unknown: Counter[str] = Counter()
        ids = encode_source(source, tokenizer, unknown)
        tokens: Tokens
        if cache_dir is not None and large:
            tokens, digests[part] = _cached(Path(cache_dir), part, source, tokenizer, ids)
        else:
            array = np.concatenate([np.zeros(0, small_type(tokenizer)), *ids])
            tokens, digests[part] = TokenArray(array), _digest(hashlib.sha256(_bytes(array)))
        if part != "train":
            warn_unknown(unknown, f"the {part} text")
        if len(tokens) < 2:
            raise UserError(
                f"the {part} text ({source.name}) has {len(tokens)} tokens and needs at least 2; "
                "give a longer text"
                + ("" if part == "train" else f" or raise `data.{part}_fraction`")
            )
        parts[part] = tokens
    return TokenSplits(**parts, digests=digests)


def token_counts(tokens: Tokens, vocab_size: int) -> Int[np.ndarray, " V"]:
    """How often each token occurs in a text."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), _BATCH_TOKENS):
        part = tokens.read(start, min(start + _BATCH_TOKENS, len(tokens)))
        counts += np.bincount(part, minlength=vocab_size)
    return counts


def encode_source(
    source: Source, tokenizer: Tokenizer, unknown: Counter[str]
) -> Iterator[np.ndarray]:
    """Yield the tokens of a source in the smallest unsigned type, adding to the unknown counts."""
    dtype = small_type(tokenizer)
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], dtype)
    progress, read = Progress(f"encoding {source.name}"), 0
    for texts in _batches(readable(source, tokenizer.kind)):
        progress.say(f"{read / 1e6:.1f} million characters read")
        read += sum(map(len, texts))
        encoded, strange = tokenizer.encode_many(texts)
        unknown.update(strange)
        if not source.documents:
            yield from (ids.astype(dtype) for ids in encoded)
            continue
        ended: list[np.ndarray] = []
        for ids in encoded:
            ended.append(ids.astype(dtype))
            # The word tokenizer has already turned a last line end into an <eos>.
            if not (len(ids) and ids[-1] == tokenizer.eos_id):
                ended.append(eos)
        yield np.concatenate(ended)


def small_type(tokenizer: Tokenizer) -> np.dtype:
    """The smallest of uint8, uint16 and uint32 that holds every id."""
    return np.min_scalar_type(tokenizer.vocab_size - 1)


def _bytes(ids: np.ndarray) -> bytes:
    """Ids as token files hold them: the smallest unsigned type, little-endian."""
    return ids.astype(ids.dtype.newbyteorder("<")).tobytes()


def _digest(hashed: Any) -> str:
    """128 bits: enough to tell corpora apart, short enough for a file's name."""
    return hashed.hexdigest()[:32]


def _batches(source: Iterable[str | list[int]]) -> Iterator[list[str | list[int]]]:
    """Documents in groups of about a million characters, so that short ones cost little."""
    batch: list[str | list[int]] = []
    size = 0
    for text in source:
        batch.append(text)
        size += len(text) + 1
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cached(
    folder: Path, part: str, source: Source, tokenizer: Tokenizer, ids: Iterable[np.ndarray]
) -> tuple[TokenFile, str]:
    """The token file of a source, written unless it is there already, and the digest of its ids.

    The name holds a hash of source and tokenizer, the number of tokens and their digest, so that a
    file of that name and size is complete; it gets its name only when it is.
    """
    dtype = small_type(tokenizer)
    known = f"{source.fingerprint}\n{tokenizer.fingerprint}"
    stem = f"{part}-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if source.fingerprint is not None:
            for path in folder.glob(f"{stem}-*-*.{dtype.name}"):
                count, digest = path.stem.split("-")[-2:]
                if count.isdecimal() and path.stat().st_size == int(count) * dtype.itemsize:
                    return TokenFile(path), digest
        handle, unfinished = tempfile.mkstemp(prefix=f"{stem}-", suffix=".part", dir=folder)
        try:
            hashed, size = hashlib.sha256(), 0
            with os.fdopen(handle, "wb") as file:
                for piece in ids:
                    data = _bytes(piece)
                    hashed.update(data)
                    size += file.write(data)
                file.flush()
                os.fsync(file.fileno())
            digest = _digest(hashed)
            path = folder / f"{stem}-{size // dtype.itemsize}-{digest}.{dtype.name}"
            Path(unfinished).replace(path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the token file in {folder}: {error.strerror}; free some space there "
            "or choose another folder"
        ) from error
    return TokenFile(path), digest

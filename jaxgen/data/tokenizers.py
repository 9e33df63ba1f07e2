"""Text to token ids and back, exactly as the saved ``tokenizer.json`` does it, only faster.

The file is the truth: whatever `tokenizers.Tokenizer.from_file` makes of it, this does too. Bytes,
characters, words and integers take a short cut through numpy or a dictionary, because the library
spends most of its time on offsets that nothing here needs; the tests hold both ways equal.
"""

import codecs
import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat
from operator import index
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
import tokenizers
from tokenizers import normalizers

from jaxgen.data.pieces import repiece
from jaxgen.errors import UserError
from jaxgen.types import Int

Kind = Literal["byte", "char", "word", "bpe", "integer"]
Ids = Int[np.ndarray, " N"]

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"

MARK = "\x1d"
"""Stands inside the name of a special token where a text of words spells it, so that the word is
another one; no text of words holds it otherwise, because it counts as a blank there."""
BARE_RETURN = "\r(?!\n)"
"""The carriage return that ends a line by itself."""

# What a special token reads as where words stand apart by blanks, and where they do not.
_SPECIAL_TEXT = {PAD: "", BOS: "", EOS: "\n", UNK: "\ufffd"}
_SPECIAL_WORD = {PAD: "", BOS: "", EOS: "\n", UNK: UNK}


class UnknownTokenWarning(UserWarning):
    """Characters or words outside the vocabulary became ``<unk>``."""


def warn_unknown(unknown: Counter[str], where: str = "the text") -> None:
    """Name, in one warning, what was outside the vocabulary and how often."""
    if unknown:
        warnings.warn(unknown_message(unknown, where), UnknownTokenWarning, stacklevel=3)


def unknown_message(unknown: Counter[str], where: str) -> str:
    """What was outside the vocabulary and how often, in one line."""
    shown = ", ".join(f"{_named(token)} ({count}x)" for token, count in unknown.most_common(10))
    rest = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    return (
        f"outside the vocabulary, {where} has {shown}{rest}: {unknown.total()} in all became {UNK}"
    )


def _named(token: str) -> str:
    """A token for messages; a character with its code point, as many look alike or like nothing."""
    return f"{token!r} U+{ord(token):04X}" if len(token) == 1 else repr(token)


def marked(token: str) -> str:
    """The word that a text means where it spells a special token."""
    return f"{token[0]}{MARK}{token[1:]}"


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (as in GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


class Tokenizer:
    """A vocabulary with its way of cutting text; immutable.

    Attributes:
        backend: the `tokenizers.Tokenizer` that is saved.
        kind: the unit of text.
        vocab_size: number of ids, special tokens included.
        pad_id, bos_id, eos_id, unk_id: ids of the special tokens; None where there is none.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        """Wrap a tokenizer that `build_tokenizer` made; see `load` for one that was saved."""
        self.backend = backend
        spec = json.loads(backend.to_str())
        self.kind: Kind = _kind(spec)
        vocabulary = backend.get_vocab(with_added_tokens=False)
        self.vocab_size = len(vocabulary)
        if sorted(vocabulary.values()) != list(range(self.vocab_size)):
            raise UserError("the tokenizer's ids must be 0, 1, 2, ... without gaps")
        self._vocabulary = vocabulary
        steps = {step["type"] for step in _steps(spec)}
        self._lowercase = "Lowercase" in steps
        self._nfc = "NFC" in steps
        replaced = [step["pattern"] for step in _steps(spec) if step["type"] == "Replace"]
        self._marks = [token for token in (PAD, BOS, EOS, UNK) if {"String": token} in replaced]
        self._ends_lines_at_returns = {"Regex": BARE_RETURN} in replaced
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = self._special_tokens()

    def _special_tokens(self) -> list[int | None]:
        """Ids of pad, bos, eos and unk."""
        found = [self._vocabulary.get(token) for token in (PAD, BOS, EOS, UNK)]
        if self.kind in ("word", "integer") and not self._marks:
            # A file from before there were marks: `<pad>` may be a word of the text, and is where
            # it does not stand at the end, as the special tokens do.
            last = self.vocab_size - 1
            for place, number in reversed(list(enumerate(found))):
                if number == last:
                    last -= 1
                else:
                    found[place] = None
        return found

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.vocab_size} tokens)"

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a ``tokenizer.json``; UserError where there is none or it is not one of ours."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"there is no tokenizer file at {path}")
        return cls.from_text(path.read_text(encoding="utf-8"), str(path))

    @classmethod
    def from_text(cls, text: str, where: str = "tokenizer.json") -> "Tokenizer":
        """As `load`, from the text of the file; `where` names it in errors."""
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # The library raises bare `Exception` for a broken file.
            raise UserError(
                f"{where} is not a tokenizer that jaxgen can read ({error}); "
                "take the tokenizer.json of a jaxgen run"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the ``tokenizer.json`` that `tokenizers.Tokenizer.from_file` opens."""
        self.backend.save(str(path))

    @cached_property
    def fingerprint(self) -> str:
        """A hash that two tokenizers share only if they are the same."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the special tokens that stand for no text: pad, bos and unk, where there are."""
        return tuple(
            token for token in (self.pad_id, self.bos_id, self.unk_id) if token is not None
        )

    @property
    def start_id(self) -> int:
        """Where a text with an empty prompt starts: bos, else eos, else a new line, else id 0.

        Without a bos, the end of a document (or of a line) is what a text most often follows.
        """
        new_line = "Ċ" if self.kind in ("byte", "bpe") else "\n"
        candidates = (self.bos_id, self.eos_id, self._vocabulary.get(new_line), 0)
        return next(token for token in candidates if token is not None)

    def encode(self, text: str | Sequence[int]) -> Ids:
        """Token ids (int32) of a text, or of a list of integers with the integer tokenizer.

        What is outside the vocabulary becomes ``<unk>`` and is named in one `UnknownTokenWarning`.
        """
        ids, unknown = self.encode_with_unknowns(text)
        warn_unknown(unknown)
        return ids

    def encode_with_unknowns(self, text: str | Sequence[int]) -> tuple[Ids, Counter[str]]:
        """As `encode`, but counts what became ``<unk>`` instead of warning."""
        (ids,), unknown = self.encode_many([text])
        return ids, unknown

    def encode_many(self, texts: Sequence[str | Sequence[int]]) -> tuple[list[Ids], Counter[str]]:
        """Token ids of each text, and the count of what became ``<unk>`` in all of them."""
        unknown: Counter[str] = Counter()
        if self.kind == "bpe":
            return self._encode_bpe([self.normalize(text) for text in texts]), unknown
        if self.kind == "byte":
            return [_bytes(self.normalize(text)) for text in texts], unknown
        if self.kind == "char":
            ids = [self._encode_characters(self.normalize(text), unknown) for text in texts]
        else:
            ids = [self._encode_words(self.words(text), unknown) for text in texts]
        return ids, unknown

    def words(self, text: str | Sequence[int]) -> list[str]:
        """The words of a text (word) or its integers as text (integer)."""
        if self.kind == "integer" and not isinstance(text, str):
            return [str(number) for number in text]
        normal = self.normalize(text)
        if self._ends_lines_at_returns and "\r" in normal:
            normal = re.sub(BARE_RETURN, "\n", normal)
        if any(token in normal for token in self._marks):
            return self._marked_words(normal)
        if self.kind == "word":
            normal = normal.replace("\n", f" {EOS} ")
        return normal.split()

    def _marked_words(self, normal: str) -> list[str]:
        words: list[str] = []
        for line in normal.split("\n"):
            for word in line.split():
                for token in self._marks:
                    word = word.replace(token, marked(token))
                words.append(word)
            if self.kind == "word":
                words.append(EOS)
        return words[:-1] if self.kind == "word" else words

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of the ids. Bytes and characters give back exactly what was encoded.

        ``<eos>`` reads as a new line; ``<unk>`` as U+FFFD, between words as itself.
        """
        stream = StreamingDecoder(self)
        return stream.push(ids) + stream.finish()

    def names(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Each token by itself as text; the end as <eos>."""
        return [EOS if token == self.eos_id else self.decode([token]) for token in ids]

    def decoder(self) -> "StreamingDecoder":
        """A decoder for ids that come bit by bit."""
        return StreamingDecoder(self)

    def token_texts(self, after_word: bool) -> list[tuple[bytes, bool]]:
        """What each id adds to a text in UTF-8, and whether a word then ends the text.

        Words stand apart by blanks, so that what one adds depends on what is before it; for the
        other kinds no word ever ends a text. Byte-level pieces may hold half a character.
        """
        return self._token_texts[int(after_word)]

    @cached_property
    def _token_texts(self) -> tuple[list[tuple[bytes, bool]], list[tuple[bytes, bool]]]:
        silent = {self.pad_id, self.bos_id}
        apart = self.kind in ("word", "integer")

        def after(word: bool) -> list[tuple[bytes, bool]]:
            return [
                (text, word)
                if not apart or token in silent
                else (b" " + text if word and token != self.eos_id else text, token != self.eos_id)
                for token, text in enumerate(self._text_of)
            ]

        return after(False), after(True)

    def normalize(self, text: object) -> str:
        """The text as the vocabulary sees it: lower-cased and composed (NFC) where that is set."""
        if not isinstance(text, str):
            way_out = (
                "give a text or a list of integers"
                if self.kind == "integer"
                else "set `tokenizer.kind` to integer for lists of integers"
            )
            raise UserError(f"the {self.kind} tokenizer reads text, got {text!r:.80}; {way_out}")
        if text.isascii():  # The library gives the same, but slowly.
            return text.lower() if self._lowercase else text
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"character {error.start} of the text is {text[error.start]!r}, half a surrogate "
                "pair and so no Unicode text; remove it"
            ) from error
        if self._lowercase:
            text = normalizers.Lowercase().normalize_str(text)
        return normalizers.NFC().normalize_str(text) if self._nfc else text

    def _encode_bpe(self, texts: Sequence[str]) -> list[Ids]:
        pieces = [list(repiece([text], size=1 << 16)) for text in texts]
        flat = [piece for group in pieces for piece in group]
        encoded = iter(self.backend.encode_batch_fast(flat, add_special_tokens=False))
        return [
            np.array([token for _ in group for token in next(encoded).ids], np.int32)
            for group in pieces
        ]

    def _encode_characters(self, text: str, unknown: Counter[str]) -> Ids:
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids = self._of_character[points]
        strange = ids == self.unk_id
        if strange.any():
            found, counts = np.unique(points[strange], return_counts=True)
            for point, count in zip(found, counts, strict=True):
                unknown[chr(point)] += int(count)
        return ids

    def _encode_words(self, words: Sequence[str], unknown: Counter[str]) -> Ids:
        found = map(self._vocabulary.get, words, repeat(-1))
        ids = np.fromiter(found, np.int32, len(words))
        strange = ids < 0
        if strange.any():
            where = np.flatnonzero(strange).tolist()
            unknown.update(words[index].replace(MARK, "") for index in where)
            ids[strange] = self.unk_id or 0
        return ids

    @cached_property
    def _of_character(self) -> Int[np.ndarray, "points"]:
        table = np.full(0x110000, self.unk_id, np.int32)
        for token, number in self._vocabulary.items():
            if len(token) == 1:
                table[ord(token)] = number
        return table

    @cached_property
    def _text_of(self) -> list[bytes]:
        """What each id adds to a text, in UTF-8; byte-level pieces may hold half a character."""
        tokens = sorted(self._vocabulary, key=self._vocabulary.__getitem__)
        apart = self.kind in ("word", "integer")
        names = _SPECIAL_WORD if apart else _SPECIAL_TEXT
        ids = (self.pad_id, self.bos_id, self.eos_id, self.unk_id)
        special = {tokens[number]: names[tokens[number]] for number in ids if number is not None}
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        byte_level = self.kind in ("byte", "bpe")
        return [
            special[token].encode()
            if token in special
            else bytes(byte_of[character] for character in token)
            if byte_level
            else token.replace(MARK, "" if apart else MARK).encode()
            for token in tokens
        ]


class StreamingDecoder:
    """Ids in, text out as soon as it is whole: never half a UTF-8 character, words apart by blanks.

    All that `push` returned, with `finish` at the end, is what `Tokenizer.decode` gives for all
    ids. To continue a prompt, push the prompt's ids first and drop what they return.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Start an empty text."""
        self._text_of = tokenizer._text_of
        self._silent = {tokenizer.pad_id, tokenizer.bos_id}
        self._eos_id = tokenizer.eos_id
        self._apart = tokenizer.kind in ("word", "integer")
        self._blank_before = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[SupportsIndex]) -> str:
        """The text that these ids complete; UserError for an id outside the vocabulary."""
        pieces = []
        for token in map(index, ids):
            if not 0 <= token < len(self._text_of):
                raise UserError(
                    f"token id {token} is outside the vocabulary; "
                    f"ids run from 0 to {len(self._text_of) - 1}"
                )
            piece = self._text_of[token]
            if self._apart and token not in self._silent:
                if self._blank_before and token != self._eos_id:
                    pieces.append(b" ")
                self._blank_before = token != self._eos_id
            pieces.append(piece)
        return self._utf8.decode(b"".join(pieces))

    def finish(self) -> str:
        """What is left: U+FFFD where the ids end inside a character."""
        return self._utf8.decode(b"", final=True)


def _bytes(text: str) -> Ids:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def _steps(spec: dict) -> list[dict]:
    """The steps of the normalizer, in order."""
    normalizer = spec["normalizer"] or {"type": "Sequence", "normalizers": []}
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]


def _kind(spec: dict) -> Kind:
    """Which kind of tokenizer a ``tokenizer.json`` holds."""
    model, cut = spec["model"], spec["pre_tokenizer"] or {}
    if cut.get("type") == "Sequence":  # Long runs are cut first.
        cut = cut["pretokenizers"][-1]
    if model["type"] == "BPE" and cut.get("type") == "ByteLevel":
        return "bpe" if cut["use_regex"] else "byte"
    if model["type"] == "BPE" and not cut and not model["merges"]:
        return "char"
    if model["type"] == "WordLevel" and cut.get("type") == "WhitespaceSplit":
        line_ends = any(step.get("content") == f" {EOS} " for step in _steps(spec))
        return "word" if line_ends else "integer"
    raise UserError("it is not a byte, character, word, BPE or integer tokenizer of jaxgen")

"""Short texts, one a line or a row: read into memory, divided into parts, encoded."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.config import LabelledSource, TextGanData
from jaxgen.data.corpora import Source, load_corpus, readable
from jaxgen.data.labelled import LabelledCorpus, LabelledTexts, load_labelled, read_labelled
from jaxgen.data.ragged import Ragged
from jaxgen.data.sentiment import sentiment_sentences
from jaxgen.data.splits import stratified
from jaxgen.data.tokenizers import Tokenizer, warn_unknown
from jaxgen.errors import UserError
from jaxgen.types import Int

PARTS = ("train", "validation", "test")


class EncodedTexts(NamedTuple):
    """Texts as token ids."""

    rows: Ragged
    """Each text between two `<eos>`."""
    kept: Int[np.ndarray, " N"]
    """Which of the texts they are."""


def load_texts(config: TextGanData) -> LabelledCorpus:
    """Read the texts that the settings name; without a label column they have no labels.

    Blank lines are no texts. Held-out texts are files or splits of their own where the settings
    name such (or a hub dataset has splits called validation and test), else drawn from the training
    texts by `data.seed`.

    Raises:
        UserError: as `load_corpus` and `load_labelled`; a part holds no text.
    """
    if config.label_column is not None:
        return load_labelled(_labelled(config))
    whole = config.model_copy(update={"validation_fraction": 0.0, "test_fraction": 0.0})
    parts: dict[str, LabelledTexts] = {}
    if config.dataset or config.files:
        corpus = load_corpus(whole)
        for part in PARTS:
            source = getattr(corpus, part)
            if source is not None:
                parts[part] = _unlabelled(_lines(source), source.name)
    else:
        texts = [text for text, _ in sentiment_sentences()]
        parts["train"] = _unlabelled(texts, "the embedded sentences")
    return LabelledCorpus(**_with_held_out(parts, config))


def read_texts(config: TextGanData, paths: Sequence[Path]) -> LabelledTexts:
    """Read other files than those of the settings, the columns being those that are set there."""
    if config.label_column is not None:
        return read_labelled(_labelled(config), paths)
    other = {"files": tuple(paths), "dataset": None, "embedded": "sentences"}
    none = {"validation_files": (), "test_files": (), "label_column": None}
    rest = {"validation_fraction": 0.0, "test_fraction": 0.0}
    return load_texts(config.model_copy(update=other | none | rest)).train


def _labelled(config: TextGanData) -> LabelledSource:
    shared = [name for name in LabelledSource.model_fields if hasattr(config, name)]
    return LabelledSource(**{name: getattr(config, name) for name in shared})


def _lines(source: Source) -> list[str]:
    """The texts of a source: its documents, or the lines of its running text."""
    pieces = [str(piece) for piece in readable(source, "word")]
    lines = pieces if source.documents else "".join(pieces).splitlines()
    return [line for line in (" ".join(line.split()) for line in lines) if line]


def _unlabelled(texts: Sequence[str], name: str) -> LabelledTexts:
    if not texts:
        raise UserError(f"{name} holds no text; give a file with some")
    return LabelledTexts(texts, [()] * len(texts), name)


def _with_held_out(
    parts: dict[str, LabelledTexts], config: TextGanData
) -> dict[str, LabelledTexts]:
    """The parts, and shares of the training texts for those that are missing."""
    train = parts["train"]
    shares = {
        part: share
        for part in PARTS[1:]
        if part not in parts and (share := getattr(config, f"{part}_fraction")) > 0
    }
    left, drawn = stratified([None] * len(train), shares, config.seed)
    for part, rows in drawn.items():
        if len(rows) == 0:
            raise UserError(
                f"a share of {shares[part]:g} of the {len(train)} texts of {train.name} for "
                f"{part} holds nothing; raise `data.{part}_fraction`, or name a {part} file or "
                "split"
            )
    held_out = {part: train.take(rows, f"{train.name} ({part})") for part, rows in drawn.items()}
    return parts | held_out | {"train": train.take(left, train.name)}


def encode_texts(tokenizer: Tokenizer, texts: LabelledTexts, config: TextGanData) -> EncodedTexts:
    """Encode texts as an `<eos>`, at most `data.max_length` tokens, and another `<eos>`.

    Args:
        tokenizer: has an `<eos>`.
        texts: one part of the corpus.
        config: says how long a text may be, and what is done with longer ones.

    Raises:
        UserError: a text is too long, and such are refused; or none is left.

    Warns:
        UserWarning: how many texts were cut or left out.
        UnknownTokenWarning: words or characters were outside the vocabulary.
    """
    encoded, unknown = tokenizer.encode_many([" ".join(text.split()) for text in texts.texts])
    warn_unknown(unknown, texts.name)
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    most, kept = config.max_length, np.arange(len(encoded))
    if long := int((lengths > most).sum()):
        found = (
            f"{long} of the {len(encoded)} texts of {texts.name} have more than the {most} tokens "
            f"of `data.max_length`, the longest {lengths.max()}"
        )
        if config.too_long == "refuse":
            raise UserError(
                f"{found}; raise it, or set `data.too_long` to cut or drop (--data.too-long)"
            )
        done = "cut there" if config.too_long == "cut" else "left out"
        warnings.warn(f"{found}: they are {done}", stacklevel=2)
        if config.too_long == "drop":
            kept = np.flatnonzero(lengths <= most)
    if len(kept) == 0:
        raise UserError(
            f"no text of {texts.name} has at most the {most} tokens of `data.max_length`; raise it"
        )
    end = np.array([tokenizer.eos_id], np.int32)
    rows = (np.concatenate([end, encoded[index][:most], end]) for index in kept.tolist())
    return EncodedTexts(Ragged.from_rows(rows), kept)

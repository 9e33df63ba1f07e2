"""From settings to a corpus: text to train on, and text held out."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxgen.config import CorpusConfig, SourceConfig, TokenizerConfig
from jaxgen.data.documents import Documents
from jaxgen.data.embedded import embedded_text
from jaxgen.data.hub import hub_tables
from jaxgen.data.tables import is_table, open_table
from jaxgen.data.text_files import TextFiles
from jaxgen.data.tokenizers import EOS, Kind, Tokenizer
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError


@runtime_checkable
class Source(Protocol):
    """Text that can be read any number of times in bounded memory, always the same."""

    @property
    def documents(self) -> bool:
        """Whether iterating gives whole documents, or one running text in pieces."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def fingerprint(self) -> str | None:
        """Changes when the text does; None where that cannot be known."""

    @property
    def nbytes(self) -> int | None:
        """About the size in UTF-8; None where it is unknown."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""

    def cut(self, shares: Sequence[float]) -> "Sequence[Source]":
        """Consecutive parts with these shares of the text."""

    def __iter__(self) -> Iterator[str | list[int]]:
        """Yield pieces of text, or documents."""


@dataclass(frozen=True)
class Corpus:
    """Text to train on and, where the settings hold any out, to validate and test on."""

    train: Source
    validation: Source | None = None
    test: Source | None = None
    lowercase: bool = False


def load_corpus(config: CorpusConfig) -> Corpus:
    """Open the corpus that the settings name; nothing is read beyond the checks.

    Held-out text is a file or split of its own where the settings name one (or a hub dataset has
    splits called validation and test), else the end of the training text: first the validation
    share, the test share last.

    Raises:
        UserError: a file, dataset, split or column is missing or unreadable.
    """
    check_files_are_used(config)
    if config.dataset:
        tables = hub_tables(config, [config.column], streaming=config.streaming)
        parts: dict[str, Source] = {part: Documents(table) for part, table in tables.items()}
    elif config.files:
        given = {
            "train": config.files,
            "validation": config.validation_files,
            "test": config.test_files,
        }
        parts = {part: _open(paths, config) for part, paths in given.items() if paths}
    else:
        parts = {"train": embedded_text()}
    shares = {
        "train": 1.0,
        "validation": 0.0 if "validation" in parts else config.validation_fraction,
        "test": 0.0 if "test" in parts else config.test_fraction,
    }
    shares["train"] -= shares["validation"] + shares["test"]
    wanted = [part for part, share in shares.items() if share > 0]
    if len(wanted) > 1:
        name = parts["train"].name
        cut = parts["train"].cut([shares[part] for part in wanted])
        for part, source in zip(wanted, cut, strict=True):
            if source.empty:
                way_out = (
                    "give more text"
                    if part == "train"
                    else f"raise `data.{part}_fraction`, or name a {part} file or split"
                )
                raise UserError(
                    f"a share of {shares[part]:g} of {name} for {part} holds nothing; {way_out}"
                )
            parts[part] = source
    return Corpus(**parts, lowercase=config.lowercase)


def fit_tokenizer(config: TokenizerConfig, corpus: Corpus) -> Tokenizer:
    """Build the tokenizer from the training text; documents get an ``<eos>`` to end with."""
    return build_tokenizer(
        config,
        readable(corpus.train, config.kind),
        lowercase=corpus.lowercase,
        specials=(EOS,) if corpus.train.documents else (),
    )


def readable(source: Source, kind: Kind) -> Iterator[str | list[int]]:
    """Yield what a source holds; UserError for lists where the kind of tokenizer reads text."""
    for value in source:
        if kind != "integer" and not isinstance(value, str):
            raise UserError(
                f"the {kind} tokenizer reads text, but {source.name} holds lists of integers such "
                f"as {value!r:.60}; set `tokenizer.kind` to integer, or choose another column with "
                "--data.column"
            )
        yield value


def check_files_are_used(config: SourceConfig, kind: str = "files") -> None:
    """UserError for held-out files that nothing reads; a warning for a file that is read twice.

    The kind is what the settings of the files end in: "files", "source_files".
    """
    given = {part: getattr(config, part) for part in (kind, f"validation_{kind}", f"test_{kind}")}
    train, *others = given.values()
    held_out = [path for paths in others for path in paths]
    if held_out and not train:
        raise UserError(
            f"`data.validation_{kind}` and `data.test_{kind}` go with `data.{kind}`, which is "
            f"empty, so {held_out[0]} would not be read; give training files too, or name a split "
            "with --data.validation-split or --data.test-split"
        )
    seen: dict[str, str] = {}
    for part, paths in given.items():
        for path in paths:
            earlier = seen.setdefault(os.path.realpath(path), part)
            if earlier != part:
                warnings.warn(
                    f"{path} is in `data.{earlier}` and in `data.{part}`: figures on text that "
                    "was trained on say nothing of other text",
                    stacklevel=3,
                )
        if len(set(map(os.path.realpath, paths))) < len(paths):
            warnings.warn(f"`data.{part}` names a file twice; its text is read twice", stacklevel=3)


def _open(paths: Sequence[Path], config: CorpusConfig) -> Source:
    tables = [is_table(path) for path in paths]
    if all(tables):
        return Documents(
            open_table(paths, [config.column], separator=config.separator, errors=config.errors)
        )
    if any(tables):
        raise UserError(
            "the files of one corpus must all be plain text or all be tables, "
            f"got {', '.join(str(path) for path in paths)}"
        )
    return TextFiles.open(paths, config.errors)

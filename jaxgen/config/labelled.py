"""Settings of labelled texts: where they come from, what is cleaned away, how much is kept."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from jaxgen.config.base import Fraction, Positive, Seed
from jaxgen.config.data import SourceConfig


class LabelledSource(SourceConfig):
    """Where labelled texts come from; with neither `dataset` nor `files`: embedded sentences."""

    seed: Seed = 0
    """Seed of the parts that are drawn and of the order of the training texts."""
    files: tuple[Path, ...] = ()
    """Local training files: csv, tsv, json, jsonl, parquet or lines of text, also gzipped."""
    validation_files: tuple[Path, ...] = ()
    """Local validation files; without them a share of the training rows is drawn."""
    test_files: tuple[Path, ...] = ()
    """Local test files; without them a share of the training rows is drawn."""
    column: str = "text"
    """Column with the text; a number where a csv or tsv has no header line."""
    label_column: str = "label"
    """Column with the label; a number where a csv or tsv has no header line."""
    format: Literal["auto", "table", "fasttext", "lines", "file_per_class"] = "auto"
    """table: columns; fasttext: `__label__x text`; lines: `text;label`; or one file a class."""
    separator: str | None = None
    """Character between fields of a csv or tsv, or text and label of a line (default: found)."""
    multi_label: bool = False
    """A text may have any number of labels; none where its field is empty."""
    label_separator: str = ","
    """What joins several labels in one field (`multi_label`)."""
    validation_fraction: Fraction = 0.1
    """Share of each class drawn for validation where no split or file is given."""
    test_fraction: Fraction = 0.1
    """Share of each class drawn for testing where no split or file is given."""
    max_length: Positive | Literal["mean"] = 512
    """Tokens that are kept of a text; "mean" is the mean length of the training texts."""
    buckets: Positive = 6
    """Most lengths that batches are padded to: each is a program of its own."""

    def _separates(self, name: str) -> bool:
        # What is in a file without a known ending is found out when it is read.
        other = not name.endswith((".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"))
        return super()._separates(name) or (other and self.format in ("auto", "lines"))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.format != "auto" and not self.files:
            raise ValueError(
                f"`data.format` says how `data.files` are written, and there are none, got "
                f"{self.format!r}; leave it out, or give files"
            )
        if self.label_separator != "," and not self.multi_label:
            raise ValueError(
                "`data.label_separator` goes with `data.multi_label`, which is off, got "
                f"{self.label_separator!r}; turn it on, or leave the separator out"
            )
        if not self.label_separator:
            raise ValueError("`data.label_separator` must not be empty; leave it out for a comma")
        if self.column == self.label_column:
            raise ValueError(
                f"`data.column` and `data.label_column` must differ, got {self.column!r} for both"
            )
        return self


class LabelledData(LabelledSource):
    """Labelled texts to classify: where they come from, and what is made of each."""

    strip_html: bool = False
    """Take out HTML tags and turn entities such as &amp; into their characters."""
    letters_only: bool = False
    """Turn everything but letters into spaces."""
    separate_punctuation: bool = False
    """Put spaces around punctuation, so that it makes words of its own."""
    drop_stop_words: bool = False
    """Take out English function words such as `the`, `is` and `not`."""
    keep: Literal["start", "end", "both"] = "start"
    """Which tokens of a longer text are kept; both: half from its start, half from its end."""

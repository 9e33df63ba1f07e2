"""Settings of pairs of texts, a source and its target: where they come from, how much is kept."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jaxgen.config.base import Fraction, Positive
from jaxgen.config.data import SourceConfig

PARTS = ("train", "validation", "test")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")


class PairData(SourceConfig):
    """Sources and targets; with neither `dataset` nor files: `embedded`, made up here."""

    files: tuple[Path, ...] = ()
    """Local training files of pairs: csv, tsv, json, jsonl, parquet or lines with a tab."""
    validation_files: tuple[Path, ...] = ()
    """Local validation files of pairs; without them a share of the training pairs is drawn."""
    test_files: tuple[Path, ...] = ()
    """Local test files of pairs; without them a share of the training pairs is drawn."""
    source_column: str | None = None
    """Column with the source; a number without a header line; translation.de in nested columns."""
    target_column: str | None = None
    """Column with the target; a number without a header line; translation.en in nested columns."""
    source_files: tuple[Path, ...] = ()
    """Local training files with a source in each line, beside `target_files`."""
    target_files: tuple[Path, ...] = ()
    """Local training files whose lines are the targets of the lines of `source_files`."""
    validation_source_files: tuple[Path, ...] = ()
    """Local validation files with a source in each line."""
    validation_target_files: tuple[Path, ...] = ()
    """Local validation files with a target in each line."""
    test_source_files: tuple[Path, ...] = ()
    """Local test files with a source in each line."""
    test_target_files: tuple[Path, ...] = ()
    """Local test files with a target in each line."""
    validation_fraction: Fraction = 0.1
    """Share of the sources drawn for validation where no split or file is given."""
    test_fraction: Fraction = 0.1
    """Share of the sources drawn for testing where no split or file is given."""
    embedded: Literal["dates", "addition"] = "dates"
    """Pairs that need no network: dates as people write them to ISO 8601, or sums of numbers."""
    examples: Positive = 30_000
    """Pairs of `embedded`, held-out ones included."""
    digits: Annotated[int, Field(ge=1, le=9)] = 3
    """Most digits of the numbers of `embedded = "addition"`."""
    source_length: Positive = 256
    """Most tokens of a source."""
    target_length: Positive = 256
    """Most tokens of a target."""
    too_long: Literal["cut", "refuse"] = "cut"
    """What is done with longer ones: cut their end with a warning, or refuse the data."""
    buckets: Positive = 8
    """Most shapes of batches: each is a program of its own."""

    changeable_on_resume = SourceConfig.changeable_on_resume | {
        *("source_files", "validation_source_files", "test_source_files"),
        *("target_files", "validation_target_files", "test_target_files"),
    }

    def parallel_files(self, part: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Files of sources and files of targets of a part: train, validation or test."""
        prefix = "" if part == "train" else f"{part}_"
        return getattr(self, f"{prefix}source_files"), getattr(self, f"{prefix}target_files")

    def _separates(self, name: str) -> bool:
        # A file without a known ending is read as lines with a tab.
        return super()._separates(name) or not name.endswith(_TABLES)

    @model_validator(mode="after")
    def _one_source_of_pairs(self) -> Self:
        if self.source_files and (self.dataset or self.files):
            raise ValueError(
                "give one of `data.dataset`, `data.files` and `data.source_files`, not several"
            )
        for part in PARTS:
            sources, targets = self.parallel_files(part)
            if len(sources) != len(targets):
                prefix = "" if part == "train" else f"{part}_"
                raise ValueError(
                    f"`data.{prefix}source_files` and `data.{prefix}target_files` must be as many, "
                    f"got {len(sources)} and {len(targets)}; give the files of both sides in the "
                    "same order"
                )
        return self

    @model_validator(mode="after")
    def _columns_fit_together(self) -> Self:
        columns = self.source_column, self.target_column
        if columns == (None, None):
            return self
        if None in columns or columns[0] == columns[1]:
            raise ValueError(
                "`data.source_column` and `data.target_column` must be two columns, got "
                f"{columns[0]!r} and {columns[1]!r}; name both, or neither"
            )
        if not (self.dataset or self.files):
            raise ValueError(
                "`data.source_column` and `data.target_column` are columns of `data.dataset` or "
                "`data.files`, and there are none; leave them out"
            )
        return self

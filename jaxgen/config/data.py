"""Settings of the corpus."""

from pathlib import Path
from typing import Literal, Self

from pydantic import field_validator, model_validator

from jaxgen.config.base import Config, Fraction, Seed


class DataConfig(Config):
    """What the data of every task has."""

    seed: Seed = 0
    """Seed of the order of the training data, whatever `training.seed` is."""
    changed: Literal["refuse", "accept"] = "refuse"
    """What a resumed run does where the corpus is not the one it began with."""

    changeable_on_resume = frozenset({"changed"})


class SourceConfig(DataConfig):
    """Where texts come from: a dataset of the hub, local files, or what is embedded."""

    dataset: str | None = None
    """Hugging Face hub id, for example karpathy/tiny_shakespeare."""
    subset: str | None = None
    """The dataset's configuration name on the hub, for example wikitext-2-raw-v1."""
    files: tuple[Path, ...] = ()
    """Local training files: txt, csv, tsv, json, jsonl or parquet, also gzipped."""
    validation_files: tuple[Path, ...] = ()
    """Local validation files; without them the end of the training text is held out."""
    test_files: tuple[Path, ...] = ()
    """Local test files; without them the end of the training text is held out."""
    separator: str | None = None
    """Character between the fields of a csv or tsv (default: found in its first line)."""
    split: str = "train"
    """Split of the dataset to train on."""
    validation_split: str | None = None
    """Split of the dataset to validate on (default: `validation` where there is one)."""
    test_split: str | None = None
    """Split of the dataset to test on (default: `test` where there is one)."""
    validation_fraction: Fraction = 0.05
    """Share of the training text held out for validation where no split or file is given."""
    test_fraction: Fraction = 0.05
    """Share of the training text held out for testing where no split or file is given."""
    errors: Literal["strict", "replace", "ignore"] = "strict"
    """What to do with bytes that are not UTF-8."""
    lowercase: bool = False
    """Lower-case the text."""

    changeable_on_resume = frozenset({"changed", "files", "validation_files", "test_files"})

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.dataset and self.files:
            raise ValueError("give either `data.dataset` or `data.files`, not both")
        return self

    @field_validator("separator")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value == "auto":
            return None
        value = "\t" if value == "\\t" else value  # as a shell passes on what was typed
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(
                f"`data.separator` must be one character and no quotation mark, got {value!r}; "
                "for example ; or \\t"
            )
        return value

    @model_validator(mode="after")
    def _separator_is_used(self) -> Self:
        names = [path.name.lower().removesuffix(".gz") for path in self.files]
        if self.separator is not None and not any(map(self._separates, names)):
            raise ValueError(
                "`data.separator` is for csv and tsv files, and `data.files` has none; leave it out"
            )
        return self

    def _separates(self, name: str) -> bool:
        """Whether a file of this name, in lower case and without `.gz`, has separated fields."""
        return name.endswith((".csv", ".tsv"))


class CorpusConfig(SourceConfig):
    """Where the text comes from. With neither `dataset` nor `files`: the embedded corpus."""

    column: str = "text"
    """Column with the text (or integer lists); a number where a csv or tsv has no header line."""
    streaming: bool = False
    """Read the dataset as a stream instead of downloading it whole."""

"""From settings to labelled texts in memory: a part to train on, and parts held out."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.config import LabelledSource
from jaxgen.data.corpora import check_files_are_used
from jaxgen.data.hub import HubTable, hub_tables
from jaxgen.data.label_formats import recognise
from jaxgen.data.labels import LabelSet, is_integer
from jaxgen.data.rows import Row, check_unicode
from jaxgen.data.sentiment import sentiment_sentences
from jaxgen.data.splits import stratified
from jaxgen.data.tables import is_table
from jaxgen.errors import UserError
from jaxgen.types import Int


@dataclass(frozen=True)
class LabelledTexts:
    """One part of the labelled texts.

    Attributes:
        texts: as they stand in the data, not cleaned.
        labels: the label names of each text: exactly one, or any number with `multi_label`.
        name: for messages.
    """

    texts: Sequence[str]
    labels: Sequence[tuple[str, ...]]
    name: str

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.texts)

    def take(self, rows: Int[np.ndarray, "n"], name: str) -> "LabelledTexts":
        """The part that these rows make."""
        chosen = rows.tolist()
        return LabelledTexts(
            [self.texts[row] for row in chosen], [self.labels[row] for row in chosen], name
        )


@dataclass(frozen=True)
class LabelledCorpus:
    """Labelled texts to train on and, where the settings hold any out, to validate and test on."""

    train: LabelledTexts
    validation: LabelledTexts | None = None
    test: LabelledTexts | None = None


def load_labelled(config: LabelledSource) -> LabelledCorpus:
    """Read the labelled texts that the settings name into memory.

    Held-out texts are files or splits of their own where the settings name such (or a hub dataset
    has splits called validation and test), else drawn from the training rows, a share of each
    class, by `data.seed`.

    Raises:
        UserError: a file, dataset, split or column is missing or unreadable; a text is empty; a
            label is missing, has blanks around it or is of another type than the others; training
            rows have one class only, or a class has too few rows to draw from.
    """
    check_files_are_used(config)
    parts = {part: _read(rows, name, config) for part, name, rows in _sources(config)}
    _check_first_row(parts["train"], config)
    LabelSet.fit(parts["train"].labels, config.multi_label)
    shares = {
        part: share
        for part, share in (
            ("validation", config.validation_fraction),
            ("test", config.test_fraction),
        )
        if part not in parts and share > 0
    }
    if shares:
        parts |= _draw(parts["train"], shares, config)
    return LabelledCorpus(**parts)


def read_labelled(config: LabelledSource, paths: Sequence[Path]) -> LabelledTexts:
    """Read files other than those of the settings, with the columns and the format set there.

    Raises:
        UserError: as `load_labelled`; how many texts a class has does not matter.
    """
    other = {"dataset": None, "files": tuple(paths), "validation_files": (), "test_files": ()}
    settings = config.model_copy(update=other)
    return _read(recognise(settings).rows(paths), ", ".join(map(str, paths)), settings)


def _sources(config: LabelledSource) -> Iterator[tuple[str, str, Iterator[Row]]]:
    """The name and the rows of each part that the data have of their own."""
    if config.dataset:
        tables = hub_tables(config, [config.column, config.label_column])
        for part, table in tables.items():
            # Test splits of public benchmarks often come without labels.
            named = part == "train" or getattr(config, f"{part}_split") is not None
            if named or not _unlabelled(table):
                yield part, table.name, _named_classes(table)
            else:
                warnings.warn(
                    f"{table.name} has no labels (each is -1), so it is left out; choose a split "
                    f"with --data.{part}-split",
                    stacklevel=3,
                )
    elif config.files:
        files = recognise(config)
        given = {
            "train": config.files,
            "validation": config.validation_files,
            "test": config.test_files,
        }
        for part, paths in given.items():
            if paths:
                yield part, ", ".join(map(str, paths)), files.rows(paths)
    else:
        name = "the embedded sentences"
        rows = (Row(pair, f"{name} row", n) for n, pair in enumerate(sentiment_sentences(), 1))
        yield "train", name, rows


def _unlabelled(table: HubTable) -> bool:
    """Whether every label is the class id -1, which means that it is not published."""
    return all(row.values[1] == -1 for row in table.rows())


def _named_classes(table: HubTable) -> Iterator[Row]:
    """The rows of a hub dataset, class ids as the names that the dataset declares for them."""
    names = table.class_names(table.columns[1])
    for row in table.rows():
        text, label = row.values
        if names is None or label is None:
            yield row
            continue
        ids = label if isinstance(label, list) else [label]
        if not all(0 <= number < len(names) for number in ids):
            raise UserError(
                f"{row.place} has the label {label!r}, which is none of its {len(names)} classes: "
                "such rows have no label; choose another split, or take the rows out"
            )
        named = [names[number] for number in ids]
        yield row._replace(values=(text, named if isinstance(label, list) else named[0]))


def _read(rows: Iterator[Row], name: str, config: LabelledSource) -> LabelledTexts:
    """The rows of one part, checked."""
    texts: list[str] = []
    labels: list[tuple[str, ...]] = []
    empty: list[Row] = []
    kinds: dict[str, Row] = {}
    for row in rows:
        text, value = row.values
        if text is None or (isinstance(text, str) and not text.strip()):
            empty.append(row)
            continue
        if not isinstance(text, str):
            raise UserError(
                f"column `{config.column}` must hold text, got {text!r:.60} in {row.place}; choose "
                "another column with --data.column"
            )
        if not text.isascii():
            check_unicode(text, row)
        texts.append(text)
        labels.append(_labels(value, row, config, kinds))
    if empty:
        raise UserError(
            f"{len(empty)} of {len(texts) + len(empty)} texts of {name} "
            f"{'is' if len(empty) == 1 else 'are'} empty, the first in {empty[0].place}; take "
            "such rows out, or choose another column with --data.column"
        )
    if not texts:
        raise UserError(f"{name} has no rows; give a file with text")
    return LabelledTexts(texts, labels, name)


def _labels(value: Any, row: Row, config: LabelledSource, kinds: dict[str, Row]) -> tuple[str, ...]:
    """The label names in a field. `kinds` has the first row of each type of label seen so far."""
    multi = config.multi_label
    if multi and value is None:
        return ()
    if isinstance(value, list | tuple):
        names = [_name(one, row, kinds) for one in value]
    elif multi and isinstance(value, str):
        # The blanks after a comma belong to the list, and not to the label.
        names = [part.strip() for part in value.split(config.label_separator)]
        names = [name for name in names if name]
    else:
        names = [_name(value, row, kinds, integers=not multi)]
    if not multi and len(names) != 1:
        way_out = "set --data.multi-label" if names else "label it, or take the row out"
        raise UserError(
            f"{row.place} has {len(names) or 'no'} labels where each text must have one"
            f"{': ' if names else ''}{', '.join(names):.80}; {way_out}"
        )
    return tuple(dict.fromkeys(names))


def _name(value: Any, row: Row, kinds: dict[str, Row], *, integers: bool = False) -> str:
    """One label as a name; UserError for one that is missing, padded, or of another type."""
    if value is None or value == "":
        raise UserError(f"{row.place} has no label; label it, or take the row out")
    if isinstance(value, bool):
        kind, name = "true or false", str(value).lower()
    elif isinstance(value, int):
        kind, name = "integers", str(value)
    elif isinstance(value, str):
        kind, name = "integers" if integers and is_integer(value) else "words", value
    else:
        raise UserError(
            f"labels must be words or integers, got {value!r:.60} in {row.place}; write them so, "
            "or choose another column with --data.label-column"
        )
    if name != name.strip():
        raise UserError(
            f"the label {name!r:.80} in {row.place} has blanks around it, which would make it a "
            "class of its own; take the blanks out"
        )
    first = kinds.setdefault(kind, row)
    if len(kinds) > 1:
        (other, earlier) = next(item for item in kinds.items() if item[0] != kind)
        raise UserError(
            f"labels must be of one type, got {name!r:.60} in {first.place} and {other} as in "
            f"{earlier.place}; write all of them as words, or all as integers"
        )
    return name


def _check_first_row(rows: LabelledTexts, config: LabelledSource) -> None:
    """UserError for a header that was read as a text: its label is that of no other text."""
    named = not config.files or (is_table(config.files[0]) and not config.label_column.isdecimal())
    if named or config.multi_label or len(rows) < 3:
        return
    label = rows.labels[0]
    if all(other != label for other in rows.labels[1:]):
        raise UserError(
            f"the first row of {rows.name} has the label `{label[0]:.40}` and no other row has it; "
            "if that is a header, name its columns with --data.column and --data.label-column; "
            "else give more such texts, or take it out"
        )


def _draw(
    rows: LabelledTexts, shares: dict[str, float], config: LabelledSource
) -> dict[str, LabelledTexts]:
    """Held-out parts of the training rows, and the training rows that are left."""
    classes = [None] * len(rows) if config.multi_label else [names[0] for names in rows.labels]
    counts = Counter(classes)
    rare = [name for name, count in counts.items() if count < 2]
    if rare:
        shown = ", ".join(f"`{name:.40}`" for name in rare[:10]) + (
            ", ..." if len(rare) > 10 else ""
        )
        raise UserError(
            f"{rows.name} has one text only of class {shown}, so no share of it can be held out; "
            "give more such texts, take it out, or name validation and test files or splits"
        )
    left, drawn = stratified(classes, shares, config.seed)
    for part, chosen in drawn.items():
        if len(chosen) == 0:
            raise UserError(
                f"a share of {shares[part]:g} of the {len(rows)} texts of {rows.name} for {part} "
                f"holds nothing; raise `data.{part}_fraction`, or name a {part} file or split"
            )
    parts = {part: rows.take(chosen, f"{rows.name} ({part})") for part, chosen in drawn.items()}
    return parts | {"train": rows.take(left, rows.name)}

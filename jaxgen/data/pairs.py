"""From settings to pairs of texts in memory: a part to train on, and parts held out."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxgen.config import PairData
from jaxgen.data.addition import additions
from jaxgen.data.corpora import check_files_are_used
from jaxgen.data.dates import dates, rewritten
from jaxgen.data.pair_files import (
    OPTIONS,
    SIDES,
    hub_pairs,
    name_columns,
    parallel_pairs,
    table_pairs,
)
from jaxgen.data.rows import Row, check_unicode
from jaxgen.data.splits import stratified
from jaxgen.errors import UserError
from jaxgen.types import Int

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pairs:
    """One part of the pairs.

    Attributes:
        sources: the texts to begin from.
        targets: for each the text to write.
        name: for messages.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    name: str

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.sources)

    def take(self, rows: Int[np.ndarray, "n"], name: str) -> "Pairs":
        """The part that these rows make."""
        chosen = rows.tolist()
        return Pairs(
            [self.sources[row] for row in chosen], [self.targets[row] for row in chosen], name
        )


@dataclass(frozen=True)
class PairCorpus:
    """Pairs to train on and, where the settings hold any out, to validate and test on.

    Attributes:
        apart: pairs of another kind than those trained on, by the name that figures of them have;
            the embedded dates have "unseen_formats".
    """

    train: Pairs
    validation: Pairs | None = None
    test: Pairs | None = None
    apart: Mapping[str, Pairs] = field(default_factory=dict)


def load_pairs(config: PairData) -> PairCorpus:
    """Read the pairs that the settings name into memory.

    Held-out pairs are files or splits of their own where the settings name such (or a hub dataset
    has splits called validation and test), else drawn from the training pairs by `data.seed`. Pairs
    of one source stay in one part, so that no source that was trained on is drawn.

    Raises:
        UserError: a file, dataset, split or column is missing or unreadable; source and target
            files differ in their lines; a source or a target is empty; or a share holds nothing.

    Warns:
        UserWarning: most targets are their sources.
    """
    for kind in ("files", "source_files", "target_files"):
        check_files_are_used(config, kind)
    parts = {part: _read(rows, name, config) for part, name, rows in _parts(config)}
    shares = {
        part: share
        for part, share in (
            ("validation", config.validation_fraction),
            ("test", config.test_fraction),
        )
        if part not in parts and share > 0
    }
    if shares:
        parts |= _draw(parts["train"], shares, config.seed)
    given = config.dataset or config.files or config.source_files
    apart = {}
    if "test" in parts and not given and config.embedded == "dates":
        name = f"{parts['test'].name}, unseen formats"
        rows = _numbered(rewritten(parts["test"].targets, config.seed), name)
        apart = {"unseen_formats": _read(rows, name, config)}
    return PairCorpus(**parts, apart=apart)


def read_pairs(
    config: PairData,
    files: Sequence[Path] = (),
    source_files: Sequence[Path] = (),
    target_files: Sequence[Path] = (),
) -> Pairs:
    """Read other files than those of the settings, the columns being those that are set there.

    Args:
        config: of the run.
        files: of pairs; or none.
        source_files: with a source in each line; or none.
        target_files: as many, with the targets of these lines.

    Raises:
        UserError: as `load_pairs`; or files of one side only.
    """
    sides = len(source_files), len(target_files)
    if sides[0] != sides[1] or bool(files) == bool(source_files):
        raise UserError(
            "give either files of pairs, or as many source files as target files, got "
            f"{len(files)} of pairs, {sides[0]} of sources and {sides[1]} of targets"
        )
    if source_files:
        rows = parallel_pairs(source_files, target_files, config.errors)
        return _read(rows, _name(*source_files, *target_files), config)
    config = name_columns(files[0], config)
    return _read(table_pairs(files, config), _name(*files), config)


def _parts(config: PairData) -> Iterator[tuple[str, str, Iterator[Row]]]:
    """The name and the rows of each part that the data have of their own."""
    if config.dataset:
        for part, (name, rows) in hub_pairs(config).items():
            yield part, name, rows
    elif config.files:
        settings = name_columns(config.files[0], config)
        files = config.files, config.validation_files, config.test_files
        for part, paths in zip(PARTS, files, strict=True):
            if paths:
                yield part, _name(*paths), table_pairs(paths, settings)
    elif config.source_files:
        for part in PARTS:
            sources, targets = config.parallel_files(part)
            if sources:
                name = _name(*sources, *targets)
                yield part, name, parallel_pairs(sources, targets, config.errors)
    else:
        name = f"the embedded {config.embedded}"
        pairs = (
            dates(config.examples, config.seed)
            if config.embedded == "dates"
            else additions(config.examples, config.digits, config.seed)
        )
        yield "train", name, _numbered(pairs, name)


def _numbered(pairs: Sequence[tuple[str, str]], name: str) -> Iterator[Row]:
    return (Row(pair, f"{name} row", number) for number, pair in enumerate(pairs, 1))


def _name(*paths: Path) -> str:
    return ", ".join(map(str, paths))


def _read(rows: Iterator[Row], name: str, config: PairData) -> Pairs:
    """The pairs of one part, checked."""
    texts: tuple[list[str], list[str]] = [], []
    empty: list[tuple[str, Row]] = []
    for row in rows:
        for side, text in enumerate(row.values):
            if text is None or (isinstance(text, str) and not text.strip()):
                empty.append((SIDES[side], row))
                continue
            if not isinstance(text, str):
                raise UserError(
                    f"a {SIDES[side]} must be text, got {text!r:.60} in {row.place}; choose "
                    f"another column with {OPTIONS[side]}"
                )
            if not text.isascii():
                check_unicode(text, row)
            texts[side].append(text.lower() if config.lowercase else text)
    sources, targets = texts
    if empty:
        kinds = [kind for kind, _ in empty]
        raise UserError(
            f"{kinds.count('source')} sources and {kinds.count('target')} targets of {name} are "
            f"empty, the first a {empty[0][0]} in {empty[0][1].place}; take such pairs out"
        )
    if not sources:
        raise UserError(f"{name} has no pairs; give a file with some")
    same = sum(map(str.__eq__, sources, targets))
    if 2 * same > len(sources):
        warnings.warn(
            f"the target is the source itself in {same} of {len(sources)} pairs of {name}; are "
            "these the right columns or files of both sides?",
            stacklevel=3,
        )
    return Pairs(sources, targets, name)


def _draw(pairs: Pairs, shares: dict[str, float], seed: int) -> dict[str, Pairs]:
    """Held-out parts, each a share of the different sources, and the pairs that are left."""
    numbers = {source: number for number, source in enumerate(dict.fromkeys(pairs.sources))}
    groups = np.fromiter(map(numbers.__getitem__, pairs.sources), np.int64, len(pairs))
    left, drawn = stratified([None] * len(numbers), shares, seed)
    for part, chosen in drawn.items():
        if len(chosen) == 0:
            raise UserError(
                f"a share of {shares[part]:g} of the {len(numbers)} sources of {pairs.name} for "
                f"{part} holds nothing; raise `data.{part}_fraction`, or name a {part} file or "
                "split"
            )
    parts = {"train": left, **drawn}
    return {
        part: pairs.take(
            np.flatnonzero(np.isin(groups, chosen)),
            pairs.name if part == "train" else f"{pairs.name} ({part})",
        )
        for part, chosen in parts.items()
    }

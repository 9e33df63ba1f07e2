"""Datasets of the Hugging Face hub as tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxgen.config import SourceConfig
from jaxgen.data.rows import Row, check_columns
from jaxgen.errors import UserError, first_line, nearest

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_BATCH_ROWS = 1000


@dataclass(frozen=True)
class HubTable:
    """Some columns of a Hugging Face dataset, downloaded or streaming; see `rows.Table`."""

    dataset: "Dataset | IterableDataset"
    columns: tuple[str, ...]
    name: str
    fingerprint: str | None = None
    nbytes: int | None = None

    def rows(self) -> Iterator[Row]:
        """Yield the rows; UserError where they cannot be read."""
        where, number = f"{self.name} row", 0
        try:
            for batch in self.dataset.iter(batch_size=_BATCH_ROWS):
                values = [batch[column] for column in self.columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield Row(row, where, number)
        except Exception as error:  # Each format raises errors of its own library.
            raise UserError(f"cannot read {self.name}: {first_line(error)}") from error

    def first_row(self) -> dict[str, Any]:
        """The first row, every column of it; nothing where there are no rows."""
        try:
            return dict(next(iter(self.dataset), {}))
        except Exception as error:
            raise UserError(f"cannot read {self.name}: {first_line(error)}") from error

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """What the class ids in a column, or in its lists, stand for, if the dataset says so."""
        feature = (self.dataset.features or {}).get(column)
        feature = getattr(feature, "feature", feature)
        names = getattr(feature, "names", None)
        return names and tuple(names)

    def checked(self) -> "HubTable":
        """This table, once the columns are known to exist; reads no others."""
        # The first row tells where the dataset does not declare its columns.
        known = list(self.dataset.column_names or self.first_row())
        check_columns(self.columns, known, self.name)
        return replace(self, dataset=self.dataset.select_columns(list(self.columns)))


def hub_tables(
    config: SourceConfig, columns: Sequence[str], *, streaming: bool = False
) -> dict[str, HubTable]:
    """Columns of a hub dataset, for ``train`` and, where there are such, the other two parts.

    Where the configuration names no validation or test split, splits of these names are taken.
    """
    parts = hub_splits(config, streaming=streaming)
    return {part: replace(table, columns=tuple(columns)).checked() for part, table in parts.items()}


def hub_splits(config: SourceConfig, *, streaming: bool = False) -> dict[str, HubTable]:
    """The parts of `hub_tables` before their columns are chosen."""
    splits = _load(config, streaming=streaming)
    own = [split for split in ("validation", "test") if split in splits and split != config.split]
    wanted = {
        "train": config.split,
        "validation": config.validation_split or ("validation" in own and "validation"),
        "test": config.test_split or ("test" in own and "test"),
    }
    parts = {}
    for part, split in wanted.items():
        if not split:
            continue
        if "[" in split or "+" in split:  # A part or a sum of splits, as `datasets` writes them.
            dataset = _load(config, streaming=streaming, split=split)
        elif split in splits:
            dataset = splits[split]
        else:
            raise UserError(
                f"dataset {config.dataset} has no split `{split}`{nearest(split, list(splits))}; "
                f"there are: {', '.join(splits)}"
            )
        name = f"{config.dataset} ({split})"
        fingerprint = None if streaming else getattr(dataset, "_fingerprint", None)
        size = None if streaming else getattr(dataset, "dataset_size", None)
        parts[part] = HubTable(dataset, (), name, fingerprint, size)
    return parts


def _load(config: SourceConfig, **options: Any) -> Any:
    """Load the dataset, all its splits or some; every failure becomes one UserError."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name = config.dataset
    options |= {"path": name, "name": config.subset}
    try:
        try:
            return load_dataset(**options)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # The hub keeps a parquet copy of most datasets that were once made by a script.
            return load_dataset(**options, revision="refs/convert/parquet")
    except DatasetNotFoundError as error:
        raise UserError(
            f"there is no dataset {name} on the hub, or it is private; check `data.dataset`, "
            "or give local files with --data.files"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"cannot reach the Hugging Face hub for dataset {name} ({first_line(error)}); "
            "go online, or download the text and give it with --data.files my_corpus.txt"
        ) from error
    except Exception as error:  # Whatever else `datasets` meets in somebody else's data.
        hint = "; choose one with --data.subset" if "onfig" in str(error) else ""
        raise UserError(f"cannot load dataset {name}: {first_line(error)}{hint}") from error

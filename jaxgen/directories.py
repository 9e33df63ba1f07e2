"""What a directory is to jaxgen: a run, the runs of several seeds, an export, or somebody else's.

Everything that reads or writes directories asks `kind_of`. What jaxgen writes is known by its name
inside a directory whose index (run.json, seeds.json or config.json) is jaxgen's; before the index
is complete it names each file that is about to be written with a digest of its content, so that a
start that was cut off is told from files that somebody put there.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxgen.errors import UserError
from jaxgen.files import digest, file_digest, reason

Kind = Literal["missing", "empty", "run", "seeds", "export", "unfinished", "foreign"]

RUN_INDEX = "run.json"
SEEDS_INDEX = "seeds.json"
"""Index of a directory with the runs of several seeds, see `jaxgen.training.seed_runs`."""
EXPORT_INDEX = "config.json"
WRITTEN = "written"
"""Key of an index: digests of each file that was or is about to be written beside it. They decide
whose a file is until the index is complete; from then on the names do."""

LOGS = ("metrics.jsonl", "loss.png")
"""What the training loop writes."""
RUN_FILES = ("config.toml", "tokenizer.json", *LOGS)
"""What a run holds beside its index, its checkpoints and its token files; a directory of seeds
holds the first two."""
CHECKPOINT = re.compile(r"\d{9,}\+*(\.orbax-checkpoint-tmp.*)?")
"""Names of checkpoints, and of those that a kill left half-written."""
_TOKENS = re.compile(r"(train|validation|test)-.*\.(uint8|uint16|uint32|part)")
_LEFTOVER = re.compile(r"\.lock|\.owner|\.(\.owner|run\.json|seeds\.json|config\.json)\.part")
_NAMED = 3
"""Files that an error names."""


def kind_of(directory: Path | str) -> Kind:
    """What a directory is.

    Returns:
        "missing", "empty", "run" (with a checkpoint after the first step), "seeds", "export",
        "unfinished" (jaxgen began to train there and was cut off before the first step was saved:
        nothing is lost by starting again) or "foreign". A run in which an export lies too is a run.

    Raises:
        UserError: It is a file, lies under one, or cannot be read.
    """
    directory = Path(directory)
    names = _names(directory)
    if names is None:
        return "missing"
    seeds, run = (read_json(directory / name) for name in (SEEDS_INDEX, RUN_INDEX))
    if is_seeds_index(seeds) or is_run_index(run):
        finished = is_seeds_index(seeds) and _begun(seeds.get("runs") or [])
        if finished:
            return "seeds"
        return "run" if is_run_index(run) and _begun([run]) else "unfinished"
    if _is_damaged(directory, RUN_INDEX, "tokenizer.json"):
        return "run"
    if _is_damaged(directory, SEEDS_INDEX, "tokenizer.json"):
        return "seeds"
    if is_export_index(read_json(directory / EXPORT_INDEX)):
        return "export"
    if _is_damaged(directory, EXPORT_INDEX, "model.safetensors"):
        return "export"
    if not names:
        return "empty"
    return "foreign" if foreign_files(directory) else "unfinished"


def is_run_index(content: Any) -> bool:
    """Whether a JSON value is what jaxgen writes into run.json, as opposed to another program."""
    return isinstance(content, dict) and {"format", "notes"} <= content.keys()


def is_seeds_index(content: Any) -> bool:
    """The same of seeds.json."""
    return isinstance(content, dict) and {"format", "seeds"} <= content.keys()


def is_export_index(content: Any) -> bool:
    """The same of an export's config.json."""
    return (
        isinstance(content, dict)
        and "format" in content
        and bool({"experiment", WRITTEN} & content.keys())
    )


def foreign_files(directory: Path) -> list[str]:
    """Names in a directory without an index that are not what a cut-off start leaves behind."""
    return [
        name
        for name in _names(directory) or ()
        if not _LEFTOVER.fullmatch(name)
        and not (name == "tokens" and all(map(is_token_file, _names(directory / name) or ())))
    ]


def is_token_file(name: str) -> bool:
    """Whether a file of the directory `tokens` is one that `jaxgen.data.tokens` writes."""
    return _TOKENS.fullmatch(name) is not None


def listed(names: Iterable[str]) -> str:
    """A few of many names, for errors."""
    names = sorted(names)
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def run_around(directory: Path | str) -> Path | None:
    """The run inside which a directory lies, if it does."""
    above = Path(directory).absolute().resolve().parents
    return next((parent for parent in above if is_run_index(read_json(parent / RUN_INDEX))), None)


def refuse_inside_run(directory: Path | str) -> None:
    """UserError where a directory lies inside a run, whose files jaxgen adds and removes."""
    if run := run_around(directory):
        raise UserError(f"{directory} lies inside the run {run}; choose a directory outside of it")


def refuse_foreign_files(directory: Path, kind: Kind, use: str) -> None:
    """UserError where a directory has files that are not jaxgen's."""
    if kind == "foreign":
        raise UserError(
            f"{directory} is not empty and not {use}: it holds {listed(foreign_files(directory))}; "
            "choose a new or an empty directory, or move these files away"
        )


def owned_files(
    directory: Path, names: Iterable[str], written: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Digests of those files of a directory that are jaxgen's.

    Args:
        directory: Where they lie.
        names: Files to look for.
        written: Digests of each that jaxgen wrote, from an index that is not complete yet; None
            where all by these names are jaxgen's.

    Raises:
        UserError: Something else lies there.
    """
    owned: dict[str, list[str]] = {}
    for name in sorted(names):
        path = directory / name
        if not os.path.lexists(path):
            continue
        try:
            found = file_digest(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}") from error
        if found is None or (written is not None and found not in written.get(name, ())):
            raise UserError(
                f"{path} was not written by jaxgen and would be overwritten; move it away, or "
                "choose another directory"
            )
        owned[name] = [found]
    return owned


def written_of(index: Any) -> dict[str, list[str]] | None:
    """The digests that an index keeps; None where it keeps none."""
    kept = index.get(WRITTEN) if isinstance(index, dict) else None
    if not isinstance(kept, dict):
        return None
    return {name: own for name, own in kept.items() if isinstance(own, list)}


def digests(files: Mapping[str, str | bytes]) -> dict[str, list[str]]:
    """Digests of files about to be written."""
    return {name: [digest(content)] for name, content in files.items()}


def read_json(path: Path) -> Any:
    """The JSON value in a file; None where there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def last_of(index: Any) -> dict[str, Any] | None:
    """The entry of the last checkpoint in an index, if there is one."""
    last = index.get("last") if isinstance(index, dict) else None
    return last if isinstance(last, dict) else None


def _begun(indexes: list[Any]) -> bool:
    """Whether a step was saved, or an index is none that an unfinished start has."""
    for index in indexes:
        if not isinstance(index, dict) or (index.get("last") and not last_of(index)):
            return True
        last = last_of(index)
        if last is not None and last.get("step") != 0:
            return True
    return False


def _is_damaged(directory: Path, index: str, companion: str) -> bool:
    """Whether an index cannot be read as JSON, beside another file that jaxgen writes."""
    path = directory / index
    if not path.is_file() or not (directory / companion).is_file():
        return False
    return read_json(path) is None


def _names(directory: Path) -> list[str] | None:
    """Names in a directory, or None where there is none."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        if directory.is_symlink():
            raise UserError(
                f"{directory} is a symbolic link to a directory that does not exist"
            ) from None
        return None
    except NotADirectoryError:
        file = next(path for path in (directory, *directory.parents) if path.exists())
        so = "not a directory" if file == directory else f"so {directory} cannot be a directory"
        raise UserError(f"{file} is a file, {so}") from None
    except OSError as error:
        raise UserError(f"cannot read the directory {directory}: {reason(error)}") from None

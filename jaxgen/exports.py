"""Exports: a model as model.safetensors, config.json and the files of its task.

Beside them lies a README.md that the Hugging Face hub shows. Parameters are named by their path,
`lstm.layer_0.kernel`; the layout has a version, so that an older jaxgen says so. Until all is
written config.json holds only digests of the files, so that an export that was cut off is made
again and other people's files are told from it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.config import Experiment
from jaxgen.config.toml import validate
from jaxgen.directories import (
    EXPORT_INDEX,
    WRITTEN,
    digests,
    is_export_index,
    kind_of,
    owned_files,
    read_json,
    refuse_foreign_files,
    refuse_inside_run,
    written_of,
)
from jaxgen.errors import UserError, first_line
from jaxgen.files import reason, write_atomically
from jaxgen.trees import flatten, nest
from jaxgen.types import PyTree

FORMAT = 1
"""Version of the layout above."""
WEIGHTS, CARD = "model.safetensors", "README.md"


def check_export(
    directory: Path | str, *, files: Mapping[str, str] | None = None, overwrite: bool = False
) -> dict[str, list[str]]:
    """Check that an export may be written into a directory; nothing is written.

    Args:
        directory: Where to.
        files: The files of the task, where they are known already.
        overwrite: Whether an export that is there may be replaced.

    Returns:
        Digests of the files there that are to be replaced.

    Raises:
        UserError: There is an export or a run, or there are files that are not jaxgen's.
    """
    directory = Path(directory)
    kind = kind_of(directory)
    if kind in ("run", "seeds", "unfinished"):
        what = {"run": "holds a run", "seeds": "holds the runs of several seeds"}
        raise UserError(
            f"{directory} {what.get(kind, 'is where a training began')}; choose another directory "
            "for the export"
        )
    index = read_json(directory / EXPORT_INDEX)
    if kind == "export" and not overwrite and not _is_cut_off(index):
        raise UserError(
            f"{directory} already holds an export; replace it with --force, or choose another "
            "directory"
        )
    refuse_foreign_files(directory, kind, "an export")
    refuse_inside_run(directory)
    written = written_of(index) or {}
    by_name = kind == "export" and not _is_cut_off(index)
    names = {WEIGHTS, CARD, *written, *(files or ())}
    return owned_files(directory, names, None if by_name else written)


def write_export(
    directory: str | Path,
    params: PyTree,
    files: Mapping[str, str],
    config: Mapping[str, Any],
    card: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model's files; each appears whole or not at all, the configuration last.

    Args:
        directory: Made if missing.
        params: Tree of arrays.
        files: Name and text of each file of the task, such as tokenizer.json.
        config: What config.json says besides the version: `model_type`, and the settings as
            `experiment`.
        card: Text of README.md; `{parameters}` becomes their number, `{name}` the directory's name.
        overwrite: Whether to replace an export that is there.

    Raises:
        UserError: There is something else already, or the directory cannot be written.
    """
    from safetensors.numpy import save

    directory = Path(directory)
    written = check_export(directory, files=files, overwrite=overwrite)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten(params, ".").items()}
    card = card.replace("{name}", directory.absolute().name)
    card = card.replace("{parameters}", f"{sum(array.size for array in arrays.values()):,}")
    config = {**config, "files": list(files)}
    contents: dict[str, str | bytes] = {
        **files,
        WEIGHTS: save(arrays, {"format": "np"}),
        CARD: card,
    }
    for name, own in digests(contents).items():
        written[name] = written.get(name, []) + own
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_index(directory, {"format": FORMAT, WRITTEN: written})
        for name, content in contents.items():
            write_atomically(directory / name, content)
        _write_index(directory, {"format": FORMAT, **config})
    except OSError as error:
        raise UserError(f"cannot write the export {directory}: {reason(error)}") from error


def read_config(directory: str | Path) -> dict[str, Any]:
    """The config.json of an export.

    Raises:
        UserError: It is missing, damaged or of a newer format, or the export was cut off.
    """
    directory = Path(directory)
    path = directory / EXPORT_INDEX
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = int(config["format"])
        cut_off = _is_cut_off(config)
        if not cut_off and not isinstance(config["experiment"], dict):
            raise TypeError("`experiment` must be an object")
    except FileNotFoundError:
        raise UserError(f"{directory} is not an export: it has no config.json") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the config.json of a jaxgen export: {error!r}") from error
    if cut_off:
        raise UserError(f"the export {directory} was cut off; export the run again")
    if version > FORMAT:
        raise UserError(
            f"{directory} has export format {version}, newer than the {FORMAT} that this jaxgen "
            "reads; upgrade jaxgen"
        )
    return config


def read_export(directory: str | Path) -> tuple[Experiment, dict[str, str], dict[str, Any]]:
    """Settings, files of the task and parameters (nested dicts of NumPy arrays) of an export.

    Raises:
        UserError: A file is missing, damaged or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    directory = Path(directory)
    config, experiment = read_config(directory), read_export_settings(directory)
    names = config.get("files", ["tokenizer.json"])  # exports of language models named none
    files = {name: _read_text(directory, name) for name in names}
    weights = directory / WEIGHTS
    try:
        arrays = load_file(weights)
    except FileNotFoundError:
        raise UserError(f"the export {directory} is incomplete: no model.safetensors") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{weights} is damaged: {first_line(error)}; export the run again"
        ) from error
    return experiment, files, nest(arrays, ".")


def read_export_settings(directory: str | Path) -> Experiment:
    """Settings of an export. Errors are those of `read_export`."""
    source = str(Path(directory) / EXPORT_INDEX)
    return validate(read_config(directory)["experiment"], source)


def _read_text(directory: Path, name: str) -> str:
    try:
        return (directory / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"the export {directory} is incomplete: no {name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {directory / name}: {first_line(error)}") from error


def push_to_hub(directory: str | Path, repo: str) -> str:
    """Upload an export to the Hugging Face hub, where the repository is made if missing.

    Args:
        directory: From `write_export`.
        repo: `user/name`; new repositories are private.

    Returns:
        The address of the upload.

    Raises:
        UserError: Not logged in, no network, or the hub refuses.
    """
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi(library_name="jaxgen")
        hub.create_repo(repo, exist_ok=True, private=True)
        return str(hub.upload_folder(repo_id=repo, folder_path=directory))
    except Exception as error:  # its own, and those of whichever HTTP library it uses
        raise UserError(
            f"could not push {directory} to {repo}: {first_line(error)}; the export itself is "
            "complete: log in with `hf auth login`, check the network, and push again"
        ) from error


def _is_cut_off(index: Any) -> bool:
    return is_export_index(index) and "experiment" not in index


def _write_index(directory: Path, index: Mapping[str, Any]) -> None:
    write_atomically(directory / EXPORT_INDEX, json.dumps(index, indent=2) + "\n")

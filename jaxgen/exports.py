"""A model in three files that travel: model.safetensors, config.json, tokenizer.json.

Beside them lies a README.md that the Hugging Face hub shows. Parameters are named by their path,
`lstm.layer_0.kernel`; the layout has a version, so that an older jaxgen says so.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxgen.config import Experiment
from jaxgen.config_files import validate
from jaxgen.errors import UserError

FORMAT = 1
"""Version of the layout above."""

_CARD = """---
library_name: jaxgen
pipeline_tag: text-generation
tags: [jax, lstm]
---
# {name}

An LSTM language model made with jaxgen ({parameters:,} parameters, {vocab_size:,} tokens).

```python
import jaxgen

lm = jaxgen.load("path/to/this/directory")
print(lm.generate("", max_new_tokens=400, temperature=0.7, key=0))
```
"""


class Saves(Protocol):
    """What is asked of a tokenizer."""

    vocab_size: int

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json."""


def is_export(directory: Path) -> bool:
    """Whether a directory looks like an export rather than a run."""
    return (directory / "config.json").is_file()


def write_export(
    directory: str | Path, params: dict[str, Any], experiment: Experiment, tokenizer: Saves
) -> None:
    """Write a model's files; each appears whole or not at all, the configuration last.

    Args:
        directory: Made if missing.
        params: Nested dicts of arrays.
        experiment: All settings; those of the machine it was trained on are harmless.
        tokenizer: Saved as tokenizer.json.

    Raises:
        UserError: The directory cannot be written.
    """
    from safetensors.numpy import save

    directory = Path(directory)
    arrays = _flatten(params)
    config = {
        "format": FORMAT,
        "model_type": "jaxgen_language_model",
        "vocab_size": tokenizer.vocab_size,
        "experiment": experiment.model_dump(mode="json", exclude_defaults=True),
    }
    card = _CARD.format(
        name=directory.absolute().name,
        parameters=sum(array.size for array in arrays.values()),
        vocab_size=tokenizer.vocab_size,
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer.save(directory / "tokenizer.json")
        _replace(directory / "model.safetensors", save(arrays, {"format": "np"}))
        _replace(directory / "README.md", card.encode())
        _replace(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write the export {directory}: {error.strerror}") from error


def read_export(directory: str | Path) -> tuple[Experiment, dict[str, Any]]:
    """Settings and parameters (nested dicts of NumPy arrays) of an export.

    Raises:
        UserError: A file is missing, damaged or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    directory = Path(directory)
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version, values = int(config["format"]), dict(config["experiment"])
    except FileNotFoundError:
        raise UserError(f"{directory} is not an export: it has no config.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the config.json of a jaxgen export: {error!r}") from error
    if version > FORMAT:
        raise UserError(
            f"{directory} has export format {version}, newer than the {FORMAT} that this jaxgen "
            "reads; upgrade jaxgen"
        )
    weights = directory / "model.safetensors"
    try:
        arrays = load_file(weights)
    except FileNotFoundError:
        raise UserError(f"the export {directory} is incomplete: no model.safetensors") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights} is damaged: {error}; export the run again") from error
    return validate(values, str(path)), _nest(arrays)


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
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"could not push {directory} to {repo}: {reason}; the export itself is complete: log "
            "in with `hf auth login`, check the network, and push again"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = np.ascontiguousarray(value)
    return flat


def _nest(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split(".")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return nested

"""A pytree to an Orbax directory and back.

The tree is saved as nested dicts of NumPy arrays named by its fields and keys, so that a
checkpoint opens without the classes that made it, and on any number of devices. Orbax writes
beside the final name and renames once all is there; all of it, names included, is on the disk
before `save_tree` returns.
"""

import errno
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.errors import UserError, first_line
from jaxgen.files import sync_directory
from jaxgen.trees import flatten, name_of, nest
from jaxgen.types import PyTree

_FILE_BYTES = 1024
"""What the index of a checkpoint takes for each array, roughly."""
Manifest = dict[str, list[int]]
"""Size in bytes and CRC-32 of every file of a checkpoint."""


def save_tree(directory: Path, tree: PyTree) -> Manifest:
    """Write a tree of arrays into a new directory, and see it through to the disk.

    Returns:
        What was written, for `load_tree` to check.

    Raises:
        Exception: Whatever Orbax makes of a full or failing disk; the directory then does not
            exist.
    """
    arrays = {name: _on_host(leaf) for name, leaf in flatten(tree).items()}
    needed = sum(array.nbytes for array in arrays.values()) + _FILE_BYTES * len(arrays)
    if shutil.disk_usage(directory.parent).free < needed:  # Orbax's threads would print tracebacks
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    with _orbax() as checkpointer, _plain_path(directory) as path:
        checkpointer.save(path, nest(arrays), force=True)
    below = sorted(directory.rglob("*"))
    files = {p.relative_to(directory).as_posix(): _synced(p) for p in below if p.is_file()}
    for folder in (*(path for path in below if path.is_dir()), directory, directory.parent):
        sync_directory(folder)
    return files


def load_tree(directory: Path, manifest: Manifest) -> dict[str, Any]:
    """Read what `save_tree` wrote: nested dicts of NumPy arrays.

    Args:
        directory: Of the checkpoint.
        manifest: What `save_tree` returned. Orbax itself notices only some damage.

    Raises:
        UserError: The directory is missing, incomplete or damaged.
    """
    if not directory.is_dir():
        raise UserError(f"checkpoint {directory} is missing")
    for name, (size, checksum) in manifest.items():
        path = directory / name
        content = _content(path)
        if len(content) != size:
            raise UserError(f"{path} is truncated: it has {len(content)} of {size} bytes")
        if zlib.crc32(content) != checksum:
            raise UserError(f"{path} is damaged: its checksum differs")
    try:
        with _orbax() as checkpointer:
            tree = checkpointer.restore(directory.absolute())
        return jax.tree.map(np.asarray, tree)
    except Exception as error:  # Orbax, TensorStore and the file system each have their own
        reason = first_line(error)[:200]
        raise UserError(f"checkpoint {directory} is incomplete or damaged: {reason}") from error


def restore_like(template: PyTree, saved: dict[str, Any], *, where: str) -> PyTree:
    """Put saved arrays into a tree of the same names and shapes.

    Args:
        template: Arrays or `jax.ShapeDtypeStruct`s; random keys are made anew from their data.
        saved: From `load_tree`.
        where: What to call the checkpoint in errors.

    Raises:
        UserError: A name is missing or left over, or a shape or dtype differs.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(template)
    arrays = flatten(saved)
    leaves = []
    for path, leaf in paths:
        name = name_of(path)
        if name not in arrays:
            raise UserError(f"{where} has no `{name}`: it was made with other settings")
        leaves.append(_like(leaf, arrays.pop(name), f"{where}: `{name}`"))
    if arrays:
        raise UserError(f"{where} has `{next(iter(arrays))}` too: it was made with other settings")
    return jax.tree.unflatten(treedef, leaves)


@contextmanager
def _orbax() -> Iterator[Any]:
    """A checkpointer. What its threads say of an error besides raising it is left out."""
    import orbax.checkpoint as ocp  # slow to import, and only needed here

    logger = logging.getLogger("absl")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        index, count = jax.process_index(), jax.process_count()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=index,
            active_processes={index} if count > 1 else None,
            barrier_sync_key_prefix=f"process-{index}" if count > 1 else None,
        )  # else Orbax waits for all processes, of which only one saves or loads
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            yield checkpointer
    except Exception:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # its tasks end later
        raise
    finally:
        logger.setLevel(level)


@contextmanager
def _plain_path(directory: Path) -> Iterator[Path]:
    """A path to a new directory that Orbax takes as it is: it reads brackets as patterns."""
    if "[" not in str(directory.absolute()):
        yield directory.absolute()
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "checkpoints")
        link.symlink_to(directory.parent.absolute(), target_is_directory=True)
        yield link / directory.name


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _like(leaf: Any, array: np.ndarray, where: str) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(leaf))
    if array.shape != leaf.shape or array.dtype != leaf.dtype:
        raise UserError(
            f"{where} is {array.dtype}{list(array.shape)} there and "
            f"{leaf.dtype}{list(leaf.shape)} here: it was made with other settings"
        )
    return array


def _on_host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error


def _synced(path: Path) -> list[int]:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        content = file.read()
    return [len(content), zlib.crc32(content)]

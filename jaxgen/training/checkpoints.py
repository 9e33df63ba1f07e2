"""A pytree to an Orbax directory and back.

The tree is saved as nested dicts of NumPy arrays named by its fields and keys, so that a
checkpoint opens without the classes that made it, and on any number of devices. Orbax writes
beside the final name and renames once all is there.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import PyTree

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
    with _orbax() as checkpointer:
        checkpointer.save(directory.absolute(), _to_dicts(tree), force=True)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): _synced(path) for path in files}


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
        content = path.read_bytes() if path.is_file() else b""
        if len(content) != size:
            raise UserError(f"{path} is truncated: it has {len(content)} of {size} bytes")
        if zlib.crc32(content) != checksum:
            raise UserError(f"{path} is damaged: its checksum differs")
    try:
        with _orbax() as checkpointer:
            tree = checkpointer.restore(directory.absolute())
        return jax.tree.map(np.asarray, tree)
    except Exception as error:  # Orbax, TensorStore and the file system each have their own
        first_line = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"checkpoint {directory} is incomplete or damaged: {first_line}") from error


def fill(template: PyTree, saved: dict[str, Any], *, where: str) -> PyTree:
    """Put saved arrays into a tree of the same names and shapes.

    Args:
        template: Arrays or `jax.ShapeDtypeStruct`s; random keys are made anew from their data.
        saved: From `load_tree`.
        where: What to call the checkpoint in errors.

    Raises:
        UserError: A name is missing or left over, or a shape or dtype differs.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(template)
    arrays = dict(_named(saved))
    leaves = []
    for path, leaf in paths:
        name = _name(path)
        if name not in arrays:
            raise UserError(f"{where} has no `{name}`: it was made with other settings")
        leaves.append(_like(leaf, arrays.pop(name), f"{where}: `{name}`"))
    if arrays:
        raise UserError(f"{where} has `{next(iter(arrays))}` too: it was made with other settings")
    return jax.tree.unflatten(treedef, leaves)


def _orbax() -> Any:
    import orbax.checkpoint as ocp  # slow to import, and only needed here

    return ocp.PyTreeCheckpointer()


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


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(_part(entry) for entry in path)


def _part(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _to_dicts(tree: PyTree) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        folder = nested
        for entry in path[:-1]:
            folder = folder.setdefault(_part(entry), {})
        folder[_part(path[-1])] = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return nested


def _named(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _named(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _synced(path: Path) -> list[int]:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        content = file.read()
    return [len(content), zlib.crc32(content)]

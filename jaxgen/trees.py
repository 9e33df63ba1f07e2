"""Trees of arrays as flat dicts of named arrays, and back to nested dicts."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.types import PyTree


def flatten(tree: PyTree, separator: str = "/") -> dict[str, Any]:
    """Leaves by name, `lstm/layer_0/kernel`: the keys, fields and positions that lead to each.

    Raises:
        ValueError: A key holds the separator, so that `nest` would not find the way back.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {name_of(path, separator): leaf for path, leaf in leaves}


def nest(flat: dict[str, Any], separator: str = "/") -> dict[str, Any]:
    """The inverse of `flatten` for nested dicts; of other trees, nested dicts of their parts."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split(separator)
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return nested


def name_of(path: tuple[Any, ...], separator: str = "/") -> str:
    """The name of a leaf, from its path as `jax.tree_util` gives it."""
    parts = [_part(entry) for entry in path]
    for part in parts:
        if separator in part:
            raise ValueError(f"a key of a tree must not contain `{separator}`, got {part!r}")
    return separator.join(parts)


def _part(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def same_shapes(trees: Sequence[PyTree]) -> bool:
    """Whether trees have the same structure, shapes and types, so that `stacked` takes them."""
    kinds = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in trees]
    return all(kind == kinds[0] for kind in kinds)


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """One tree of them all, with a new axis 0."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

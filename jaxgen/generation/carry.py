"""What a model knows after a prompt, as a value: fork it, mix two, save it, load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Array, Int, PyTree


class Reading(NamedTuple):
    """A model's state after a prompt.

    The last token is kept aside, not yet read: the loop begins with it.
    """

    carry: PyTree
    """The state after all tokens but the last; leaves of leading size B."""
    token: Int[Array, "B"]
    """The last token."""


def fork(reading: PyTree, count: int) -> PyTree:
    """Each row `count` times, side by side: row i becomes rows i*count to (i+1)*count - 1."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), reading)


def take(reading: PyTree, rows: Sequence[int] | slice) -> PyTree:
    """Some of the rows."""
    index = rows if isinstance(rows, slice) else np.asarray(rows)
    return jax.tree.map(lambda x: x[index], reading)


def join(readings: Sequence[PyTree]) -> PyTree:
    """The rows of several, one after the other."""
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *readings)


def interpolate(a: PyTree, b: PyTree, weight: Any) -> PyTree:
    """`(1 - weight) * a + weight * b` in the floating-point leaves.

    The others (the last token, labels) are those of `a` for a weight below 1/2, else of `b`.

    Args:
        a: a reading or a carry.
        b: another of the same structure.
        weight: a number, or one a row, [B].

    Raises:
        UserError: the two have different structures or shapes.
    """
    shapes = [str(jax.tree.map(jnp.shape, tree)) for tree in (a, b)]
    if shapes[0] != shapes[1]:
        raise UserError(
            "`a` and `b` must be readings of one model with as many rows, got "
            f"{shapes[0]} and {shapes[1]}"
        )

    def mix(x: Any, y: Any) -> Array:
        x, y = jnp.asarray(x), jnp.asarray(y)
        w = jnp.asarray(weight, jnp.float32)
        w = w.reshape(*w.shape, *[1] * (x.ndim - w.ndim)) if w.ndim else w
        if jnp.issubdtype(x.dtype, jnp.floating):
            mixed = (1 - w) * x.astype(jnp.float32) + w * y.astype(jnp.float32)
            return mixed.astype(x.dtype)
        return jnp.where(w < 0.5, x, y)

    return jax.tree.map(mix, a, b)


def save(path: str | Path, reading: PyTree) -> None:
    """Write a reading to an .npz file: one array a leaf, named by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(reading)
    arrays: dict[str, Any] = {jax.tree_util.keystr(name): _portable(leaf) for name, leaf in leaves}
    with Path(path).open("wb") as file:
        np.savez(file, **arrays)


def load(path: str | Path, like: PyTree) -> PyTree:
    """Read what `save` wrote.

    Args:
        path: the file.
        like: a reading of the same model (with any number of rows), for structure and types.

    Raises:
        UserError: the file is missing, is not a saved reading, or is of another model.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"there is no saved reading at {path}") from None
    except Exception as error:  # zipfile, numpy and the file system each raise their own
        raise UserError(f"{path} is not a saved reading: {error}") from error
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(name) for name, _ in leaves]
    wanted = {name: np.shape(leaf)[1:] for name, (_, leaf) in zip(names, leaves, strict=True)}
    found = {name: array.shape[1:] for name, array in arrays.items()}
    if wanted != found:
        raise UserError(f"{path} is of another model: it holds {found}, wanted {wanted}")
    restored = [
        jnp.asarray(arrays[name]).astype(jnp.asarray(leaf).dtype)
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _portable(leaf: Any) -> np.ndarray:
    """As NumPy knows it; bfloat16 widens to float32, which loses nothing."""
    array = jnp.asarray(leaf)
    return np.asarray(array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array)

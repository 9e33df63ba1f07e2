"""`PromptState`: what a model knows after a prompt, as a value to fork, mix, save and load.

A prompt is read once and continued as often as one likes; what was read can be taken apart by rows,
joined, blended with what another prompt left behind, and kept in a file:

    from jaxgen.generation import carry

    hello = lm.prefill("hello ")                        # a PromptState of one row
    lm.generate("there", after=hello)                   # as lm.generate("hello there")
    lm.generate("", after=carry.fork(hello, 3))         # three texts, from one reading
    both = carry.join([hello, lm.prefill("good bye ")])  # two rows
    half = carry.interpolate(hello, lm.prefill("good bye "), 0.5)
    carry.save("hello.npz", hello)
    hello = carry.load("hello.npz", like=lm.prefill(""))

Every function takes a `PromptState` or a bare carry: any tree whose leaves have the batch first or
are scalars, which all rows share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Array, Int, PyTree

__all__ = ["PromptState", "fork", "interpolate", "join", "load", "save", "take"]


class PromptState(NamedTuple):
    """A model's state after a prompt.

    The last token is kept aside, not yet read: decoding begins with it.
    """

    carry: PyTree
    """The state after all tokens but the last; leaves have the batch first or are scalars."""
    token: Int[Array, "B"]
    """The last token."""


def fork(state: PyTree, count: int) -> PyTree:
    """Each row `count` times, side by side: row i becomes rows i*count to (i+1)*count - 1."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, axis=0) if jnp.ndim(x) else x, state)


def take(state: PyTree, rows: Sequence[int] | np.ndarray | slice) -> PyTree:
    """Some of the rows."""
    index = rows if isinstance(rows, slice) else np.asarray(rows)
    return jax.tree.map(lambda x: x[index] if jnp.ndim(x) else x, state)


def join(states: Sequence[PyTree]) -> PyTree:
    """The rows of several, one after the other.

    Raises:
        UserError: there are none, they are of different models, or a scalar that all rows share
            differs.
    """
    if not states:
        raise UserError("`states` must hold at least one state, got none")
    kinds = [str(jax.tree.map(lambda x: jnp.shape(x)[1:], state)) for state in states]
    if len(set(kinds)) > 1:
        raise UserError(f"`states` must be of one model, got {' and '.join(sorted(set(kinds)))}")

    def concatenate(*xs: Any) -> Any:
        if jnp.ndim(xs[0]):
            return jnp.concatenate(xs)
        if any(not np.array_equal(x, xs[0]) for x in xs):
            raise UserError(
                "`states` must agree in the scalars that all rows share, got "
                + ", ".join(str(x) for x in xs)
            )
        return xs[0]

    return jax.tree.map(concatenate, *states)


def interpolate(a: PyTree, b: PyTree, weight: Any) -> PyTree:
    """`(1 - weight) * a + weight * b` in the floating-point leaves.

    The others (the last token, labels) are those of `a` for a weight below 1/2, else of `b`.

    Args:
        a: a `PromptState` or a carry.
        b: another of the same structure.
        weight: a number, or one a row, [B].

    Raises:
        UserError: the two have different structures or shapes, or there are several weights for a
            scalar that all rows share.
    """
    shapes = [str(jax.tree.map(jnp.shape, tree)) for tree in (a, b)]
    if shapes[0] != shapes[1]:
        raise UserError(
            "`a` and `b` must be states of one model with as many rows, got "
            f"{shapes[0]} and {shapes[1]}"
        )

    def mix(x: Any, y: Any) -> Array:
        x, y = jnp.asarray(x), jnp.asarray(y)
        w = jnp.asarray(weight, jnp.float32)
        if w.ndim > x.ndim:
            raise UserError(
                "`weight` must be one number where the rows share a scalar, got shape "
                f"{w.shape}; mix the rows one by one"
            )
        w = w.reshape(*w.shape, *[1] * (x.ndim - w.ndim)) if w.ndim else w
        if jnp.issubdtype(x.dtype, jnp.floating):
            mixed = (1 - w) * x.astype(jnp.float32) + w * y.astype(jnp.float32)
            return mixed.astype(x.dtype)
        return jnp.where(w < 0.5, x, y)

    return jax.tree.map(mix, a, b)


def save(path: str | Path, state: PyTree) -> None:
    """Write a state to an .npz file: one array a leaf, named by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    arrays: dict[str, Any] = {jax.tree_util.keystr(name): _portable(leaf) for name, leaf in leaves}
    with Path(path).open("wb") as file:
        np.savez(file, **arrays)


def load(path: str | Path, like: PyTree) -> PyTree:
    """Read what `save` wrote.

    Args:
        path: the file.
        like: a state of the same model (with any number of rows), for structure and types.

    Raises:
        UserError: the file is missing, is not a saved state, or is of another model.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"there is no saved state at {path}") from None
    except Exception as error:  # zipfile, numpy and the file system each raise their own
        raise UserError(f"{path} is not a saved state: {error}") from error
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(name) for name, _ in leaves]
    wanted = {name: _row_shape(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    found = {name: _row_shape(array) for name, array in arrays.items()}
    if wanted != found:
        raise UserError(f"{path} is of another model: it holds {found}, wanted {wanted}")
    restored = [
        jnp.asarray(arrays[name]).astype(jnp.asarray(leaf).dtype)
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _row_shape(leaf: Any) -> tuple[int, ...] | str:
    """The shape of one row of a leaf."""
    return np.shape(leaf)[1:] if np.ndim(leaf) else "a scalar"


def _portable(leaf: Any) -> np.ndarray:
    """As NumPy knows it; bfloat16 widens to float32, which loses nothing."""
    array = jnp.asarray(leaf)
    return np.asarray(array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array)

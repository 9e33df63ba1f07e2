"""What generation asks of a step function, a carry and a prompt, checked before the loop."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import PyTree


def check_inputs(
    step_fn: Callable,
    params: PyTree,
    carry: PyTree,
    tokens: Any,
    lengths: Any = None,
    bos_id: int | None = None,
) -> tuple[Any, Any, int]:
    """What every entry of generation takes, checked; UserError where it does not fit together.

    Returns:
        Tokens [B, P >= 1] and lengths [B] >= 1 of the prompts, and the size of the vocabulary.
    """
    tokens = as_array(tokens)
    batch_size = tokens.shape[0] if tokens.ndim else 1
    vocab_size = check_step_fn(step_fn, params, carry, batch_size)
    tokens, lengths = check_prompt(tokens, lengths, bos_id, vocab_size)
    return tokens, lengths, vocab_size


def check_at_least_one(**values: int) -> None:
    """UserError that names a value below 1."""
    for name, value in values.items():
        if value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")


def check_carry(carry: PyTree, batch_size: int) -> None:
    """UserError that names each leaf without the batch first, unless it is a shared scalar."""
    wrong = [
        f"{name or 'the carry'}: {_kind(leaf)}"
        for name, leaf in _leaves(carry).items()
        if jnp.ndim(leaf) and jnp.shape(leaf)[0] != batch_size
    ]
    if wrong:
        raise UserError(
            f"`carry` must have leaves with the batch of {batch_size} first, or scalars that all "
            f"rows share, got {'; '.join(wrong)}; move the axis of the batch to the front, or "
            "repeat what all rows share once for each of them"
        )


def check_step_fn(step_fn: Callable, params: PyTree, carry: PyTree, batch_size: int) -> int:
    """The vocabulary size of a step function; UserError where it breaks the contract.

    The contract: `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])`, with a carry of the
    same structure, shapes and types out as in, each leaf of which has the batch first or is a
    scalar that all rows share.
    """
    leaves, structure = jax.tree.flatten((params, carry))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return _check(step_fn, params, carry, batch_size)
    kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _checked(step_fn, structure, kinds, batch_size)


@lru_cache(maxsize=64)
def _checked(step_fn: Callable, structure: Any, kinds: tuple, batch_size: int) -> int:
    """Each signature is traced once, so that a call from plain Python stays cheap."""
    leaves = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    params, carry = jax.tree.unflatten(structure, leaves)
    return _check(step_fn, params, carry, batch_size)


def _check(step_fn: Callable, params: PyTree, carry: PyTree, batch_size: int) -> int:
    check_carry(carry, batch_size)
    tokens = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    outputs = jax.eval_shape(step_fn, params, carry, tokens)
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise UserError(
            f"`step_fn` must return (carry, logits), got {_kind(outputs)}; "
            "return the new carry and the logits of the next token"
        )
    after, logits = outputs
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch_size:
        raise UserError(
            f"`step_fn` must return logits of shape [B, V] with B = {batch_size}, got "
            f"{_kind(logits)}; give one row of logits for each token read"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(
            f"`step_fn` must return floating-point logits, got {logits.dtype}; "
            "return scores before the softmax"
        )
    _check_carry(carry, after)
    return int(shape[1])


def _check_carry(before: PyTree, after: PyTree) -> None:
    """UserError that names each leaf of the carry that a step changed in shape or type."""
    old, new = (_leaves(carry) for carry in (before, after))
    changes = [
        f"{name or 'the carry'}: {_kind(old.get(name))} -> {_kind(new.get(name))}"
        for name in [*old, *(name for name in new if name not in old)]
        if _kind(old.get(name)) != _kind(new.get(name))
    ]
    shapes = [str(jax.tree.structure(carry)) for carry in (before, after)]
    if not changes and shapes[0] != shapes[1]:
        changes = [" -> ".join(shapes)]
    if changes:
        raise UserError(
            "`step_fn` must return a carry like the one it takes, got "
            + "; ".join(changes)
            + "; give `generate` a first carry with the shapes and types that a step returns"
        )


def _leaves(tree: PyTree) -> dict[str, Any]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _kind(leaf: Any) -> str:
    if leaf is None:
        return "nothing"
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf) if isinstance(leaf, int | float | bool) else leaf
    if not hasattr(leaf, "shape"):
        return type(leaf).__name__
    return f"{leaf.dtype}{list(leaf.shape)}"


def as_array(tokens: Any) -> Any:
    """Token ids as an array; UserError for rows of different lengths."""
    if hasattr(tokens, "shape"):
        return tokens
    try:
        return np.asarray(tokens)
    except ValueError:
        raise UserError(
            f"`prompt_tokens` must have rows of one length, got {[len(row) for row in tokens]}; "
            "pad them on the right and give their `prompt_lengths`"
        ) from None


def check_prompt(
    tokens: np.ndarray | jax.Array, lengths: Any, bos_id: int | None, vocab_size: int
) -> tuple[Any, Any]:
    """Prompt tokens [B, P >= 1] and lengths [B] >= 1; an empty prompt starts from `bos_id`."""
    whole = tokens.size == 0 or jnp.issubdtype(tokens.dtype, jnp.integer)
    if tokens.ndim != 2 or not whole:
        raise UserError(
            f"`prompt_tokens` must be whole numbers of shape [B, P], got {_kind(tokens)}; "
            "give one row of token ids for each text"
        )
    tokens = tokens.astype(np.int32)
    batch, width = tokens.shape
    if lengths is None:
        lengths = np.full(batch, width, np.int32)
    lengths = lengths if hasattr(lengths, "shape") else np.asarray(lengths)
    if jnp.shape(lengths) != (batch,):
        raise UserError(
            f"`prompt_lengths` must hold one length for each of the {batch} rows, got shape "
            f"{jnp.shape(lengths)}; give the number of real tokens in each row"
        )
    if not isinstance(lengths, jax.core.Tracer):
        lengths = np.asarray(lengths)
        if ((lengths < 0) | (lengths > width)).any():
            bad = lengths[(lengths < 0) | (lengths > width)][0]
            raise UserError(
                f"`prompt_lengths` must be in [0, {width}], got {bad}; "
                "give the number of real tokens in each row"
            )
        if bos_id is None and (lengths == 0).any():
            raise UserError(
                f"`prompt_lengths` must be at least 1 without a `bos_id`, got 0 in row "
                f"{int(np.argmin(lengths))}; give `bos_id`, the token that a text starts from"
            )
    if bos_id is not None and not 0 <= bos_id < vocab_size:
        raise UserError(f"`bos_id` must be in [0, {vocab_size}), got {bos_id}; give a token id")
    lengths = lengths.astype(np.int32)
    if bos_id is not None:
        here: Any = (
            np if isinstance(tokens, np.ndarray) and isinstance(lengths, np.ndarray) else jnp
        )
        first = here.where(lengths == 0, np.int32(bos_id), tokens[:, 0] if width else 0)
        tokens = here.concatenate([first[:, None].astype(np.int32), tokens[:, 1:]], axis=1)
        lengths = here.maximum(lengths, 1)
    return tokens, lengths


def check_key(key: Any, batch_size: int) -> Any:
    """A seed as an unsigned scalar, or typed keys; UserError for anything else."""
    if isinstance(key, int | np.integer):
        if not -(2**31) <= key < 2**32:  # JAX keeps 32 bits: it would silently be another seed
            raise UserError(f"a seed `key` must be in [-2**31, 2**32), got {key}; choose one there")
        return np.uint32(int(key) & 0xFFFFFFFF)
    dtype = getattr(key, "dtype", None)
    seed = dtype is not None and jnp.issubdtype(dtype, jnp.integer) and key.ndim == 0
    if not seed and dtype == jnp.uint32:
        key = jax.random.wrap_key_data(key)
    elif not seed and (dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        raise UserError(
            f"`key` must be a seed, a jax key or one key a row, got {_kind(key)}; "
            "for example jax.random.key(0)"
        )
    if key.shape not in ((), (batch_size,)):
        raise UserError(
            f"`key` must be one key or one for each of the {batch_size} rows, got shape "
            f"{key.shape}; split a key with jax.random.split(key, {batch_size})"
        )
    return key


def row_keys(key: jax.Array, batch_size: int) -> jax.Array:
    """One key a row: from a seed or one key by `fold_in` of the row, or as given, one a row."""
    if jnp.issubdtype(key.dtype, jnp.integer):
        key = jax.random.key(key)
    if key.ndim:
        return key
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch_size))

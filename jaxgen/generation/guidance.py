"""Guidance: how strongly labels shape a text, as a step function over a model's step function.

    log p = log p_null + sum_k w_k (log p_k - log p_null)

where p_k is what a conditioned model says under label k, and p_null under the label that was put
in the place of others while it was trained (classifier-free guidance: Ho & Salimans, 2022; for
text Sanchez et al., 2024). One label of weight g is guidance of strength g: 0 is the null label, 1
plain conditioning, more exaggerates. Several labels blend, and a negative weight steers away.

    step_fn = guided(model_step)
    carry = guided_carry(initial_carry, params, labels, null=6, strength=2.0)
    jaxgen.generate(step_fn, params, carry, prompt, None, 0, max_new_tokens=100)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.decoding import prepared
from jaxgen.generation.mixing import product
from jaxgen.types import Array, Float, Int, PyTree

Conditioned = Callable[[PyTree, int, PyTree], PyTree]
"""`initial_carry(params, batch_size, condition)`: the carry before the first token."""


class GuidedCarry(NamedTuple):
    """The state of a guided model."""

    carries: PyTree
    """The model's carry under the null label and under each of the K labels, in this order:
    [B, K + 1, ...], or scalars that all rows share."""
    weights: Float[Array, "B K"]
    """Of the labels; they ride along unchanged."""


class Guidance(NamedTuple):
    """What a guided model is conditioned on."""

    conditions: PyTree
    """Labels, or any tree that the model's `initial_carry` takes, [B, K, ...]."""
    null: PyTree
    """The same of the null label: [B, ...], or one for all rows."""
    weights: Float[Any, "B K"]


@dataclass(frozen=True)
class GuidedStep:
    """`guided(function)`: the function on B * (K + 1) rows, and what it says joined by row.

    One pass reads the weights of the model once, which is what a step of few rows waits for.
    """

    function: Callable[..., tuple[PyTree, Array]]

    def __call__(
        self, params: PyTree, carry: GuidedCarry, tokens: Int[Array, "B *T"], *mask: Array
    ) -> tuple[GuidedCarry, Float[Array, "B *T V"]]:
        """One step, or one pass over a prompt with its mask."""
        batch_size, count = carry.weights.shape
        inputs = (jnp.repeat(x, count + 1, axis=0) for x in (tokens, *mask))
        after, logits = self.function(params, _as_rows(carry.carries), *inputs)
        logits = logits.reshape(batch_size, count + 1, *logits.shape[1:])
        powers = jnp.concatenate([1 - carry.weights.sum(1, keepdims=True), carry.weights], axis=1)
        after = GuidedCarry(_by_row(after, count + 1), carry.weights)
        return after, product(logits, powers)

    def prepare(self, params: PyTree) -> PyTree:
        """The parameters as the model's own loop wants them."""
        return prepared(self.function, params)


@dataclass(frozen=True)
class GuidedInitialCarry:
    """`initial_carry(params, batch_size, guidance)` of a guided model."""

    initial_carry: Conditioned

    def __call__(self, params: PyTree, batch_size: int, condition: Guidance) -> GuidedCarry:
        """The carry before the first token."""
        labels, null, weights = condition
        weights = jnp.asarray(weights, jnp.float32)

        def rows(of: Any, null: Any) -> Array:
            of = jnp.asarray(of)
            null = jnp.asarray(null, of.dtype)
            null = jnp.broadcast_to(null, (batch_size, *of.shape[2:]))
            return jnp.concatenate([null[:, None], of], axis=1)

        conditions = _as_rows(jax.tree.map(rows, labels, null))
        count = weights.shape[1] + 1
        carry = self.initial_carry(params, batch_size * count, conditions)
        return GuidedCarry(_by_row(carry, count), weights)


def mixture(function: Callable[..., tuple[PyTree, Array]]) -> GuidedStep:
    """A step function that follows several labels at once, each with its weight.

    Args:
        function: a step function, or a prefill function (the result is then one, too).

    Returns:
        `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])` with the `GuidedCarry` that
        `mixture_carry` makes; the parameters are the model's own. The logits are not normalised
        (see `jaxgen.generation.mixing.product`).
    """
    return GuidedStep(function)


def guided(function: Callable[..., tuple[PyTree, Array]]) -> GuidedStep:
    """A step function that follows one label with a strength: `mixture` of a single label.

    Takes and gives what `mixture` does; `guided_carry` makes its carry.
    """
    return GuidedStep(function)


def guided_carry(
    initial_carry: Conditioned, params: PyTree, labels: PyTree, null: PyTree, strength: Any = 1.0
) -> GuidedCarry:
    """The carry before the first token of texts that each follow one label.

    Args:
        initial_carry: `initial_carry(params, batch_size, condition)` of the model.
        params: its parameters.
        labels: Int[B], or any condition with the batch first.
        null: the null label: one for all rows, or one a row.
        strength: 0 or more; one number, or one a row. Traced.

    Raises:
        UserError: a strength is negative or not finite, or there is not one a row.
    """
    batch_size = _batch_size(labels, "labels")
    strength = _floats(strength)
    if strength.shape not in ((), (batch_size,)):
        raise UserError(
            f"`strength` must be one number, or one for each of the {batch_size} rows, got shape "
            f"{strength.shape}"
        )
    if not isinstance(strength, jax.core.Tracer):
        _check(strength, (strength >= 0) & (strength < np.inf), "strength", "0 or more, and finite")
    labels = jax.tree.map(lambda x: jnp.asarray(x)[:, None], labels)
    weights = jnp.broadcast_to(strength, (batch_size,))[:, None]
    return GuidedInitialCarry(initial_carry)(params, batch_size, Guidance(labels, null, weights))


def mixture_carry(
    initial_carry: Conditioned, params: PyTree, labels: PyTree, null: PyTree, weights: Any
) -> GuidedCarry:
    """The carry before the first token of texts that each follow K labels.

    Rows with fewer labels have any label with weight 0 in the place of those that they lack.

    Args:
        initial_carry: `initial_carry(params, batch_size, condition)` of the model.
        params: its parameters.
        labels: Int[B, K], or any condition with the batch and the labels first.
        null: the null label: one for all rows, or one a row.
        weights: [K] for all rows or [B, K]; negative ones steer away. Traced.

    Raises:
        UserError: a weight is not finite, or there is not one for each label.
    """
    batch_size = _batch_size(labels, "labels")
    count = jnp.shape(jax.tree.leaves(labels)[0])[1:2]
    weights = _floats(weights)
    if not count or weights.shape not in (count, (batch_size, *count)):
        raise UserError(
            "`weights` must be [K] or [B, K] beside `labels` [B, K], got shapes "
            f"{weights.shape} and {jnp.shape(jax.tree.leaves(labels)[0])}"
        )
    if not isinstance(weights, jax.core.Tracer):
        _check(weights, np.isfinite(weights), "weights", "finite")
    weights = jnp.broadcast_to(weights, (batch_size, *count))
    return GuidedInitialCarry(initial_carry)(params, batch_size, Guidance(labels, null, weights))


def _as_rows(tree: PyTree) -> PyTree:
    """[B, K, ...] -> [B * K, ...]; scalars stay."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]) if jnp.ndim(x) else x, tree)


def _by_row(tree: PyTree, count: int) -> PyTree:
    """[B * K, ...] -> [B, K, ...]; scalars stay."""
    return jax.tree.map(
        lambda x: x.reshape(-1, count, *x.shape[1:]) if jnp.ndim(x) else jnp.asarray(x), tree
    )


def _floats(values: Any) -> Any:
    """Float32, in NumPy unless it is traced."""
    if isinstance(values, jax.core.Tracer):
        return values.astype(jnp.float32)
    return np.asarray(values, np.float32)


def _check(values: np.ndarray, good: Any, name: str, rule: str) -> None:
    if not np.all(good):
        raise UserError(f"`{name}` must be {rule}, got {values[~good].flat[0]}")


def _batch_size(labels: PyTree, name: str) -> int:
    leaves = jax.tree.leaves(labels)
    if not leaves or not jnp.ndim(leaves[0]):
        raise UserError(f"`{name}` must have one entry a row, got {labels}; give a list of labels")
    return int(jnp.shape(leaves[0])[0])

"""Dynamic evaluation: the nats per token of a text whose past the parameters keep adapting to.

Each stretch of the text is predicted first, and then learnt from by one step of

    params += -rate * scale * gradient + pull * (first params - params)

(Krause, Kahembwe, Murray & Renals, 2018). Without statistics this is gradient descent: the scale is
1, and there is no pull. With the mean square of the gradients of training text, `rms` its root,
the scale is 1 / (rms + 2e-5), and the pull is `decay` * rms / mean(rms), at most 1 (their RMS rule
with decay, and what their code takes the mean of: the mean over the arrays of each one's mean).
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.evaluation.perplexity import Nll
from jaxgen.types import Array, LossAux, PyTree

LossFn = Callable[[Any, Any, Any, Any], tuple[Array, LossAux]]
_EPSILON = 2e-5


class Rule(NamedTuple):
    """How parameters follow a text; trees like the parameters."""

    scale: PyTree
    pull: PyTree


def descent(params: PyTree) -> Rule:
    """Plain gradient descent."""
    ones, zeros = (
        jax.tree.map(lambda x, value=value: jnp.full((), value, x.dtype), params)
        for value in (1, 0)
    )
    return Rule(ones, zeros)


def rms_rule(
    loss_fn: LossFn,
    params: PyTree,
    carry: PyTree,
    batches: Iterable[PyTree],
    *,
    decay: float,
    most: int = 200,
) -> Rule:
    """The rule that knows how large gradients are on training text.

    Args:
        loss_fn: As in training; called without a key.
        params: The trained parameters, which do not move here.
        carry: The state before the first batch.
        batches: Training text in reading order, with `mask`.
        decay: How strongly the parameters are pulled back.
        most: Batches that are read at most.
    """

    @jax.jit
    def add(carry: PyTree, sums: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        gradient, aux = jax.grad(loss_fn, has_aux=True)(params, carry, batch, None)
        return aux.carry, jax.tree.map(lambda s, g: s + jnp.square(g), sums, gradient)

    sums, count = jax.tree.map(jnp.zeros_like, params), 0
    for batch in islice(batches, most):
        carry, sums = add(carry, sums, batch)
        count += 1
    rms = jax.tree.map(lambda s: jnp.sqrt(s / count), sums)
    leaves = jax.tree.leaves(rms)
    mean = sum((leaf.mean() for leaf in leaves), start=jnp.zeros(())) / len(leaves)
    scale = jax.tree.map(lambda r: 1 / (r + _EPSILON), rms)
    return Rule(scale, jax.tree.map(lambda r: jnp.minimum(decay * r / mean, 1), rms))


def make_dynamic_nll(
    loss_fn: LossFn,
) -> Callable[[PyTree, PyTree, Iterable[PyTree], float, Rule], Nll]:
    """Build `dynamic_nll(params, carry, batches, rate, rule)`, compiled once a shape.

    Args:
        loss_fn: As in training; called without a key. Its sum "nll" is what is measured.

    Returns:
        A function of the trained parameters, which stay as they are; the state before the first
        batch; the batches in reading order, each predicted before it is learnt from; the rate; and
        the rule. Sums of a batch are float32, those over batches float64.
    """

    def step(
        state: tuple[PyTree, PyTree], batch: PyTree, first: PyTree, rate: Array, rule: Rule
    ) -> tuple[tuple[PyTree, PyTree], Any]:
        params, carry = state
        gradient, aux = jax.grad(loss_fn, has_aux=True)(params, carry, batch, None)

        def follow(x: Array, g: Array, begun: Array, scale: Array, pull: Array) -> Array:
            return x - rate * scale * g + pull * (begun - x)

        params = jax.tree.map(follow, params, gradient, first, rule.scale, rule.pull)
        return (params, aux.carry), aux.sums["nll"]

    compiled = jax.jit(step, donate_argnums=0)

    def dynamic_nll(
        params: PyTree, carry: PyTree, batches: Iterable[PyTree], rate: float, rule: Rule
    ) -> Nll:
        state, rows = jax.tree.map(jnp.copy, (params, carry)), []
        for batch in batches:
            state, row = compiled(state, batch, params, jnp.float32(rate), rule)
            rows.append(row)
        total, count = (np.sum(np.array(part, np.float64)) for part in zip(*rows, strict=True))
        return Nll(float(total), round(float(count)))

    return dynamic_nll

"""Exact nll of a text: every token counted once, in few compiled calls."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array, PyTree


@dataclass(frozen=True)
class Nll:
    """Negative log-likelihood of a text."""

    total: float
    """Sum over the tokens, nats."""
    count: int
    """Tokens."""

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.total / max(self.count, 1)

    @property
    def perplexity(self) -> float:
        """exp(nats per token), infinite where that overflows."""
        return math.exp(self.mean) if self.mean < 700.0 else math.inf

    @property
    def bits(self) -> float:
        """Bits per token: the bpc of a character or byte model."""
        return self.mean / math.log(2.0)


def make_evaluator(
    loss_fn: Callable[..., tuple[Array, tuple[PyTree, Array, Array]]],
    *,
    windows_per_dispatch: int = 32,
) -> Callable[[PyTree, PyTree, Iterable[PyTree]], Nll]:
    """Build `evaluate(params, carry, batches) -> Nll`, compiled once a shape.

    Args:
        loss_fn: `loss_fn(params, carry, batch, None)`, as in training; without a key it is
            deterministic. Of what it returns, carry, nll_sum and count are used.
        windows_per_dispatch: Batches read in one compiled call.

    Returns:
        A function of the parameters, the initial carry, and the batches in reading order: pytrees
        of NumPy arrays of one shape. They are read as a stream and the carry flows through them.
        Sums over a batch are float32, those over batches exact to float64.
    """
    sums = make_sums(loss_fn, windows_per_dispatch=windows_per_dispatch)

    def evaluate(params: PyTree, carry: PyTree, batches: Iterable[PyTree]) -> Nll:
        # Where the parameters are: what comes back lies there, and would be another program's.
        place = getattr(jax.tree.leaves(params)[0], "sharding", None)
        total, count = sums(params, jax.device_put(carry, place), batches)
        return Nll(float(total), round(float(count)))

    return evaluate


def make_sums(
    loss_fn: Callable[..., tuple[Array, tuple[PyTree, Array, Array]]],
    *,
    windows_per_dispatch: int = 32,
    compiled: Callable[[Callable], Callable] = jax.jit,
) -> Callable[[PyTree, PyTree, Iterable[PyTree]], np.ndarray]:
    """Build `sums(params, carry, batches)`: total nll and number of tokens, for `make_evaluator`.

    With a `compiled` that also maps over the leading axis of the first argument, parameters and
    carries are stacked, and so are the pairs that come out, [S, 2].
    """

    @compiled
    def dispatch(model: PyTree, batches: PyTree, windows: Array) -> tuple[PyTree, Array]:
        params, carry = model

        def body(memory: PyTree) -> PyTree:
            index, carry, rows = memory
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches
            )
            _, (carry, nll_sum, count) = loss_fn(params, carry, batch, None)
            row = jnp.stack([nll_sum.astype(jnp.float32), count.astype(jnp.float32)])
            return index + 1, carry, rows.at[index].set(row)

        rows = jnp.zeros((windows_per_dispatch, 2), jnp.float32)
        start = (jnp.int32(0), carry, rows)
        _, carry, rows = jax.lax.while_loop(lambda memory: memory[0] < windows, body, start)
        return carry, rows

    def sums(params: PyTree, carry: PyTree, batches: PyTree) -> np.ndarray:
        rows = []
        for group in _groups(batches, windows_per_dispatch):
            filled = group + [group[-1]] * (windows_per_dispatch - len(group))
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
            carry, row = dispatch((params, carry), stacked, np.int32(len(group)))
            rows.append(row)
        return np.sum([np.asarray(row, np.float64).sum(-2) for row in rows] or [[0, 0]], axis=0)

    return sums


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group

"""The nats per token of a text under a model with a continuous cache, for many settings at once.

A text is read in several rows, and yet remembered in its order: the rows are read twice, first to
learn with what pairs each one ends, which are those that the next begins with. The hidden states
are those of the plain evaluation, so that the cache is all that differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.evaluation.perplexity import Nll
from jaxgen.generation.cache import CacheWindow, Recall, empty_window, read_tokens
from jaxgen.types import Array, Bool, Float, Int, PyTree

THETAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Settings to choose from; a lambda of 0 says that the cache is of no use."""

Read = Callable[[Any, Any, Any], tuple[Any, Array, Array]]
"""`read(params, carry, batch) -> (carry, nll[B, T], hidden[B, T, H])`."""
Batches = Callable[[], Iterable[Mapping[str, Any]]]
"""Gives the batches of one text from its beginning, see `jaxgen.data.streams.evaluation_batches`:
row by row stretches that follow one another in the text."""


class CacheNll(NamedTuple):
    """What a text costs, for each theta and lambda of a grid."""

    plain: Nll
    """Under the model alone."""
    thetas: tuple[float, ...]
    lambdas: tuple[float, ...]
    totals: Float[np.ndarray, "thetas lambdas"]
    """Nats of the whole text."""

    @property
    def best(self) -> tuple[float, float]:
        """The theta and the lambda of the fewest nats."""
        row, column = np.unravel_index(np.argmin(self.totals), self.totals.shape)
        return self.thetas[row], self.lambdas[column]

    def at(self, theta: float, lambda_: float) -> Nll:
        """Under one setting of the grid."""
        place = self.thetas.index(theta), self.lambdas.index(lambda_)
        return Nll(float(self.totals[place]), self.plain.count)


def cache_nll(
    read: Read,
    params: PyTree,
    carry: PyTree,
    batches: Batches,
    window: int,
    thetas: Sequence[float] = THETAS,
    lambdas: Sequence[float] = LAMBDAS,
) -> CacheNll:
    """Measure a text with a cache of the last `window` tokens, exactly.

    Args:
        read: The model.
        params: Its parameters.
        carry: Its state before the first token of each row.
        batches: The text, read twice.
        window: Tokens to remember; they may be of an earlier row.
        thetas: To measure, each with each lambda.
        lambdas: Likewise.

    Returns:
        Sums over the text. Those of one batch are float32, those over batches float64.
    """
    grid = jnp.array(thetas, jnp.float32), jnp.array(lambdas, jnp.float32)

    def remember(params: PyTree, state: tuple, batch: Any) -> tuple[tuple, Array, Recall]:
        carry, pairs = state
        carry, nll, hidden = read(params, carry, batch)
        inputs = batch["tokens"][:, :-1]
        pairs, recall = read_tokens(pairs, hidden, inputs, batch["mask"], window)
        return (carry, pairs), nll, recall

    def pass_by(params: PyTree, state: tuple, batch: Any) -> tuple:
        return remember(params, state, batch)[0]

    def measure(params: PyTree, state: tuple, batch: Any) -> tuple[tuple, tuple[Array, Array]]:
        state, nll, recall = remember(params, state, batch)
        targets, mask = batch["tokens"][:, 1:], batch["mask"]
        mixed = mixed_nll(nll, recall, targets, mask, *grid)
        return state, (jnp.where(mask, nll, 0).sum(), mixed)

    # The state is the caller's in the first step, and so large that no later one copies it.
    pass_by, measure = (jax.jit(step, donate_argnums=1) for step in (pass_by, measure))
    first = next(iter(batches()))
    hidden = jax.eval_shape(read, params, carry, first)[2]
    rows, length = first["mask"].shape
    state = (jax.tree.map(jnp.copy, carry), empty_window(rows, window + length - 1, hidden))
    for batch in batches():
        state = pass_by(params, state, batch)
    state = (jax.tree.map(jnp.copy, carry), continued(state[1], first["tokens"][:, 0]))
    plain, totals, count = 0.0, np.zeros((len(thetas), len(lambdas))), 0
    for batch in batches():
        state, (nll, mixed) = measure(params, state, batch)
        plain += float(nll)
        totals += np.asarray(mixed, np.float64)
        count += int(batch["mask"].sum())
    return CacheNll(Nll(plain, count), tuple(thetas), tuple(lambdas), totals)


def mixed_nll(
    nll: Float[Array, "B T"],
    recall: Recall,
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    thetas: Float[Array, "N"],
    lambdas: Float[Array, "M"],
) -> Float[Array, "N M"]:
    """Sums of nats under model and cache together; without an entry the model speaks alone."""
    hit = recall.tokens[:, None] == targets[..., None]

    def at(theta: Array) -> Array:
        weights = recall.weights(theta)
        total = weights.sum(axis=-1)
        cache = jnp.log(jnp.where(hit, weights, 0).sum(axis=-1)) - jnp.log(total)
        shares = lambdas[:, None, None]
        both = jnp.logaddexp(jnp.log1p(-shares) - nll, jnp.log(shares) + cache)
        return jnp.where(mask, jnp.where(total > 0, -both, nll), 0).sum(axis=(1, 2))

    return jax.lax.map(at, thetas)


def continued(ends: CacheWindow, first_tokens: Int[np.ndarray, " B"]) -> CacheWindow:
    """What each row begins with: the last pairs of all rows before it, which it goes on from.

    Args:
        ends: What each row, begun with nothing, ends with.
        first_tokens: The first that each row reads, which makes a pair with the end of the last.
    """
    keys, tokens, hidden, read = (np.asarray(x) for x in ends)
    size = keys.shape[1]
    starts = [np.zeros_like(x) for x in (keys, tokens, hidden, read)]
    past_keys, past_tokens = keys[0, :0], tokens[0, :0]
    for row in range(1, len(keys)):
        before = row - 1
        pairs = max(int(read[before]) - 1, 0)
        order = np.arange(max(pairs - size, 0), pairs) % size
        joint = slice(max(before, 1), before + 1)  # nothing comes before the first row
        past_keys = np.concatenate(
            [past_keys, hidden[joint.start - 1 : before], keys[before, order]]
        )[-size:]
        past_tokens = np.concatenate([past_tokens, first_tokens[joint], tokens[before, order]])[
            -size:
        ]
        starts[0][row, : len(past_keys)] = past_keys
        starts[1][row, : len(past_tokens)] = past_tokens
        starts[2][row] = hidden[before]
        starts[3][row] = len(past_keys) + 1
    return CacheWindow(*(jnp.array(x) for x in starts))

"""`roll_out`: several ends of a text from each of its prefixes, all in one loop over time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.generation.decoding import StepFn, prepared, select_rows
from jaxgen.generation.draw import Noise, draw, noise
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Int, PyTree


def roll_out(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    start: Int[Array, "B"],
    tokens: Int[Array, "B T"],
    keys: Array,
) -> Int[Array, "P N B T"]:
    """Write the rest of each text anew, N times from each of its prefixes, at temperature 1.

    A prefix of p tokens leaves T - p steps, so one of p and one of T - p tokens take T steps
    together: they share a row of the loop, one after the other, and no step is made in vain.

    Args:
        step_fn: the model, see `jaxgen.generate`.
        params: its parameters.
        carry: its state before the start token; every leaf has the batch first.
        start: the token before the text.
        tokens: texts of T tokens, at least 2.
        keys: [T - 1, N, B], one a text that is made. The result is what `jaxgen.generate` gives
            with them after each prefix, one by one.

    Returns:
        Texts whose first p tokens are those of the given ones, for p = 1 to P = T - 1.
    """
    params = prepared(step_fn, params)
    T, N = tokens.shape[1], keys.shape[1]
    slots = np.arange(T // 2)
    first, second = slots + 1, T - 1 - slots  # lengths of prefixes; both are T / 2 in the last
    states = _after_prefixes(step_fn, params, carry, start, tokens)

    def rows(tree: PyTree, lengths: np.ndarray) -> PyTree:
        """Of leaves [T - 1, B, ...], those of some prefixes, as rows [slots * N * B, ...]."""

        def spread(x: Array) -> Array:
            x = x[lengths - 1][:, None]
            x = jnp.broadcast_to(x, (len(lengths), N, *x.shape[2:]))
            return x.reshape(-1, *x.shape[3:])

        return jax.tree.map(spread, tree)

    each = N * tokens.shape[0]
    steps = np.broadcast_to(np.arange(T)[:, None], (T, len(slots)))
    turned = np.repeat(steps >= T - first, each, axis=1)
    sampling = SamplingParams()
    uniforms = [
        noise(
            keys[lengths - 1].reshape(-1),
            jnp.asarray(np.repeat(np.maximum(counted, 0), each, axis=1), jnp.int32),
            sampling,
        ).uniforms
        for lengths, counted in ((first, steps), (second, steps - (T - first)))
    ]
    both = jnp.where(turned[..., None], uniforms[1], uniforms[0])
    settings, next_state = sampling.rows(turned.shape[1]), rows(states, second)

    def step(state: tuple[PyTree, Array], now: tuple) -> tuple[tuple[PyTree, Array], Array]:
        turns, uniforms = now
        carry, token = select_rows(turns, next_state, state)
        carry, logits = step_fn(params, carry, token)
        token = draw(logits.astype(jnp.float32), settings, Noise(uniforms, None))
        token = jnp.maximum(token, 0)  # -1 where the parameters are no numbers any more
        return (carry, token), token

    turns = np.repeat(steps == T - first, each, axis=1)
    _, drawn = jax.lax.scan(step, rows(states, first), (jnp.asarray(turns), both))
    return _in_place(tokens, drawn.reshape(T, len(slots), N, -1))


def _after_prefixes(
    step_fn: StepFn, params: PyTree, carry: PyTree, start: Array, tokens: Array
) -> tuple[PyTree, Array]:
    """For prefixes of 1 to T - 1 tokens: the state after all but the last one, and that one."""

    def step(carry: PyTree, token: Array) -> tuple[PyTree, PyTree]:
        carry, _ = step_fn(params, carry, token)
        return carry, carry

    line = tokens.T
    _, carries = jax.lax.scan(step, carry, jnp.concatenate([start[None], line[:-2]]))
    return carries, line[:-1]


def _in_place(tokens: Int[Array, "B T"], drawn: Int[Array, "T S N B"]) -> Array:
    """What was drawn, behind the prefix that it continues: [P, N, B, T]."""
    T = tokens.shape[1]
    place = np.arange(T)
    lengths = np.arange(1, T)[:, None]
    is_first = lengths <= T // 2
    step = np.where(is_first, np.maximum(place - lengths, 0), place)
    slot = np.where(is_first, lengths - 1, T - lengths - 1)
    continued: Any = jnp.moveaxis(drawn[step, slot], 1, -1)
    return jnp.where(place >= lengths[:, None, None], continued, tokens)

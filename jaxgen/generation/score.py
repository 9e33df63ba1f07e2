"""How likely a given text is under a model."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.checks import check_inputs
from jaxgen.generation.decoding import PrefillFn, StepFn, prepared, select_rows
from jaxgen.types import Array, Float, PyTree


class Score(NamedTuple):
    """Log-probabilities of a text's tokens."""

    logprobs: Float[Array, "B T-1"]
    """Nats; of each token but the first, given those before it. 0 at padding; NaN where the logits
    have no softmax (NaN or +inf among them)."""
    carry: PyTree
    """The state after all tokens but the last, as a prompt of one token continues it."""


def score(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    tokens: Any,
    lengths: Any = None,
    *,
    prefill_fn: PrefillFn | None = None,
) -> Score:
    """Log-probabilities of given texts.

    Args:
        step_fn: as in `generate`.
        params: its parameters.
        carry: the state before the texts, as in `generate`.
        tokens: Int[B, T], right-padded; the first of a row is its context and is not scored.
        lengths: Int[B], 1 or more; None: all T.
        prefill_fn: as in `generate`: the texts are then read in one pass.

    Raises:
        UserError: for tokens or lengths of the wrong shape, or a `step_fn` that breaks its
            contract.
    """
    tokens, lengths, _ = check_inputs(step_fn, params, carry, tokens, lengths)
    return score_checked(params, carry, tokens, lengths, step_fn=step_fn, prefill_fn=prefill_fn)


@partial(jax.jit, static_argnames=("step_fn", "prefill_fn"))
def score_checked(
    params: PyTree,
    carry: PyTree,
    tokens: Array,
    lengths: Array,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
) -> Score:
    """`score` without its checks."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    mask = jnp.arange(1, tokens.shape[1]) < lengths[:, None]

    def of(logits: Array, targets: Array) -> Array:
        logits = logits.astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        return jnp.where(normaliser < jnp.inf, chosen - normaliser, jnp.nan)

    if inputs.shape[1] == 0:
        return Score(jnp.zeros(inputs.shape, jnp.float32), carry)
    if prefill_fn is not None:
        carry, logits = prefill_fn(params, carry, inputs, mask)
        return Score(jnp.where(mask, of(logits, targets), 0), carry)
    params = prepared(step_fn, params)

    def step(carry: PyTree, now: tuple[Array, Array, Array]) -> tuple[PyTree, Array]:
        token, target, real = now
        after, logits = step_fn(params, carry, token)
        return select_rows(~real, carry, after), jnp.where(real, of(logits, target), 0)

    carry, logprobs = jax.lax.scan(step, carry, (inputs.T, targets.T, mask.T))
    return Score(logprobs.T, carry)

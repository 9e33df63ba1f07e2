"""The model under a beam search: prompts read, log-probabilities, bans, the rows of the beams."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.generation.decoding import (
    DecodeState,
    PrefillFn,
    StepFn,
    init_state,
    prefill,
    take_rows,
)
from jaxgen.generation.largest import peak_of
from jaxgen.generation.penalties import (
    Bans,
    PenaltyState,
    make_bans,
    penalise,
    update_penalty_state,
)
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree


def log_probabilities(logits: Float[Array, "N V"]) -> tuple[Array, Bool[Array, "N"]]:
    """Natural log-probabilities, and which rows have none (NaN or +inf logits): -inf there."""
    logits = logits.astype(jnp.float32)
    broken = ~(peak_of(logits) < jnp.inf)
    logprobs = jax.nn.log_softmax(jnp.where(broken[:, None], 0, logits))
    return jnp.where(broken[:, None], -jnp.inf, logprobs), broken


class Constraints:
    """The bans of a search, one value for each of its B * K texts."""

    def __init__(self, sampling: SamplingParams, batch: int, beams: int, vocab_size: int):
        """Repeat the settings of each row for its beams; make the masks once."""
        spread = jnp.repeat(jnp.arange(batch), beams)
        self.sampling: SamplingParams = take_rows(sampling.rows(batch), spread)
        self.bans: Bans = make_bans(self.sampling, vocab_size)

    @property
    def may_end_texts(self) -> bool:
        """Whether there may be a text that no token may continue."""
        sampling = self.sampling
        return sampling.no_repeat_ngram is not None or sampling.banned_tokens is not None

    def __call__(
        self, logprobs: Float[Array, "N V"], penalties: PenaltyState, step: Int[Array, ""]
    ) -> Float[Array, "N V"]:
        """The log-probabilities with -inf where a token may not come."""
        length = jnp.full(logprobs.shape[:1], step)
        return jax.vmap(penalise)(logprobs, self.sampling, penalties, self.bans, length)


def prefill_beams(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    constraints: SamplingParams,
    prefill_fn: PrefillFn | None,
    beams: int,
    count: int,
) -> DecodeState:
    """The state after each prompt, `beams` times a row, for texts of up to `count` tokens."""
    window = tokens.shape[1] + count
    state = init_state(step_fn, params, carry, lengths, constraints, window)
    state = prefill(step_fn, params, state, tokens, lengths, prefill_fn, fresh=True)
    return take_rows(state, jnp.repeat(jnp.arange(tokens.shape[0]), beams))


def add_tokens(penalties: PenaltyState, tokens: Int[Array, "N"]) -> PenaltyState:
    """What the bans need to know after one more token of each text."""
    return jax.vmap(partial(update_penalty_state, generated=True))(penalties, tokens)


def parent_rows(parents: Int[Array, "B K"]) -> Int[Array, "BK"]:
    """Rows of the B * K texts that the new beams continue."""
    batch, beams = parents.shape
    return (parents + jnp.arange(batch)[:, None] * beams).reshape(-1)


def continued(before: PyTree, after: PyTree, rows: Int[Array, "BK"]) -> PyTree:
    """The carry of the texts that the new beams continue.

    What a step hands on as it got it, such as what it attends to, is not moved: the beams of a row
    begin alike, so that it is the same for all of them.
    """

    def take(old: Array, new: Array) -> Array:
        return new if new is old or jnp.ndim(new) == 0 else new[rows]

    return jax.tree.map(take, before, after)

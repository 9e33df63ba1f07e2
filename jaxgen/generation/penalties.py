"""What is done to the logits before the temperature: penalties on earlier tokens, and bans."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int


class PenaltyState(NamedTuple):
    """What penalties and bans need to know of the text so far; None where no setting asks."""

    seen: Bool[Array, "*B V"] | None = None
    """Tokens of the prompt and the text."""
    counts: Int[Array, "*B V"] | None = None
    """How often each token was generated."""
    history: Int[Array, "*B W"] | None = None
    """The last W tokens, right-aligned; -1 where there is none."""
    runs: Int[Array, "*B W"] | None = None
    """How many tokens before each place of the history equal the last ones of the text."""


class Bans(NamedTuple):
    """Token lists as masks over the vocabulary, made once before the loop."""

    banned: Float[Array, "*B V"] | None = None
    stops: Bool[Array, "*B V"] | None = None


def init_penalty_state(
    sampling: SamplingParams, vocab_size: int, window: int, batch_size: int
) -> PenaltyState:
    """The state of texts that have not begun; it looks `window` tokens back for n-grams."""

    def full(size: int, value: int) -> Array:
        return jnp.full((batch_size, size), value, jnp.int32)

    penalised = sampling.presence_penalty is not None or sampling.frequency_penalty is not None
    ngrams = sampling.no_repeat_ngram is not None
    return PenaltyState(
        seen=full(vocab_size, 0) > 0 if sampling.repetition_penalty is not None else None,
        counts=full(vocab_size, 0) if penalised else None,
        history=full(window, -1) if ngrams else None,
        runs=full(window, 0) if ngrams else None,
    )


def update_penalty_state(
    state: PenaltyState, token: Int[Array, ""], generated: bool
) -> PenaltyState:
    """One row's state after one more token; a negative token changes nothing."""
    seen, counts, history, runs = state
    real = token >= 0
    if seen is not None:
        seen = seen.at[jnp.where(real, token, seen.shape[0])].set(True, mode="drop")
    if counts is not None and generated:
        counts = counts.at[jnp.where(real, token, counts.shape[0])].add(1, mode="drop")
    if history is not None and runs is not None:
        shifted = jnp.concatenate([history[1:], token[None]])
        before = jnp.concatenate([jnp.full((1,), -1, jnp.int32), shifted[:-1]])
        # A place moves left as the history does, and so does the one before it: its run, which
        # grows out of that one's, stays where it is.
        grown = jnp.where(before == token, runs + 1, 0)
        history, runs = jnp.where(real, shifted, history), jnp.where(real, grown, runs)
    return PenaltyState(seen, counts, history, runs)


def update_with_prompt(
    state: PenaltyState, tokens: Int[Array, "B P"], real: Bool[Array, "B P"]
) -> PenaltyState:
    """The state after a stretch of prompt; `real` is False at padding."""
    seen = state.seen
    tokens = jnp.where(real, tokens, -1)
    if seen is not None:
        rows = jnp.arange(tokens.shape[0])[:, None]
        seen = seen.at[rows, jnp.where(real, tokens, seen.shape[1])].set(True, mode="drop")
    state = state._replace(seen=seen)
    if state.history is None:
        return state

    def one(ngrams: PenaltyState, token: Array) -> tuple[PenaltyState, None]:
        return jax.vmap(partial(update_penalty_state, generated=False))(ngrams, token), None

    ngrams = PenaltyState(history=state.history, runs=state.runs)
    ngrams, _ = jax.lax.scan(one, ngrams, tokens.T)
    return state._replace(history=ngrams.history, runs=ngrams.runs)


def make_bans(sampling: SamplingParams, vocab_size: int) -> Bans:
    """Masks of the token lists of all rows."""

    def mask(tokens: Array | None) -> Array | None:
        return None if tokens is None else jax.vmap(lambda row: _mask(row, vocab_size))(tokens)

    stops = None if sampling.min_new_tokens is None else mask(sampling.stop_tokens)
    banned = mask(sampling.banned_tokens)
    return Bans(None if banned is None else jnp.where(banned, -jnp.inf, 0.0), stops)


def _mask(tokens: Int[Array, "K"], vocab_size: int) -> Bool[Array, "V"]:
    places = jnp.where(tokens >= 0, tokens, vocab_size)
    return jnp.zeros(vocab_size, bool).at[places].set(True, mode="drop")


def penalise(
    logits: Float[Array, "V"],
    sampling: SamplingParams,
    state: PenaltyState,
    bans: Bans,
    length: Int[Array, ""] | None = None,
) -> Float[Array, "V"]:
    """One row's logits after penalties and bans, in the order of `transformers`.

    Bans are added, not put in the place of logits: what is no number stays none.

    Args:
        logits: of the next token.
        sampling: the row's settings, scalars.
        state: the row's text so far.
        bans: the row's masks.
        length: tokens generated so far; only `min_new_tokens` asks.
    """
    if state.seen is not None:
        factor = jnp.where(logits < 0, sampling.repetition_penalty, 1 / sampling.repetition_penalty)
        logits = jnp.where(state.seen, logits * factor, logits)
    if state.counts is not None:
        counts = state.counts.astype(logits.dtype)
        if sampling.frequency_penalty is not None:
            logits = logits - sampling.frequency_penalty * counts
        if sampling.presence_penalty is not None:
            logits = logits - sampling.presence_penalty * (counts > 0).astype(logits.dtype)
    if state.history is not None and state.runs is not None:
        ngram = sampling.no_repeat_ngram
        repeats = (state.runs >= ngram - 1) & (ngram > 0)
        ended = _mask(jnp.where(repeats, state.history, -1), logits.shape[0])
        logits = logits + jnp.where(ended, -jnp.inf, 0.0)
    if bans.banned is not None:
        logits = logits + bans.banned
    if bans.stops is not None:
        early = length < sampling.min_new_tokens
        logits = logits + jnp.where(bans.stops & early, -jnp.inf, 0.0)
    return logits

"""Stochastic beam search: texts sampled without replacement (Kool, van Hoof & Welling, 2019)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.beam_model import (
    Constraints,
    add_tokens,
    log_probabilities,
    parent_rows,
    prefill_beams,
)
from jaxgen.generation.checks import check_at_least_one, check_inputs, check_key, row_keys
from jaxgen.generation.decoding import PrefillFn, StepFn, prepared, restricted, take_rows
from jaxgen.generation.largest import top_k
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree


class StochasticBeamOutput(NamedTuple):
    """K different texts of each row, in the order they were drawn."""

    tokens: Int[Array, "B K N"]
    """The stop token included, `pad_id` after it."""
    lengths: Int[Array, "B K"]
    """Tokens of each text; 0 where there are fewer than K texts."""
    logprobs: Float[Array, "B K"]
    """Natural log-probability of each text."""
    gumbels: Float[Array, "B K"]
    """The sampled log-probability plus Gumbel noise that put it in its place, falling. The last is
    the threshold of the importance weights: text k was kept with probability
    `1 - exp(-exp(sampled_logprobs[k] - gumbels[-1]))`."""
    sampled_logprobs: Float[Array, "B K"]
    """Log-probability of each text under what was sampled from: the model with its banned tokens
    left out at every step. Without bans the same as `logprobs`."""


class _Beam(NamedTuple):
    tokens: Int[Array, "*K N"]
    length: Int[Array, "*K"]
    ended: Bool[Array, "*K"]
    logprob: Float[Array, "*K"]
    sampled: Float[Array, "*K"]
    gumbel: Float[Array, "*K"]


def stochastic_beam_search(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    prompt_tokens: Any,
    prompt_lengths: Any = None,
    key: Any = 0,
    *,
    num_samples: int,
    max_new_tokens: int,
    stop_tokens: Any = None,
    min_new_tokens: Any = None,
    banned_tokens: Any = None,
    no_repeat_ngram: Any = None,
    prefill_fn: PrefillFn | None = None,
    bos_id: int | None = None,
    pad_id: int = 0,
) -> StochasticBeamOutput:
    """Sample different texts for each prompt: exactly as drawing one by one without replacement.

    A text is over at its stop token, where no token may continue it, or at `max_new_tokens`. Each
    text's log-probability gets Gumbel noise, and the K largest sums are the sample; the noise of a
    text is that of the best text below it in the tree, drawn from the root down, so that a beam of
    K never misses one of them. A row in which a text meets logits without a softmax (NaN or +inf
    among them) has lengths 0, and NaN for its log-probabilities and noise.

    Args:
        step_fn: as in `generate`; it is called on B * num_samples rows.
        params: its parameters.
        carry: the state before the prompt, as in `generate`.
        prompt_tokens: Int[B, P], right-padded.
        prompt_lengths: Int[B]; None: all P.
        key: a seed or a jax key, folded with the row number; or one key a row.
        num_samples: K.
        max_new_tokens: static.
        stop_tokens: as in `beam_search`, and so are the next three.
        min_new_tokens: see there.
        banned_tokens: see there.
        no_repeat_ngram: see there.
        prefill_fn: as in `generate`.
        bos_id: what an empty prompt starts from.
        pad_id: fills a text after its stop token.

    Raises:
        UserError: for what `generate` refuses.
    """
    check_at_least_one(num_samples=num_samples, max_new_tokens=max_new_tokens)
    constraints = SamplingParams(
        stop_tokens=[-1] if stop_tokens is None else stop_tokens,
        min_new_tokens=min_new_tokens,
        banned_tokens=banned_tokens,
        no_repeat_ngram=no_repeat_ngram,
    )
    tokens, lengths, vocab_size = check_inputs(
        step_fn, params, carry, prompt_tokens, prompt_lengths, bos_id
    )
    constraints.check(tokens.shape[0], vocab_size)
    return _search(
        params,
        carry,
        tokens,
        lengths,
        check_key(key, tokens.shape[0]),
        constraints,
        step_fn=step_fn,
        prefill_fn=prefill_fn,
        shape=(num_samples, max_new_tokens),
        pad_id=pad_id,
    )


@partial(jax.jit, static_argnames=("step_fn", "prefill_fn", "shape", "pad_id"))
def _search(
    params: PyTree,
    carry: PyTree,
    tokens: Array,
    lengths: Array,
    key: Array,
    constraints: SamplingParams,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
    shape: tuple[int, int],
    pad_id: int,
) -> StochasticBeamOutput:
    width, count = shape
    batch = tokens.shape[0]
    keys = row_keys(key, batch)
    start = prefill_beams(
        step_fn, params, carry, tokens, lengths, constraints, prefill_fn, width, count
    )
    params = prepared(step_fn, params)
    vocab_size = jax.eval_shape(step_fn, params, start.carry, start.token)[1].shape[1]
    mask = Constraints(constraints, batch, width, vocab_size)
    stops = constraints.rows(batch).stop_tokens
    root = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, 0)))(keys)
    first = jnp.arange(width) == 0
    beam = _Beam(
        jnp.full((batch, width, count), pad_id, jnp.int32),
        jnp.zeros((batch, width), jnp.int32),
        jnp.zeros((batch, width), bool),
        jnp.where(first, 0.0, -jnp.inf) + jnp.zeros((batch, 1)),
        jnp.where(first, 0.0, -jnp.inf) + jnp.zeros((batch, 1)),
        jnp.where(first, root[:, None], -jnp.inf),
    )

    def advance(state: tuple, step: Array) -> tuple[tuple, None]:
        carry, last, penalties, beam, broken = state
        after, logits = step_fn(params, carry, last)
        logprobs, invalid = log_probabilities(logits)
        live = (beam.gumbel > -jnp.inf) & ~beam.ended
        broken |= (invalid.reshape(live.shape) & live).any(axis=1)
        allowed = mask(logprobs, penalties, step)
        allowed = restricted(step_fn, params, after, allowed).reshape(batch, width, -1)
        logprobs = logprobs.reshape(allowed.shape)
        noise = jax.vmap(
            lambda key: jax.random.gumbel(jax.random.fold_in(key, step + 1), logprobs.shape[1:])
        )(keys)
        expand = partial(_expand, step=step, banned=banned)
        beam, parent, last = jax.vmap(expand)(beam, logprobs, allowed, noise, stops)
        after, penalties = take_rows((after, penalties), parent_rows(parent))
        last = last.reshape(-1)
        return (after, last, add_tokens(penalties, last), beam, broken), None

    bans = (constraints.banned_tokens, constraints.no_repeat_ngram, constraints.min_new_tokens)
    banned = any(setting is not None for setting in (*bans, getattr(step_fn, "restrict", None)))
    state = (start.carry, start.token, start.penalties, beam, jnp.zeros((batch,), bool))
    (_, _, _, beam, broken), _ = jax.lax.scan(advance, state, jnp.arange(count))
    return _drawn(beam, broken[:, None], pad_id)


def _drawn(beam: _Beam, broken: Bool[Array, "B 1"], pad_id: int) -> StochasticBeamOutput:
    """The texts of the last beam, as they are given out."""
    drawn = beam.gumbel > -jnp.inf
    length = jnp.where(drawn & ~broken, beam.length, 0)
    tokens = jnp.where(jnp.arange(beam.tokens.shape[-1]) < length[..., None], beam.tokens, pad_id)
    logprob, sampled = (jnp.where(drawn, x, -jnp.inf) for x in (beam.logprob, beam.sampled))
    numbers = (jnp.where(broken, jnp.nan, x) for x in (logprob, beam.gumbel, sampled))
    return StochasticBeamOutput(tokens, length, *numbers)


def _expand(
    beam: _Beam,
    logprobs: Float[Array, "K V"],
    allowed: Float[Array, "K V"],
    noise: Float[Array, "K V"],
    stops: Int[Array, "S"],
    *,
    step: Array,
    banned: bool,
) -> tuple[_Beam, Int[Array, "K"], Int[Array, "K"]]:
    """One row's beam, one token longer where it has not ended.

    `allowed` are the log-probabilities with -inf at banned tokens; `banned` is False where there
    can be none.
    """
    width, vocab_size = logprobs.shape
    logprob, sampled = beam.logprob[:, None] + logprobs, beam.sampled[:, None] + allowed
    if banned:
        rest = jax.nn.logsumexp(allowed, axis=1, keepdims=True)
        exhausted = rest == -jnp.inf
        sampled -= jnp.where(exhausted, 0, rest)
        beam = beam._replace(ended=beam.ended | exhausted[:, 0])
    gumbel = _below(beam.gumbel, sampled + noise)
    # A text that has ended goes on as itself, in the place of its first child.
    itself = jnp.arange(vocab_size) == 0
    stays = jnp.where(itself, beam.gumbel[:, None], -jnp.inf)
    gumbel = jnp.where(beam.ended[:, None], stays, gumbel)
    gumbels, place = top_k(gumbel.reshape(-1), width)
    parent, token = place // vocab_size, place % vocab_size
    old = jax.tree.map(lambda x: x[parent], beam)
    tokens = old.tokens.at[:, step].set(jnp.where(old.ended, old.tokens[:, step], token))
    return (
        _Beam(
            tokens,
            jnp.where(old.ended, old.length, old.length + 1),
            old.ended | (token[:, None] == stops).any(axis=1),
            jnp.where(old.ended, old.logprob, logprob.reshape(-1)[place]),
            jnp.where(old.ended, old.sampled, sampled.reshape(-1)[place]),
            gumbels,
        ),
        parent,
        token,
    )


def _below(top: Float[Array, "K"], gumbel: Float[Array, "K V"]) -> Float[Array, "K V"]:
    """Gumbels given that the largest of each row is `top` (appendix B.3 of the paper)."""
    largest = gumbel.max(axis=1, keepdims=True)
    top = top[:, None]
    gap = jnp.log1p(-jnp.exp(jnp.minimum(gumbel - largest, 0)))
    v = top - gumbel + gap
    bounded = top - jnp.maximum(v, 0) - jnp.log1p(jnp.exp(-jnp.abs(v)))
    bounded = jnp.where(gumbel == largest, top, bounded)
    return jnp.where((top > -jnp.inf) & (gumbel > -jnp.inf), bounded, -jnp.inf)

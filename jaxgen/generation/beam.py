"""Beam search over a step function: length and coverage penalties, n best, diverse groups."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.beam_model import (
    Constraints,
    add_tokens,
    continued,
    log_probabilities,
    parent_rows,
    prefill_beams,
)
from jaxgen.generation.checks import check_at_least_one, check_inputs
from jaxgen.generation.coverage import CoverageStep, check_attends, log_coverage, start_coverage
from jaxgen.generation.decoding import (
    DecodeState,
    PrefillFn,
    StepFn,
    prepared,
    restricted,
    take_rows,
)
from jaxgen.generation.hypotheses import Hypotheses, Ranking, best, is_done, one_step, without
from jaxgen.generation.penalties import PenaltyState, make_bans
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree


class BeamOutput(NamedTuple):
    """The K best texts of each row, best first."""

    tokens: Int[Array, "B K N"]
    """The stop token included, `pad_id` after it."""
    lengths: Int[Array, "B K"]
    """Tokens of each text; 0 where there are fewer than K texts."""
    scores: Float[Array, "B K"]
    """What they are ranked by: `logprobs` over the length penalty, less that of the coverage."""
    logprobs: Float[Array, "B K"]
    """Natural log-probability of each text."""
    token_logprobs: Float[Array, "B K N"]
    """That of each token, 0 after the end."""


class _State(NamedTuple):
    step: Int[Array, ""]
    carry: PyTree
    last: Int[Array, "BGK"]
    penalties: PenaltyState
    """[B * G * K, ...], what the ban of n-grams needs to know."""
    running: Hypotheses
    """[B, G, K], longer by one token each step; none in a group whose search is over, so that what
    a row finds does not depend on the rest of the batch."""
    ended: Hypotheses
    """[B, G, K], the best that met a stop token, or that no token may continue."""
    num_ended: Int[Array, "B G"]
    """Texts that have ended, the kept ones and others."""
    broken: Bool[Array, "B"]
    """Rows in which a running text met logits without a softmax."""


def beam_search(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    prompt_tokens: Any,
    prompt_lengths: Any = None,
    *,
    num_beams: int,
    max_new_tokens: int,
    stop_tokens: Any = None,
    min_new_tokens: Any = None,
    banned_tokens: Any = None,
    no_repeat_ngram: Any = None,
    length_penalty: Any = 1.0,
    length_offset: Any = 0.0,
    coverage_penalty: Any = None,
    patience: Any = None,
    num_groups: int = 1,
    diversity_penalty: Any = 0.0,
    prefill_fn: PrefillFn | None = None,
    bos_id: int | None = None,
    pad_id: int = 0,
) -> BeamOutput:
    """The most likely continuations of each prompt that a beam finds.

    A text that meets a stop token, or that no token may continue, leaves the beam and is kept if it
    is among the best; what runs on at the end is ranked with those. The search ends when no running
    text can become better than the worst that is kept. Bans choose among texts and leave their
    probabilities as the model gives them, as in `transformers`. A row in which a running text meets
    logits without a softmax (NaN or +inf among them) has lengths 0, and NaN for its scores and
    log-probabilities.

    Args:
        step_fn: as in `generate`; it is called on B * num_beams rows.
        params: its parameters.
        carry: the state before the prompt, as in `generate`.
        prompt_tokens: Int[B, P], right-padded.
        prompt_lengths: Int[B]; None: all P.
        num_beams: width of the beam over all groups, and number of texts given back.
        max_new_tokens: static.
        stop_tokens: token ids, one list for all rows or one a row; -1 is none. Traced.
        min_new_tokens: no stop token before so many tokens; one number, or one a row. Traced.
        banned_tokens: never chosen; one list for all rows or one a row. Traced.
        no_repeat_ngram: no n-gram twice, prompt included; one number, or one a row; 0 allows it.
            Traced.
        length_penalty: exponent of the length that the log-probability is divided by; above 0
            favours long texts, 0 ranks by probability. Traced.
        length_offset: 0 or more; the length counts as `(offset + length) / (offset + 1)`: 0 is the
            length itself, 5 that of Wu et al. (2016). Traced.
        coverage_penalty: 0 or more; this times `sum_s log(min(c_s, 1))` is added to the score,
            where `c_s` is the attention that the text paid to place s of the source (Wu et al.,
            2016). For a step function that has an `attention` (`jaxgen.generation.coverage`). The
            prompt counts, and is read step by step, without `prefill_fn`. None: none. Traced.
        patience: a group's search also ends when `patience * num_beams / num_groups` texts have
            ended (Kasai et al., 2022; 1 is the common "first come, first served"). A text then
            only ends if it is at least as likely as the least of those that run on. None: it ends
            when nothing better can come. Traced.
        num_groups: groups searched in turn (Vijayakumar et al., 2016); divides `num_beams`.
        diversity_penalty: what a group's choice costs for each beam of the earlier groups that
            chose the same token at this step. It moves the choice only, never the score (in
            `transformers` it stays in the score). Traced.
        prefill_fn: as in `generate`.
        bos_id: what an empty prompt starts from.
        pad_id: fills a text after its stop token.

    Raises:
        UserError: for what `generate` refuses, a width that the groups do not divide, a number out
            of its range, or a coverage penalty for a model without attention.
    """
    check_at_least_one(num_beams=num_beams, max_new_tokens=max_new_tokens)
    if num_groups < 1 or num_beams % num_groups:
        raise UserError(
            f"`num_groups` must divide `num_beams`, {num_beams}, got {num_groups}; 1 is no groups"
        )
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
    if coverage_penalty is not None:
        check_attends(step_fn, params, carry)
    ranking = Ranking(length_penalty, length_offset, coverage_penalty, diversity_penalty, patience)
    check_ranking(ranking)
    return _search(
        params,
        carry,
        tokens,
        lengths,
        constraints,
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), ranking),
        step_fn=step_fn,
        prefill_fn=prefill_fn,
        shape=(num_groups, num_beams // num_groups, max_new_tokens),
        pad_id=pad_id,
    )


def check_ranking(ranking: Ranking) -> None:
    """UserError for a number out of its range, unless it is traced."""
    for name, low in (("length_offset", 0), ("coverage_penalty", 0), ("patience", None)):
        value = getattr(ranking, name)
        if value is None or isinstance(value, jax.core.Tracer):
            continue
        good = np.isfinite(value) and (value > 0 if low is None else value >= low)
        if not good:
            rule = "above 0" if low is None else f"{low} or more"
            raise UserError(f"`{name}` must be {rule}, and finite, got {value}")


@partial(jax.jit, static_argnames=("step_fn", "prefill_fn", "shape", "pad_id"))
def _search(
    params: PyTree,
    carry: PyTree,
    tokens: Array,
    lengths: Array,
    constraints: SamplingParams,
    ranking: Ranking,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
    shape: tuple[int, int, int],
    pad_id: int,
) -> BeamOutput:
    groups, width, count = shape
    batch, beams = tokens.shape[0], groups * width
    attending = None if ranking.coverage_penalty is None else CoverageStep(step_fn)
    if attending is not None:
        carry = start_coverage(step_fn, params, carry)
        step_fn, prefill_fn = attending, None
    start = prefill_beams(
        step_fn, params, carry, tokens, lengths, constraints, prefill_fn, beams, count
    )
    params = prepared(step_fn, params)
    vocab_size = jax.eval_shape(step_fn, params, start.carry, start.token)[1].shape[1]
    mask = Constraints(constraints, batch, beams, vocab_size)
    stops = constraints.rows(batch).stop_tokens
    stop_bans: Any = make_bans(SamplingParams(banned_tokens=stops), vocab_size).banned
    may_end = mask.may_end_texts or getattr(step_fn, "restrict", None) is not None

    def advance(state: _State) -> _State:
        carry, logits = step_fn(params, state.carry, state.last)
        logprobs, broken = log_probabilities(logits)
        allowed = mask(logprobs, state.penalties, state.step)
        allowed = restricted(step_fn, params, carry, allowed).reshape(batch, groups, width, -1)
        cost = jnp.zeros((batch, groups, width))
        if attending is not None and ranking.coverage_penalty is not None:
            cost += log_coverage(attending, params, carry).reshape(cost.shape)
            cost *= ranking.coverage_penalty
        expand = partial(one_step, step=state.step, ranking=ranking, may_end=may_end)
        texts = (state.running, state.ended, allowed, cost, stops, stop_bans)
        running, parents, ended, more = jax.vmap(expand)(*texts)
        last = jax.lax.dynamic_index_in_dim(running.tokens, state.step, 3, keepdims=False)
        last = last.reshape(-1)
        rows = parent_rows(parents.reshape(batch, beams))
        carry = continued(state.carry, carry, rows)
        penalties = take_rows(state.penalties, rows)
        penalties = add_tokens(penalties, last)
        broken = broken.reshape(cost.shape) & (state.running.logprob > -jnp.inf)
        broken = state.broken | broken.any(axis=(1, 2))
        more += state.num_ended
        done = is_done(running, ended, more, count=count, ranking=ranking, may_end=may_end)
        running = without(running, (done | broken[:, None])[..., None])
        return _State(state.step + 1, carry, last, penalties, running, ended, more, broken)

    def goes_on(state: _State) -> Array:
        return (state.step < count) & (state.running.logprob > -jnp.inf).any()

    state = _first_state(start, (batch, *shape), pad_id)
    return _ranked(jax.lax.while_loop(goes_on, advance, state), pad_id)


def _first_state(start: DecodeState, shape: tuple[int, ...], pad_id: int) -> _State:
    """Beams [B, G, K] that all begin alike, so that only the first of a group may count."""
    batch, groups, width, _ = shape
    tokens, numbers = jnp.full(shape, pad_id, jnp.int32), jnp.zeros(shape)

    def blank(logprob: Float[Array, "K"]) -> Hypotheses:
        logprob = jnp.broadcast_to(logprob, shape[:3])
        length = jnp.zeros_like(logprob, jnp.int32)
        return Hypotheses(tokens, numbers, length, logprob, logprob)

    nothing = jnp.full((width,), -jnp.inf)
    running, ended = blank(nothing.at[0].set(0)), blank(nothing)
    count, broken = jnp.zeros((batch, groups), jnp.int32), jnp.zeros((batch,), bool)
    read = (start.carry, start.token, start.penalties)
    return _State(jnp.int32(0), *read, running, ended, count, broken)


def _ranked(state: _State, pad_id: int) -> BeamOutput:
    """The best of what ended and of what still runs on, over all groups of a row."""
    batch, groups, width, count = state.running.tokens.shape
    beams = groups * width
    pool = (state.ended, state.running)
    found = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), *pool)
    found = jax.vmap(jax.vmap(partial(best, width=width)))(found)
    found = jax.tree.map(lambda x: x.reshape(batch, beams, *x.shape[3:]), found)
    found = jax.vmap(partial(best, width=beams))(found)
    broken, free = state.broken[:, None], found.score == -jnp.inf
    length = jnp.where(free | broken, 0, found.length)
    said = jnp.arange(count) < length[..., None]
    tokens = jnp.where(said, found.tokens, pad_id)
    token_logprobs = jnp.where(said, found.token_logprobs, 0)
    score, logprob = (jnp.where(broken, jnp.nan, x) for x in (found.score, found.logprob))
    return BeamOutput(tokens, length, score, logprob, token_logprobs)

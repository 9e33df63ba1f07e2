"""Beam search over a step function: length penalty, n best, diverse groups."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.generation.checks import check_at_least_one, check_inputs
from jaxgen.generation.decoding import (
    DecodeState,
    PrefillFn,
    StepFn,
    init_state,
    prefill,
    prepared,
    restricted,
    take_rows,
)
from jaxgen.generation.draw import top_k
from jaxgen.generation.penalties import (
    Bans,
    PenaltyState,
    make_bans,
    penalise,
    update_penalty_state,
)
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree


class BeamOutput(NamedTuple):
    """The K best texts of each row, best first."""

    tokens: Int[Array, "B K N"]
    """The stop token included, `pad_id` after it."""
    lengths: Int[Array, "B K"]
    """Tokens of each text; 0 where there are fewer than K texts."""
    scores: Float[Array, "B K"]
    """What they are ranked by: `logprobs / lengths ** length_penalty`."""
    logprobs: Float[Array, "B K"]
    """Natural log-probability of each text."""


class _Texts(NamedTuple):
    """Hypotheses of one group of one row, or of all; -inf marks a free place."""

    tokens: Int[Array, "*K N"]
    length: Int[Array, "*K"]
    logprob: Float[Array, "*K"]
    score: Float[Array, "*K"]


class _State(NamedTuple):
    step: Int[Array, ""]
    carry: PyTree
    last: Int[Array, "BGK"]
    penalties: PenaltyState
    """[B * G * K, ...], what the ban of n-grams needs to know."""
    running: _Texts
    """[B, G, K], longer by one token each step."""
    ended: _Texts
    """[B, G, K], the best that met a stop token, or that no token may continue."""
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
        num_groups: groups searched in turn (Vijayakumar et al., 2016); divides `num_beams`.
        diversity_penalty: what a group's choice costs for each beam of the earlier groups that
            chose the same token at this step. It moves the choice only, never the score (in
            `transformers` it stays in the score). Traced.
        prefill_fn: as in `generate`.
        bos_id: what an empty prompt starts from.
        pad_id: fills a text after its stop token.

    Raises:
        UserError: for what `generate` refuses, or a width that the groups do not divide.
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
    return _search(
        params,
        carry,
        tokens,
        lengths,
        constraints,
        jnp.asarray(length_penalty, jnp.float32),
        jnp.asarray(diversity_penalty, jnp.float32),
        step_fn=step_fn,
        prefill_fn=prefill_fn,
        shape=(num_groups, num_beams // num_groups, max_new_tokens),
        pad_id=pad_id,
    )


@partial(jax.jit, static_argnames=("step_fn", "prefill_fn", "shape", "pad_id"))
def _search(
    params: PyTree,
    carry: PyTree,
    tokens: Array,
    lengths: Array,
    constraints: SamplingParams,
    length_penalty: Array,
    diversity_penalty: Array,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
    shape: tuple[int, int, int],
    pad_id: int,
) -> BeamOutput:
    groups, width, count = shape
    batch, beams = tokens.shape[0], groups * width
    start = prefill_beams(
        step_fn, params, carry, tokens, lengths, constraints, prefill_fn, beams, count
    )
    params = prepared(step_fn, params)
    vocab_size = jax.eval_shape(step_fn, params, start.carry, start.token)[1].shape[1]
    mask = Constraints(constraints, batch, beams, vocab_size)
    stops = constraints.rows(batch).stop_tokens
    stop_bans: Any = make_bans(SamplingParams(banned_tokens=stops), vocab_size).banned
    may_end = mask.may_end_texts or getattr(step_fn, "restrict", None) is not None

    state = _first_state(start, (batch, *shape), pad_id)

    def score(logprob: Array, length: Array | int) -> Array:
        return logprob / jnp.asarray(length, jnp.float32) ** length_penalty

    def cond(state: _State) -> Array:
        best = state.running.logprob.max(axis=-1)
        # The best that a running text can come to: no more loss, and the length that favours it.
        soonest = jnp.maximum(state.step, 1) if may_end else state.step + 1
        bound = jnp.maximum(score(best, count), score(best, soonest))
        better = (bound > state.ended.score.min(axis=-1)).any(axis=1) & ~state.broken
        return (state.step < count) & better.any()

    def advance(state: _State) -> _State:
        carry, logits = step_fn(params, state.carry, state.last)
        logprobs, broken = log_probabilities(logits)
        allowed = mask(logprobs, state.penalties, state.step)
        allowed = restricted(step_fn, params, carry, allowed).reshape(batch, groups, width, -1)
        broken &= (state.running.logprob > -jnp.inf).reshape(-1)
        broken = state.broken | broken.reshape(batch, -1).any(axis=1)
        end = partial(_end, step=state.step, score=score, may_end=may_end)
        ends = jax.vmap(jax.vmap(end, in_axes=(0, 0, 0, None)))
        ended = ends(state.running, state.ended, allowed, stops)
        go_on = partial(_go_on, step=state.step, penalty=diversity_penalty)
        rest = allowed + stop_bans[:, None, None]
        running, parent = jax.vmap(go_on)(state.running, rest)
        last = jax.lax.dynamic_index_in_dim(running.tokens, state.step, 3, keepdims=False)
        rows = parent_rows(parent.reshape(batch, beams))
        carry, penalties = take_rows((carry, state.penalties), rows)
        penalties = add_tokens(penalties, last.reshape(-1))
        return _State(state.step + 1, carry, last.reshape(-1), penalties, running, ended, broken)

    state = jax.lax.while_loop(cond, advance, state)
    running = state.running._replace(score=score(state.running.logprob, state.running.length))
    return _ranked(state._replace(running=running), pad_id)


def _first_state(start: DecodeState, shape: tuple[int, ...], pad_id: int) -> _State:
    """Beams [B, G, K] that all begin alike, so that only the first of a group may count."""
    batch, _, width, _ = shape

    def blank(logprob: Float[Array, "K"]) -> _Texts:
        logprob = jnp.broadcast_to(logprob, shape[:3])
        length = jnp.zeros_like(logprob, jnp.int32)
        return _Texts(jnp.full(shape, pad_id, jnp.int32), length, logprob, logprob)

    nothing = jnp.full((width,), -jnp.inf)
    running, broken = blank(nothing.at[0].set(0)), jnp.zeros((batch,), bool)
    carry, token, penalties = start.carry, start.token, start.penalties
    return _State(jnp.int32(0), carry, token, penalties, running, blank(nothing), broken)


def _ranked(state: _State, pad_id: int) -> BeamOutput:
    """The best of what ended and what runs on, over all groups of a row."""
    batch, groups, width, count = state.running.tokens.shape
    beams = groups * width
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), state.ended, state.running)
    best = jax.vmap(jax.vmap(partial(_best, width=width)))(pool)
    best = jax.tree.map(lambda x: x.reshape(batch, beams, *x.shape[3:]), best)
    best = jax.vmap(partial(_best, width=beams))(best)
    broken = state.broken[:, None]
    length = jnp.where((best.score > -jnp.inf) & ~broken, best.length, 0)
    tokens = jnp.where(jnp.arange(count) < length[..., None], best.tokens, pad_id)
    score_, logprob = (jnp.where(broken, jnp.nan, x) for x in (best.score, best.logprob))
    return BeamOutput(tokens, length, score_, logprob)


def _end(
    running: _Texts,
    ended: _Texts,
    logprobs: Array,
    stops: Array,
    *,
    step: Array,
    score: Any,
    may_end: bool,
) -> _Texts:
    """The ended texts of one group, with those that the stop tokens make.

    With `may_end` also the running texts that no token may continue, as they are.
    """
    width, kinds = running.logprob.shape[0], stops.shape[0]
    logprob = running.logprob[:, None] + jnp.where(stops < 0, -jnp.inf, logprobs[:, stops])
    tokens = jnp.repeat(running.tokens, kinds, axis=0).at[:, step].set(jnp.tile(stops, width))
    logprob = logprob.reshape(-1)
    length = jnp.full(logprob.shape, step + 1)
    pools = [ended, _Texts(tokens, length, logprob, score(logprob, length))]
    if may_end:
        exhausted = (logprobs.max(axis=1) == -jnp.inf) & (step > 0)
        logprob = jnp.where(exhausted, running.logprob, -jnp.inf)
        length = jnp.full(logprob.shape, step)
        rank = score(logprob, jnp.maximum(length, 1))
        pools.append(_Texts(running.tokens, length, logprob, rank))
    return _best(jax.tree.map(lambda *xs: jnp.concatenate(xs), *pools), width)


def _go_on(
    running: _Texts, logprobs: Float[Array, "G K V"], *, step: Array, penalty: Array
) -> tuple[_Texts, Int[Array, "G K"]]:
    """The running texts of one row with their best next tokens, group after group."""
    groups, width, vocab_size = logprobs.shape
    taken = jnp.zeros(vocab_size)
    texts, parents = [], []
    for group in range(groups):
        texts_before = jax.tree.map(lambda x, group=group: x[group], running)
        total = texts_before.logprob[:, None] + logprobs[group]
        _, place = top_k((total - penalty * taken).reshape(-1), width)
        parent, token = place // vocab_size, place % vocab_size
        logprob = total.reshape(-1)[place]
        tokens = texts_before.tokens[parent].at[:, step].set(token)
        length = jnp.full((width,), step + 1)
        texts.append(_Texts(tokens, length, logprob, logprob))
        parents.append(parent + group * width)
        taken = taken.at[token].add(1)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *texts)
    return stacked, jnp.stack(parents)


def _best(pool: _Texts, width: int) -> _Texts:
    """The best of a pool by their scores."""
    _, order = top_k(pool.score, width)
    return jax.tree.map(lambda x: x[order], pool)


def log_probabilities(logits: Float[Array, "N V"]) -> tuple[Array, Bool[Array, "N"]]:
    """Natural log-probabilities, and which rows have none (NaN or +inf logits): -inf there."""
    logits = logits.astype(jnp.float32)
    broken = ~(logits.max(axis=1) < jnp.inf)
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

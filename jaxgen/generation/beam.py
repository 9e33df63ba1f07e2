"""Beam search over a step function: length penalty, n best, diverse groups."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.generation.checks import as_array, check_prompt, check_step_fn
from jaxgen.generation.decoding import PrefillFn, StepFn, init_state, prefill, prepared
from jaxgen.generation.draw import top_k
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Float, Int, PyTree


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
    running: _Texts
    """[B, G, K], longer by one token each step."""
    ended: _Texts
    """[B, G, K], the best that met a stop token."""


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
    length_penalty: Any = 1.0,
    num_groups: int = 1,
    diversity_penalty: Any = 0.0,
    prefill_fn: PrefillFn | None = None,
    bos_id: int | None = None,
    pad_id: int = 0,
) -> BeamOutput:
    """The most likely continuations of each prompt that a beam finds.

    A text that meets a stop token leaves the beam and is kept if it is among the best; what runs
    on at the end is ranked with those. The search ends when no running text can become better than
    the worst that is kept.

    Args:
        step_fn: as in `generate`; it is called on B * num_beams rows.
        params: its parameters.
        carry: the state before the prompt; leaves of leading size B.
        prompt_tokens: Int[B, P], right-padded.
        prompt_lengths: Int[B]; None: all P.
        num_beams: width of the beam over all groups, and number of texts given back.
        max_new_tokens: static.
        stop_tokens: token ids for all rows, -1 is none. Traced.
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
    for name, value in (("num_beams", num_beams), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")
    if num_groups < 1 or num_beams % num_groups:
        raise UserError(
            f"`num_groups` must divide `num_beams`, {num_beams}, got {num_groups}; 1 is no groups"
        )
    prompt_tokens = as_array(prompt_tokens)
    batch_size = prompt_tokens.shape[0] if prompt_tokens.ndim else 1
    vocab_size = check_step_fn(step_fn, params, carry, batch_size)
    tokens, lengths = check_prompt(prompt_tokens, prompt_lengths, bos_id, vocab_size)
    stops = SamplingParams(stop_tokens=[-1] if stop_tokens is None else stop_tokens)
    stops.check(batch_size, vocab_size)
    return _search(
        params,
        carry,
        tokens,
        lengths,
        jnp.asarray(stops.stop_tokens),
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
    stops: Array,
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
    carry, last = prefill_beams(step_fn, params, carry, tokens, lengths, prefill_fn, beams)
    params = prepared(step_fn, params)

    def blank(logprob: Float[Array, "K"]) -> _Texts:
        logprob = jnp.broadcast_to(logprob, (batch, groups, width))
        tokens = jnp.full((batch, groups, width, count), pad_id, jnp.int32)
        return _Texts(tokens, jnp.zeros_like(logprob, jnp.int32), logprob, logprob)

    nothing = jnp.full((width,), -jnp.inf)
    # All beams begin alike, so that only the first may count.
    state = _State(jnp.int32(0), carry, last, blank(nothing.at[0].set(0)), blank(nothing))

    def score(logprob: Array, length: Array | int) -> Array:
        return logprob / jnp.asarray(length, jnp.float32) ** length_penalty

    def cond(state: _State) -> Array:
        best = state.running.logprob.max(axis=-1)
        # The best that a running text can come to, with no more loss and the kinder length.
        bound = jnp.maximum(score(best, count), score(best, state.step + 1))
        return (state.step < count) & (bound > state.ended.score.min(axis=-1)).any()

    def advance(state: _State) -> _State:
        carry, logits = step_fn(params, state.carry, state.last)
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
        logprobs = logprobs.reshape(batch, groups, width, -1)
        end = partial(_end, stops=stops, step=state.step, score=score)
        ended = jax.vmap(jax.vmap(end))(state.running, state.ended, logprobs)
        logprobs = logprobs.at[..., jnp.where(stops < 0, logprobs.shape[-1], stops)].set(
            -jnp.inf, mode="drop"
        )
        go_on = partial(_go_on, step=state.step, penalty=diversity_penalty)
        running, parent = jax.vmap(go_on)(state.running, logprobs)
        last = jax.lax.dynamic_index_in_dim(running.tokens, state.step, 3, keepdims=False)
        carry = take_beams(carry, parent.reshape(batch, beams))
        return _State(state.step + 1, carry, last.reshape(-1), running, ended)

    state = jax.lax.while_loop(cond, advance, state)
    running = state.running._replace(score=score(state.running.logprob, state.running.length))
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), state.ended, running)
    best = jax.vmap(jax.vmap(partial(_best, width=width)))(pool)
    best = jax.tree.map(lambda x: x.reshape(batch, beams, *x.shape[3:]), best)
    best = jax.vmap(partial(_best, width=beams))(best)
    length = jnp.where(best.score > -jnp.inf, best.length, 0)
    tokens = jnp.where(jnp.arange(count) < length[..., None], best.tokens, pad_id)
    return BeamOutput(tokens, length, best.score, best.logprob)


def _end(
    running: _Texts, ended: _Texts, logprobs: Array, *, stops: Array, step: Array, score: Any
) -> _Texts:
    """The ended texts of one group, with those that the stop tokens make."""
    width, kinds = running.logprob.shape[0], stops.shape[0]
    logprob = running.logprob[:, None] + jnp.where(stops < 0, -jnp.inf, logprobs[:, stops])
    tokens = jnp.repeat(running.tokens, kinds, axis=0).at[:, step].set(jnp.tile(stops, width))
    logprob = logprob.reshape(-1)
    length = jnp.full(logprob.shape, step + 1)
    new = _Texts(tokens, length, logprob, score(logprob, length))
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ended, new)
    return _best(pool, width)


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


def prefill_beams(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    prefill_fn: PrefillFn | None,
    count: int,
) -> tuple[PyTree, Int[Array, "BK"]]:
    """The carry after each prompt and its last token, `count` times a row."""
    state = init_state(step_fn, params, carry, lengths, SamplingParams(), 0)
    state = prefill(step_fn, params, state, tokens, lengths, prefill_fn, fresh=True)
    batch = tokens.shape[0]

    def repeat(x: Array) -> Array:
        return jnp.repeat(x, count, axis=0) if jnp.ndim(x) and x.shape[0] == batch else x

    return jax.tree.map(repeat, state.carry), repeat(state.token)


def take_beams(carry: PyTree, parents: Int[Array, "B K"]) -> PyTree:
    """The rows [B * K] of a carry that the new beams continue."""
    batch, beams = parents.shape
    rows = (parents + jnp.arange(batch)[:, None] * beams).reshape(-1)

    def take(x: Array) -> Array:
        return x[rows] if jnp.ndim(x) and x.shape[0] == batch * beams else x

    return jax.tree.map(take, carry)

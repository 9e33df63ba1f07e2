"""Stochastic beam search: texts sampled without replacement (Kool, van Hoof & Welling, 2019)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.generation.beam import prefill_beams, take_beams
from jaxgen.generation.checks import as_array, check_key, check_prompt, check_step_fn, row_keys
from jaxgen.generation.decoding import PrefillFn, StepFn, prepared
from jaxgen.generation.draw import top_k
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
    """The log-probability plus Gumbel noise that put it in its place, falling. The last is the
    threshold of the importance weights: text k was kept with probability
    `1 - exp(-exp(logprobs[k] - gumbels[-1]))`."""


class _Beam(NamedTuple):
    tokens: Int[Array, "*K N"]
    length: Int[Array, "*K"]
    ended: Bool[Array, "*K"]
    logprob: Float[Array, "*K"]
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
    prefill_fn: PrefillFn | None = None,
    bos_id: int | None = None,
    pad_id: int = 0,
) -> StochasticBeamOutput:
    """Sample different texts for each prompt: exactly as drawing one by one without replacement.

    A text is over at its stop token or at `max_new_tokens`. Each text's log-probability gets Gumbel
    noise, and the K largest sums are the sample; the noise of a text is that of the best text below
    it in the tree, drawn from the root down, so that a beam of K never misses one of them.

    Args:
        step_fn: as in `generate`; it is called on B * num_samples rows.
        params: its parameters.
        carry: the state before the prompt; leaves of leading size B.
        prompt_tokens: Int[B, P], right-padded.
        prompt_lengths: Int[B]; None: all P.
        key: a seed or a jax key, folded with the row number; or one key a row.
        num_samples: K.
        max_new_tokens: static.
        stop_tokens: token ids for all rows, -1 is none. Traced.
        prefill_fn: as in `generate`.
        bos_id: what an empty prompt starts from.
        pad_id: fills a text after its stop token.

    Raises:
        UserError: for what `generate` refuses.
    """
    for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")
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
        check_key(key, batch_size),
        jnp.asarray(stops.stop_tokens),
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
    stops: Array,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
    shape: tuple[int, int],
    pad_id: int,
) -> StochasticBeamOutput:
    width, count = shape
    batch = tokens.shape[0]
    keys = row_keys(key, batch)
    carry, last = prefill_beams(step_fn, params, carry, tokens, lengths, prefill_fn, width)
    params = prepared(step_fn, params)
    root = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, 0)))(keys)
    first = jnp.arange(width) == 0
    beam = _Beam(
        jnp.full((batch, width, count), pad_id, jnp.int32),
        jnp.zeros((batch, width), jnp.int32),
        jnp.zeros((batch, width), bool),
        jnp.where(first, 0.0, -jnp.inf) + jnp.zeros((batch, 1)),
        jnp.where(first, root[:, None], -jnp.inf),
    )

    def advance(state: tuple, step: Array) -> tuple[tuple, None]:
        carry, last, beam = state
        after, logits = step_fn(params, carry, last)
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, width, -1)
        noise = jax.vmap(
            lambda key: jax.random.gumbel(jax.random.fold_in(key, step + 1), logprobs.shape[1:])
        )(keys)
        beam, parent, last = jax.vmap(partial(_expand, stops=stops, step=step))(
            beam, logprobs, noise
        )
        return (take_beams(after, parent), last.reshape(-1), beam), None

    (_, _, beam), _ = jax.lax.scan(advance, (carry, last, beam), jnp.arange(count))
    drawn = beam.gumbel > -jnp.inf
    length = jnp.where(drawn, beam.length, 0)
    tokens = jnp.where(jnp.arange(count) < length[..., None], beam.tokens, pad_id)
    logprob = jnp.where(drawn, beam.logprob, -jnp.inf)
    return StochasticBeamOutput(tokens, length, logprob, beam.gumbel)


def _expand(
    beam: _Beam,
    logprobs: Float[Array, "K V"],
    noise: Float[Array, "K V"],
    *,
    stops: Array,
    step: Array,
) -> tuple[_Beam, Int[Array, "K"], Int[Array, "K"]]:
    """One row's beam, one token longer where it has not ended."""
    width, vocab_size = logprobs.shape
    logprob = beam.logprob[:, None] + logprobs
    gumbel = _below(beam.gumbel, logprob + noise)
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

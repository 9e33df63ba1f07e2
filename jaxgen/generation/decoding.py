"""The state of decoding, the prefill of prompts and the loop that generates tokens.

`prefill` reads more prompt into a `DecodeState`, `decode` generates more tokens; both may be called
any number of times. The randomness of a token is a function of its row's key and of its place in
the text, so that any division of a text into calls gives the same text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.draw import Noise, draw, noise, top_k
from jaxgen.generation.one_kernel import one_kernel
from jaxgen.generation.penalties import (
    PenaltyState,
    init_penalty_state,
    make_bans,
    penalise,
    update_penalty_state,
    update_with_prompt,
)
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree

StepFn = Callable[[Any, Any, Array], tuple[Any, Array]]
PrefillFn = Callable[[Any, Any, Array, Array], tuple[Any, Array]]


class DecodeState(NamedTuple):
    """A batch of texts that are being generated."""

    carry: PyTree
    """The model's state after all tokens but the last."""
    token: Int[Array, "B"]
    """The last token, not yet read; -1 before the first."""
    length: Int[Array, "B"]
    """Tokens generated so far."""
    finished: Bool[Array, "B"]
    """Rows that met a stop token, or have no token left that is not banned."""
    step: Int[Array, ""]
    """Place of the next token in the text, counted from the end of the prompt."""
    penalties: PenaltyState
    """What penalties and bans need to know of the text."""


class DecodeOutput(NamedTuple):
    """The tokens that the loop generated."""

    tokens: Int[Array, "B N"]
    """Generated tokens, the stop token included, `pad_id` after it."""
    logprobs: Float[Array, "B N"] | None = None
    """Natural log-probabilities of the tokens under the model itself (before any setting)."""
    top_tokens: Int[Array, "B N n"] | None = None
    """The model's most likely tokens at each place."""
    top_logprobs: Float[Array, "B N n"] | None = None
    """Their log-probabilities."""


def can_end(sampling: SamplingParams) -> bool:
    """Whether a row can finish before the maximum length under these settings.

    By a stop token, or because every token is banned: by n-grams, or by a list whose values are
    traced and so could not be checked.
    """
    unchecked = isinstance(sampling.banned_tokens, jax.core.Tracer)
    return sampling.can_stop or sampling.no_repeat_ngram is not None or unchecked


def init_state(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    like: Int[Array, "B"],
    sampling: SamplingParams,
    window: int,
) -> DecodeState:
    """The state before the first token of the prompts.

    Args:
        step_fn: the model.
        params: its parameters.
        carry: its state before the first token.
        like: any integers, one a row.
        sampling: tells what has to be remembered of the text.
        window: tokens that `no_repeat_ngram` looks back on.
    """
    zero = pvary_like(jnp.zeros(like.shape, jnp.int32), like)
    carry = jax.tree.map(lambda x: pvary_like(x, like), carry)
    _, logits = jax.eval_shape(step_fn, params, carry, zero)
    penalties = init_penalty_state(sampling, logits.shape[1], window, like.shape[0])
    penalties = jax.tree.map(lambda x: pvary_like(x, like), penalties)
    return DecodeState(carry, zero - 1, zero, zero > 0, jnp.int32(0), penalties)


def prefill(
    step_fn: StepFn,
    params: PyTree,
    state: DecodeState,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    prefill_fn: PrefillFn | None = None,
    *,
    fresh: bool = False,
) -> DecodeState:
    """Texts with a stretch of prompt appended; rows of any length from 0 to P, right-padded.

    Only the carry is computed: nobody asks for the logits inside a prompt. `fresh` promises that
    the texts have just begun and that no row is empty, which saves a step.
    """
    places = jnp.arange(tokens.shape[1])
    penalties = update_with_prompt(state.penalties, tokens, places < lengths[:, None])
    line = tokens if fresh else jnp.concatenate([state.token[:, None], tokens], axis=1)
    end = lengths - 1 if fresh else lengths
    last = jnp.take_along_axis(line, end[:, None], axis=1)[:, 0]
    line = line[:, :-1]
    mask = (jnp.arange(line.shape[1]) < end[:, None]) & (line >= 0)
    carry = state.carry
    if line.shape[1]:
        carry = _read_all(step_fn, params, carry, jnp.maximum(line, 0), mask, prefill_fn)
    return state._replace(carry=carry, token=last, penalties=penalties)


def _read_all(
    step_fn: StepFn,
    params: PyTree,
    carry: PyTree,
    tokens: Array,
    mask: Array,
    prefill_fn: PrefillFn | None,
) -> PyTree:
    if prefill_fn is not None:
        return prefill_fn(params, carry, tokens, mask)[0]
    params = prepared(step_fn, params)

    def step(carry: PyTree, now: tuple[Array, Array]) -> tuple[PyTree, None]:
        token, real = now
        return select_rows(~real, carry, step_fn(params, carry, token)[0]), None

    return jax.lax.scan(step, carry, (tokens.T, mask.T))[0]


def decode(
    step_fn: StepFn,
    params: PyTree,
    state: DecodeState,
    keys: Array,
    sampling: SamplingParams,
    *,
    max_new_tokens: int,
    num_steps: Int[Array, ""] | None = None,
    pad_id: int = 0,
    num_logprobs: int | None = None,
    ends: bool = True,
    fused: bool = False,
) -> tuple[DecodeState, DecodeOutput]:
    """Texts with `max_new_tokens` more tokens, or with `num_steps` of them where given (traced).

    With `ends` the loop stops with the last row, and a finished row's carry stays as it is. With
    `fused` it is compiled by `one_kernel`.
    """
    params = prepared(step_fn, params)
    batch_size = state.token.shape[0]
    sampling = sampling.rows(batch_size)
    _, logits = jax.eval_shape(step_fn, params, state.carry, state.token)
    bans = make_bans(sampling, logits.shape[1])
    steps = state.step + jnp.arange(max_new_tokens, dtype=jnp.int32)
    all_noise = noise(keys, steps, sampling)

    def advance(state: DecodeState, noise: Noise) -> tuple[DecodeState, DecodeOutput]:
        carry, logits = step_fn(params, state.carry, state.token)
        logits = logits.astype(jnp.float32)
        changed = jax.vmap(penalise)(logits, sampling, state.penalties, bans, state.length)
        token = draw(changed, sampling, noise)
        if sampling.forced_tokens is not None:
            token = jax.vmap(_force)(token, sampling.forced_tokens, state.length)
        return _append(state, carry, token, logits, sampling, pad_id, num_logprobs, ends)

    def run(state: DecodeState, all_noise: Noise) -> tuple[DecodeState, DecodeOutput]:
        if not ends and num_steps is None:
            return jax.lax.scan(advance, state, all_noise)
        limit = jnp.int32(max_new_tokens) if num_steps is None else num_steps
        return _while(advance, state, all_noise, limit, pad_id, ends)

    state, output = (one_kernel(run) if fused else run)(state, all_noise)
    return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), output)


def _while(
    advance: Callable, state: DecodeState, all_noise: Noise, limit: Array, pad_id: int, ends: bool
) -> tuple[DecodeState, DecodeOutput]:
    """As a scan of `advance`, but only for `limit` steps and until all rows have finished."""

    def noise_at(index: Any) -> Noise:
        take = partial(jax.lax.dynamic_index_in_dim, index=index, keepdims=False)
        return jax.tree.map(take, all_noise)

    shapes = jax.eval_shape(advance, state, noise_at(0))[1]
    count = all_noise.uniforms.shape[0]
    blank = jax.tree.map(lambda of: jnp.zeros((count, *of.shape), of.dtype), shapes)
    buffers = jax.tree.map(lambda x: pvary_like(x, state.token), blank)
    buffers = buffers._replace(tokens=buffers.tokens + pad_id)

    def cond(loop: tuple) -> Array:
        index, state, _ = loop
        more = index < limit
        return more & ~state.finished.all() if ends else more

    def body(loop: tuple) -> tuple:
        index, state, buffers = loop
        state, output = advance(state, noise_at(index))
        put = jax.lax.dynamic_update_index_in_dim
        buffers = jax.tree.map(lambda b, x: put(b, x, index, 0), buffers, output)
        return index + 1, state, buffers

    _, state, buffers = jax.lax.while_loop(cond, body, (jnp.int32(0), state, buffers))
    return state, buffers


def _append(
    state: DecodeState,
    carry: PyTree,
    token: Array,
    logits: Array,
    sampling: SamplingParams,
    pad_id: int,
    num_logprobs: int | None,
    ends: bool,
) -> tuple[DecodeState, DecodeOutput]:
    """The texts with one more token each; finished rows stay as they are."""
    exhausted = token < 0
    silent = state.finished | exhausted if ends else exhausted
    token = jnp.where(silent, state.token, token)
    finished, length = state.finished, state.length + 1
    if ends:
        finished |= exhausted
        if sampling.stop_tokens is not None:
            finished |= (sampling.stop_tokens == token[:, None]).any(axis=1)
        carry = select_rows(state.finished, state.carry, carry)
        length = jnp.where(silent, state.length, length)
    penalties = state.penalties
    if any(part is not None for part in penalties):
        spoken = jnp.where(silent, -1, token)
        update = partial(update_penalty_state, generated=True)
        penalties = jax.vmap(update)(penalties, spoken)
    after = DecodeState(carry, token, length, finished, state.step + 1, penalties)
    shown = jnp.where(silent, pad_id, token)
    return after, _output(shown, token, silent, logits, num_logprobs)


def _output(
    shown: Array, token: Array, silent: Array, logits: Array, num_logprobs: int | None
) -> DecodeOutput:
    if num_logprobs is None:
        return DecodeOutput(shown)
    normaliser = jax.nn.logsumexp(logits, axis=1)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - normaliser
    chosen = jnp.where(silent, 0, chosen)
    if num_logprobs == 0:
        return DecodeOutput(shown, chosen)
    values, tokens = jax.vmap(lambda row: top_k(row, num_logprobs))(logits)
    return DecodeOutput(shown, chosen, tokens, values - normaliser[:, None])


def _force(token: Array, forced: Array, length: Array) -> Array:
    """The forced token of this place, if there is one."""
    if forced.shape[0] == 0:
        return token
    place = jnp.minimum(length, forced.shape[0] - 1)
    return jnp.where((length < forced.shape[0]) & (forced[place] >= 0), forced[place], token)


@dataclass(frozen=True)
class Prepared:
    """A step function for parameters that went through its `prepare` already."""

    step_fn: StepFn

    def __call__(
        self, params: PyTree, carry: PyTree, tokens: Int[Array, "B"]
    ) -> tuple[PyTree, Float[Array, "B V"]]:
        """One step."""
        return self.step_fn(params, carry, tokens)


def prepared(step_fn: StepFn, params: PyTree) -> PyTree:
    """The parameters as the loop wants them: through the step function's `prepare`, if any."""
    prepare = getattr(step_fn, "prepare", None)
    return params if prepare is None else prepare(params)


def select_rows(mask: Bool[Array, "B"], old: PyTree, new: PyTree) -> PyTree:
    """The rows of `old` where the mask is True, else of `new`; of a scalar the new one."""

    def select(old: Array, new: Array) -> Array:
        if jnp.ndim(new) == 0 or jnp.shape(new)[0] != mask.shape[0]:
            return new
        return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return jax.tree.map(select, old, new)


def pvary_like(x: Any, like: Array) -> Any:
    """`x` as varying over the mesh axes that `like` varies over, which `shard_map` asks of a loop.

    The choice between `x` and `x` is one that no compiler keeps.
    """
    return jnp.where(like[0] == 0, x, x)

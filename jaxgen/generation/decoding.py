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

from jaxgen.generation.chosen import Logprobs, forced, logprobs_of
from jaxgen.generation.draw import Noise, draw_or_broken, noise
from jaxgen.generation.forward_only import forward_only
from jaxgen.generation.head_first import Texts, choose_head_first, head_first_of, shortlist_bans
from jaxgen.generation.one_kernel import fuse_loop
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
    """Rows that met a stop token or logits that are no numbers, or whose tokens are all banned."""
    step: Int[Array, "B"]
    """Place of the next token in the text, counted from the end of the prompt."""
    penalties: PenaltyState
    """What penalties and bans need to know of the text."""


class DecodeOutput(NamedTuple):
    """The tokens that the loop generated."""

    tokens: Int[Array, "B N"]
    """Generated tokens, the stop token included, `pad_id` after it; -1 where the logits have no
    softmax (NaN or +inf among them), which ends the row too."""
    logprobs: Float[Array, "B N"] | None = None
    """Natural log-probabilities of the tokens under the model itself (before any setting); NaN
    beside a token -1, 0 after the end."""
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
    carry = jax.tree.map(lambda x: pvary_like(x, like) if jnp.ndim(x) else x, carry)
    _, logits = jax.eval_shape(step_fn, params, carry, zero)
    penalties = init_penalty_state(sampling, logits.shape[1], window, like.shape[0])
    penalties = jax.tree.map(lambda x: pvary_like(x, like), penalties)
    return DecodeState(carry, zero - 1, zero, zero > 0, zero, penalties)


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
    """The state after more prompt; rows of any length from 0 to P, right-padded.

    Only the carry is computed: nobody asks for the logits inside a prompt. `fresh` promises that
    nothing was read before and that no row is empty, which saves a step.
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
    early_exit: bool = True,
) -> tuple[DecodeState, DecodeOutput]:
    """Generate `max_new_tokens` tokens more a row, or `num_steps` of them where given (traced).

    Args:
        step_fn: the model.
        params: its parameters.
        state: from `prefill` or an earlier call.
        keys: one a row, the same in every call for a text.
        sampling: one value for all rows or one a row.
        max_new_tokens: static; size of the output.
        num_steps: tokens to generate, at most `max_new_tokens`.
        pad_id: what follows the end of a row.
        num_logprobs: as in `generate`.
        ends: whether rows are expected to finish: the carry of a finished row then stays as it is
            (scalar leaves, shared by all rows, do not), and the loop stops with the last row.
        early_exit: False makes the loop a `scan` without `num_steps`, for reverse mode.
    """
    params = prepared(step_fn, params)
    batch_size = state.token.shape[0]
    sampling = sampling.rows(batch_size)
    _, logits = jax.eval_shape(step_fn, params, state.carry, state.token)
    bans = make_bans(sampling, logits.shape[1])
    steps = state.step + jnp.arange(max_new_tokens, dtype=jnp.int32)[:, None]
    head_first = head_first_of(step_fn, sampling) if early_exit and not num_logprobs else None
    all_noise = noise(keys, steps, sampling, keyed=head_first is not None)
    near = None if head_first is None else shortlist_bans(head_first.clusters, bans)

    def advance(state: DecodeState, noise: Noise) -> tuple[DecodeState, DecodeOutput]:
        if head_first is not None and near is not None:
            texts = Texts(sampling, state.penalties, bans, state.length, state.finished, noise)
            carry, chosen = choose_head_first(head_first, params, state, texts, near)
            found = None if num_logprobs is None else Logprobs(chosen.logprob)
            return _append(state, carry, *chosen[:2], found, sampling, pad_id, ends)
        carry, logits = step_fn(params, state.carry, state.token)
        logits = logits.astype(jnp.float32)
        changed = jax.vmap(penalise)(logits, sampling, state.penalties, bans, state.length)
        changed = restricted(step_fn, params, carry, changed)
        changed = jax.lax.stop_gradient(changed)
        token, broken = draw_or_broken(changed, sampling, noise)  # bans hide no NaN or +inf
        if sampling.forced_tokens is not None:
            token = jax.vmap(forced)(token, sampling.forced_tokens, state.length)
        found = None if num_logprobs is None else logprobs_of(logits, token, num_logprobs)
        return _append(state, carry, token, broken, found, sampling, pad_id, ends)

    limit = jnp.int32(max_new_tokens) if num_steps is None else num_steps

    def run(state: DecodeState, all_noise: Noise) -> tuple[DecodeState, DecodeOutput]:
        if num_steps is None and not (ends and early_exit):
            return jax.lax.scan(advance, state, all_noise)
        return _while(advance, state, all_noise, limit, pad_id, ends)

    apart = _apart(sampling, ends)
    before, loop = state, fuse_loop(run, batch_size, logits.shape[1])
    absent: Any = dict.fromkeys(apart)
    state, output = loop(state._replace(**absent), all_noise)
    state = state._replace(**{name: getattr(before, name) for name in apart})
    if not ends:
        state = state._replace(length=before.length)
        state, output = _end_broken_rows(state, output, limit, pad_id)
    state = state._replace(step=state.step + limit)
    return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), output)


def _apart(sampling: SamplingParams, ends: bool) -> list[str]:
    """Parts of the state that the loop neither reads nor changes.

    They would cost an operation a step, and XLA may abort on a kernel with an unused input.
    """
    counted = sampling.forced_tokens is not None or sampling.min_new_tokens is not None
    return ["step"] if ends else ["step", "finished"] if counted else ["step", "finished", "length"]


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
    return jax.tree.map(forward_only, (state, buffers))


def _append(
    state: DecodeState,
    carry: PyTree,
    token: Array,
    broken: Array,
    found: Logprobs | None,
    sampling: SamplingParams,
    pad_id: int,
    ends: bool,
) -> tuple[DecodeState, DecodeOutput]:
    """The state with one more token a row; with `ends` finished rows stay as they are."""
    silent = broken | (token < 0)
    finished, length = state.finished, state.length
    if length is not None:
        length = length + 1
    if ends:
        broken &= ~finished
        silent |= finished
        length = jnp.where(silent, state.length, length)
        carry = select_rows(silent, state.carry, carry)
    else:
        broken = silent
    token = jnp.where(silent, state.token, token)
    if ends:
        finished = silent
        if sampling.stop_tokens is not None:
            finished |= (sampling.stop_tokens == token[:, None]).any(axis=1)
    penalties = state.penalties
    if any(part is not None for part in penalties):
        spoken = jnp.where(silent, -1, token)
        update = partial(update_penalty_state, generated=True)
        penalties = jax.vmap(update)(penalties, spoken)
    after = DecodeState(carry, token, length, finished, state.step, penalties)
    shown = jnp.where(silent, jnp.where(broken, -1, pad_id), token)
    return after, _output(shown, silent, broken, found)


def _end_broken_rows(
    state: DecodeState, output: DecodeOutput, count: Array, pad_id: int
) -> tuple[DecodeState, DecodeOutput]:
    """What `_append` does where rows end, done once, after a loop in which none was to end."""
    size = output.tokens.shape[0]
    places = jnp.arange(size)[:, None]
    broken = (places < count) & (output.tokens < 0)
    last = jnp.where(broken, places, size).min(axis=0)
    last = jnp.where(state.finished, -1, last)
    output = output._replace(tokens=jnp.where(places > last, pad_id, output.tokens))
    if output.logprobs is not None:
        output = output._replace(logprobs=jnp.where(places > last, 0, output.logprobs))
    length = state.length + jnp.clip(last, 0, count)
    return state._replace(length=length, finished=last < size), output


def _output(shown: Array, silent: Array, broken: Array, found: Logprobs | None) -> DecodeOutput:
    if found is None:
        return DecodeOutput(shown)
    chosen = jnp.where(silent, jnp.where(broken, jnp.nan, 0), found.chosen)
    if found.top_tokens is None:
        return DecodeOutput(shown, chosen)
    tokens = jnp.where(broken[:, None], -1, found.top_tokens)
    return DecodeOutput(shown, chosen, tokens, jnp.where(broken[:, None], jnp.nan, found.top))


@dataclass(frozen=True)
class Prepared:
    """A step function for parameters that went through its `prepare` already."""

    step_fn: StepFn

    def __call__(
        self, params: PyTree, carry: PyTree, tokens: Int[Array, "B"]
    ) -> tuple[PyTree, Float[Array, "B V"]]:
        """One step."""
        return self.step_fn(params, carry, tokens)

    @property
    def restrict(self) -> Any:
        """That of the step function, if it has one."""
        return getattr(self.step_fn, "restrict", None)

    @property
    def attention(self) -> Any:
        """That of the step function, if it has one."""
        return getattr(self.step_fn, "attention", None)

    @property
    def head_first(self) -> Any:
        """That of the step function, if it has one."""
        return getattr(self.step_fn, "head_first", None)


def prepared(step_fn: StepFn, params: PyTree) -> PyTree:
    """The parameters as the loop wants them: through the step function's `prepare`, if any."""
    prepare = getattr(step_fn, "prepare", None)
    return params if prepare is None else prepare(params)


def restricted(step_fn: StepFn, params: PyTree, carry: PyTree, logits: Array) -> Array:
    """The logits with -inf where the step function's `restrict`, if any, forbids the token.

    What is chosen comes out of these; its log-probability is that of the logits themselves.
    """
    restrict = getattr(step_fn, "restrict", None)
    return logits if restrict is None else restrict(params, carry, logits)


def select_rows(mask: Bool[Array, "B"], old: PyTree, new: PyTree) -> PyTree:
    """The rows of `old` where the mask is True, else those of `new`.

    Every leaf has the rows first, or is a scalar that all rows share: the new one.
    """

    def select(old: Array, new: Array) -> Array:
        if jnp.ndim(new) == 0:
            return new
        return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return jax.tree.map(select, old, new)


def take_rows(tree: PyTree, rows: Int[Array, "N"]) -> PyTree:
    """Row `rows[i]` of each leaf as row i; a scalar, shared by all rows, stays as it is."""
    return jax.tree.map(lambda x: x[rows] if jnp.ndim(x) else x, tree)


def pvary_like(x: Any, like: Array) -> Any:
    """`x` as varying over the mesh axes that `like` varies over, which `shard_map` asks of a loop.

    The choice between `x` and `x` is one that no compiler keeps.
    """
    return jnp.where(like[0] == 0, x, x)

"""The compiled programs behind a `TextModel`: few shapes, so that a session compiles a handful.

Prompts, batches, texts and token lists are padded to buckets; lengths, settings and keys are
traced. A program is shared by all models whose step function compares equal.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.generation.carry import Reading
from jaxgen.generation.decoding import Decoding, PrefillFn, StepFn, decode, read, start
from jaxgen.generation.sampling import TOKEN_LISTS, SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree

LARGEST_PROMPT = 512
"""Prompt tokens read in one program; longer prompts take several calls of it."""
NGRAM_WINDOW = 1024
"""Tokens that `no_repeat_ngram` looks back on."""
LARGEST_TEXT = 512
"""New tokens made in one program; longer texts take several calls of it."""

# (step function, settings' structure) of loops that XLA could not compile as one kernel.
_REFUSED: set[Any] = set()


def prompt_bucket(length: int) -> int:
    """Padded length of a prompt, at most `LARGEST_PROMPT`."""
    return min(max(16, 1 << (max(length, 1) - 1).bit_length()), LARGEST_PROMPT)


def batch_bucket(rows: int) -> int:
    """Padded number of rows: a power of two, from 16 on a multiple of 16."""
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16


def text_bucket(length: int) -> int:
    """Room for this many new tokens (the loop itself stops where it should)."""
    return 64 if length <= 64 else LARGEST_TEXT


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Copies of the first row below, up to this many rows."""
    return np.concatenate([array, np.repeat(array[:1], rows - len(array), axis=0)])


def pad_settings(sampling: SamplingParams, rows: int, batch: int) -> SamplingParams:
    """One value a row, `batch` rows, token lists padded to a multiple of 8."""

    def pad(name: str, value: np.ndarray) -> np.ndarray:
        if name in TOKEN_LISTS:
            value = np.broadcast_to(value, (rows, value.shape[-1]))
            value = np.pad(value, ((0, 0), (0, -value.shape[1] % 8)), constant_values=-1)
        return pad_rows(np.broadcast_to(value, (rows, *value.shape[1:])), batch)

    return sampling.map(pad)


def pad_tree(tree: PyTree, rows: int) -> PyTree:
    """`pad_rows` of each leaf."""
    return jax.tree.map(lambda x: pad_rows(np.asarray(x), rows), tree)


def windows(
    prompts: Sequence[np.ndarray], batch: int, overlap: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompts as padded tokens [B, P] and lengths [B], in stretches of at most `LARGEST_PROMPT`.

    `overlap` tokens end one stretch and begin the next.
    """
    longest = max(map(len, prompts))
    stretches = []
    for begin in range(0, max(longest - overlap, 1), LARGEST_PROMPT - overlap):
        parts = [prompt[begin : begin + LARGEST_PROMPT] for prompt in prompts]
        lengths = np.array([len(part) for part in parts], np.int32)
        tokens = np.zeros((len(parts), prompt_bucket(int(lengths.max()))), np.int32)
        for row, part in zip(tokens, parts, strict=True):
            row[: len(part)] = part
        stretches.append((pad_rows(tokens, batch), pad_rows(lengths, batch)))
    return stretches


@partial(jax.jit, static_argnames=("step_fn", "prefill_fn", "initial_carry"))
def begin(
    params: PyTree,
    after: Reading | None,
    labels: Int[Array, "B"] | None,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    sampling: SamplingParams,
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
    initial_carry: Callable,
) -> Decoding:
    """Texts with the first stretch of their prompts read, after a reading or from the start.

    Without a reading no prompt may be empty. The settings tell what is to be remembered.
    """
    if after is not None:
        carry = after.carry
    elif labels is None:
        carry = initial_carry(tokens.shape[0])
    else:
        carry = initial_carry(tokens.shape[0], labels)
    state = start(step_fn, params, carry, lengths, sampling, NGRAM_WINDOW)
    if after is not None:
        state = state._replace(token=after.token)
    return read(step_fn, params, state, tokens, lengths, prefill_fn, fresh=after is None)


@partial(jax.jit, static_argnames=("step_fn", "prefill_fn"), donate_argnames=("state",))
def read_on(
    params: PyTree,
    state: Decoding,
    tokens: Int[Array, "B P"],
    lengths: Int[Array, "B"],
    *,
    step_fn: StepFn,
    prefill_fn: PrefillFn | None,
) -> Decoding:
    """Texts with the next stretch of their prompts read."""
    return read(step_fn, params, state, tokens, lengths, prefill_fn)


class Piece(NamedTuple):
    """A stretch of text of each row."""

    tokens: Int[Array, "B N"]
    lengths: Int[Array, "B"]
    """Real tokens of this piece."""
    finished: Bool[Array, "B"]
    logprobs: Float[Array, "B N"] | None


@jax.jit
def fork(state: Decoding, rows: Int[Array, "N"], count: Int[Array, ""], key: Array) -> tuple:
    """Row `rows[i]` of a state as row i, with a key of its own; rows from `count` on are done."""
    batch_size = state.token.shape[0]

    def take(x: Array) -> Array:
        return x[rows] if jnp.ndim(x) and x.shape[0] == batch_size else x

    forked = jax.tree.map(take, state)
    index = jnp.arange(rows.shape[0])
    keys = key
    if key.ndim == 0:
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(index)
    return forked._replace(finished=forked.finished | (index >= count)), keys


@partial(
    jax.jit,
    static_argnames=("step_fn", "size", "num_logprobs", "ends", "fused"),
    donate_argnames=("state",),
)
def _extend(
    params: PyTree,
    state: Decoding,
    keys: Array,
    sampling: SamplingParams,
    num_steps: Int[Array, ""],
    *,
    step_fn: StepFn,
    size: int,
    num_logprobs: int | None,
    ends: bool,
    fused: bool,
) -> tuple[Decoding, Piece]:
    before = state.length
    state, emitted = decode(
        step_fn,
        params,
        state,
        keys,
        sampling,
        max_new_tokens=size,
        num_steps=num_steps,
        num_logprobs=num_logprobs,
        ends=ends,
        fused=fused,
    )
    return state, Piece(emitted.tokens, state.length - before, state.finished, emitted.logprobs)


def extend(
    params: PyTree,
    state: Decoding,
    keys: Array,
    sampling: SamplingParams,
    count: int,
    *,
    step_fn: StepFn,
    num_logprobs: int | None,
) -> tuple[Decoding, Piece]:
    """Texts with `count` more tokens, at most `LARGEST_TEXT`."""
    size = text_bucket(count)
    ends = sampling.can_stop or sampling.no_repeat_ngram is not None
    call = partial(_extend, step_fn=step_fn, size=size, num_logprobs=num_logprobs, ends=ends)
    arguments = (params, state, keys, sampling, np.int32(count))
    place = (step_fn, jax.tree.structure(sampling), num_logprobs)
    if state.token.shape[0] == 1 and jax.default_backend() == "cpu" and place not in _REFUSED:
        try:
            return call(*arguments, fused=True)
        except jax.errors.JaxRuntimeError as error:
            refusals = ("UNIMPLEMENTED", "Failed to materialize symbols")  # the second: a sort
            if not any(refusal in str(error) for refusal in refusals):
                raise
            _REFUSED.add(place)
    return call(*arguments, fused=False)

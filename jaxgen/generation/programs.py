"""The compiled programs behind a `TextModel`: few shapes, so that a session compiles a handful.

Prompts, batches, texts and token lists are padded to buckets; lengths, settings and keys are
traced. A program is shared by all models whose step function compares equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.generation.carry import PromptState
from jaxgen.generation.checks import check_carry, row_keys
from jaxgen.generation.constrained import RestrictedStep, constrained_carry
from jaxgen.generation.decoding import (
    DecodeState,
    PrefillFn,
    Prepared,
    StepFn,
    decode,
    init_state,
    prefill,
    take_rows,
)
from jaxgen.generation.one_kernel import is_small, jit_with_fused_loop
from jaxgen.generation.sampling import TOKEN_LISTS, SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree

InitialCarry = Callable[[PyTree, int, PyTree], PyTree]
"""`initial_carry(params, batch_size, condition)`: the carry before the first token."""
PROMPTS = (1, 16, 128, 512)
"""Padded lengths of prompts; to read a little padding costs less than another program. A text
without a prompt follows one token, which leaves nothing to read before the first step."""
LARGEST_PROMPT = PROMPTS[-1]
"""Prompt tokens read in one program; longer prompts take several calls of it."""
NGRAM_WINDOW = 1024
"""Tokens that `no_repeat_ngram` looks back on."""
LARGEST_DIVIDED_BATCH = 512
"""Rows that are divided over the devices of a CPU; more keep all cores busy as they are."""
LARGEST_TEXT = 512
"""New tokens made in one program; longer texts take several calls of it."""


def prompt_bucket(length: int) -> int:
    """Padded length of a prompt."""
    return next((size for size in PROMPTS if length <= size), -(-length // 512) * 512)


def batch_bucket(rows: int) -> int:
    """Padded number of rows: a power of two, from 16 on a multiple of 16."""
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Copies of the first row below, up to this many rows."""
    return np.concatenate([array, np.repeat(array[:1], rows - len(array), axis=0)])


def pad_settings(sampling: SamplingParams, rows: int, batch: int) -> SamplingParams:
    """One value a row, `batch` rows, token lists padded to a multiple of 8."""

    def pad(name: str, value: np.ndarray) -> np.ndarray:
        if name in TOKEN_LISTS:
            count = value.shape[-1]
            padded = np.full((rows, count + -count % 8), -1, value.dtype)
            padded[:, :count] = value
            value = padded
        return pad_rows(np.broadcast_to(value, (rows, *value.shape[1:])), batch)

    return sampling.map(pad)


def pad_tree(tree: PyTree, rows: int) -> PyTree:
    """`pad_rows` of each leaf; a scalar is shared by all rows and stays."""
    return jax.tree.map(lambda x: pad_rows(np.asarray(x), rows) if np.ndim(x) else x, tree)


def prompt_segments(
    prompts: Sequence[np.ndarray], batch: int, overlap: int = 0, largest: int = LARGEST_PROMPT
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompts as padded tokens [B, P] and lengths [B], in segments of at most `largest` tokens.

    `overlap` tokens end one segment and begin the next.
    """
    longest = max(map(len, prompts))
    segments = []
    for begin in range(0, max(longest - overlap, 1), largest - overlap):
        parts = [prompt[begin : begin + largest] for prompt in prompts]
        lengths = np.array([len(part) for part in parts], np.int32)
        tokens = np.zeros((len(parts), prompt_bucket(int(lengths.max()))), np.int32)
        for row, part in zip(tokens, parts, strict=True):
            row[: len(part)] = part
        segments.append((pad_rows(tokens, batch), pad_rows(lengths, batch)))
    return segments


class PromptBatch(NamedTuple):
    """Prompts as a program reads them."""

    after: PromptState | DecodeState | None
    """What was read before; None is nothing."""
    condition: PyTree
    """What the model is conditioned on: any tree with the batch first, or None."""
    tokens: Any
    """Int[B, P]."""
    lengths: Any
    """Int[B]; where nothing was read before, no prompt may be empty."""


@dataclass(frozen=True)
class Model:
    """The functions of a model: what its programs are compiled for."""

    step_fn: StepFn
    prefill_fn: PrefillFn | None
    initial_carry: InitialCarry
    restricted: bool = False
    """Whether an automaton, which begins after the prompt, restricts the choice of tokens: the
    prepared parameters are then `ConstrainedParams`, and the carry of a text `ConstrainedCarry`."""

    @property
    def choosing_step(self) -> StepFn:
        """The step function of loops that choose tokens."""
        return RestrictedStep(self.step_fn) if self.restricted else self.step_fn

    def begin(self, carry: PyTree, batch_size: int) -> PyTree:
        """The carry of texts that are about to begin: the last token of the prompt is not read."""
        return constrained_carry(carry, batch_size, 1) if self.restricted else carry


@partial(jax.jit, static_argnames=("model",))
def prefill_prompts(
    params: PyTree, prompt: PromptBatch, sampling: SamplingParams, *, model: Model
) -> DecodeState:
    """The state after a segment of the prompts. The settings tell what is to be remembered."""
    after, condition, tokens, lengths = prompt
    step_fn, prefill_fn = model.step_fn, model.prefill_fn
    if isinstance(after, DecodeState):
        return prefill(step_fn, params, after, tokens, lengths, prefill_fn)
    if after is not None:
        carry = after.carry
    else:
        carry = model.initial_carry(params, tokens.shape[0], condition)
    check_carry(carry, tokens.shape[0])
    state = init_state(step_fn, params, carry, lengths, sampling, NGRAM_WINDOW)
    if after is not None:
        state = state._replace(token=after.token)
    return prefill(step_fn, params, state, tokens, lengths, prefill_fn, fresh=after is None)


class DecodedChunk(NamedTuple):
    """The tokens that one program decoded."""

    tokens: Int[Array, "B N"]
    lengths: Int[Array, "B"]
    """Real tokens of this chunk."""
    finished: Bool[Array, "B"]
    logprobs: Float[Array, "B N"] | None


def _fork(state: DecodeState, rows: Int[Array, "N"], count: Int[Array, ""]) -> DecodeState:
    """Row `rows[i]` of a state as row i; rows from `count` on are finished."""
    forked = take_rows(state, rows)
    padding = jnp.arange(rows.shape[0]) >= count
    return forked._replace(finished=forked.finished | padding)


@dataclass(frozen=True)
class StaticOptions:
    """What a program that decodes is compiled for, beside shapes and the model."""

    num_logprobs: int | None
    ends: bool
    devices: int = 1


def devices_for(batch: int, params: PyTree) -> int:
    """CPU devices that share a batch: all where each gets whole stretches of 16 rows, or one.

    A core that has rows of its own is faster than one that gets a part of every small product.
    Large products are divided well as they are, and large weights would be read by every core.
    Parameters that are bound to some devices, as those of a training are, stay there.
    """
    count = jax.local_device_count()
    small = batch <= LARGEST_DIVIDED_BATCH and is_small(params)
    divisible = jax.default_backend() == "cpu" and small and batch % (16 * count) == 0
    return count if divisible and not any(map(_is_bound, jax.tree.leaves(params))) else 1


def _is_bound(x: Any) -> bool:
    """Whether an array must stay on its devices, and these are not all."""
    return (
        isinstance(x, jax.Array)
        and not isinstance(x, jax.core.Tracer)
        and x.committed
        and len(x.devices()) < jax.local_device_count()
    )


def _by_rows(decode_rows: Callable, devices: int) -> Callable:
    """`decode_rows` with the rows divided over devices, which need not wait for each other."""
    kind = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((devices,), ("rows",), axis_types=(kind,))
    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("rows")

    def divided(
        params: PyTree, state: DecodeState, keys: Array, sampling: SamplingParams, num_steps: Array
    ) -> tuple[DecodeState, DecodedChunk]:
        places = jax.tree.map(lambda x: rows if jnp.ndim(x) else whole, state)
        run = jax.shard_map(
            decode_rows,
            mesh=mesh,
            in_specs=(whole, places, rows, rows, whole),
            out_specs=(places, rows),
        )
        return run(params, state, keys, sampling, num_steps)

    return divided


_STATIC = ("model", "static")


@partial(jit_with_fused_loop, static_argnames=_STATIC, donate_argnames=("state",))
def decode_chunk(
    params: PyTree,
    state: DecodeState,
    keys: Array,
    sampling: SamplingParams,
    num_steps: Int[Array, ""],
    *,
    model: Model,
    static: StaticOptions,
) -> tuple[DecodeState, DecodedChunk]:
    """Texts with `num_steps` more tokens. `params` went through `prepare`."""

    def decode_rows(
        params: PyTree, state: DecodeState, keys: Array, sampling: SamplingParams, num_steps: Array
    ) -> tuple[DecodeState, DecodedChunk]:
        before = state.length
        state, output = decode(
            Prepared(model.choosing_step),
            params,
            state,
            keys,
            sampling,
            max_new_tokens=LARGEST_TEXT,
            num_steps=num_steps,
            num_logprobs=static.num_logprobs,
            ends=static.ends,
        )
        lengths = state.length - before
        return state, DecodedChunk(output.tokens, lengths, state.finished, output.logprobs)

    if static.devices > 1:
        decode_rows = _by_rows(decode_rows, static.devices)
    return decode_rows(params, state, keys, sampling, num_steps)


@partial(jit_with_fused_loop, static_argnames=_STATIC)
def prefill_and_decode(
    params: PyTree,
    prepared: PyTree,
    prompt: PromptBatch,
    rows: Int[Array, "N"],
    count: Int[Array, ""],
    key: Array,
    sampling: SamplingParams,
    num_steps: Int[Array, ""],
    *,
    model: Model,
    static: StaticOptions,
) -> tuple[DecodeState, Array, DecodedChunk]:
    """Read the prompts, fork them and decode the first chunk, in one dispatch.

    Args:
        params: the parameters.
        prepared: the same after `prepare`.
        prompt: what to read.
        rows: the prompt that each row continues.
        count: rows that are no padding.
        key: a seed, a key, or one key a row.
        sampling: one value a row.
        num_steps: tokens to decode.
        model: static.
        static: static.

    Returns:
        The state, the keys of the rows, and the chunk.
    """
    state = _fork(prefill_prompts(params, prompt, sampling, model=model), rows, count)
    state = state._replace(carry=model.begin(state.carry, rows.shape[0]))
    keys = row_keys(key, rows.shape[0])
    state, chunk = decode_chunk(
        prepared, state, keys, sampling, num_steps, model=model, static=static
    )
    return state, keys, chunk

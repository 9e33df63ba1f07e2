"""The compiled programs of an engine: a fixed number of texts that begin and end at any time.

A slot is a row of one `DecodeState`, with its key and its settings. A text joins a slot by `join`,
which writes what a text begins with; `read` reads more of prompts, `step` generates tokens. Each
takes the slots that it is about, by number, so that few texts cost little; a number that is the
count of slots or more stands for no slot. All values are traced: there is one program for each
number of rows and each `Program`, whatever the texts ask for.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.carry import PromptState
from jaxgen.generation.constrained import ConstrainedCarry
from jaxgen.generation.decoding import (
    DecodeOutput,
    DecodeState,
    Prepared,
    decode,
    init_state,
    prefill,
    prepared,
    select_rows,
    take_rows,
)
from jaxgen.generation.largest import top_k
from jaxgen.generation.one_kernel import jit_with_fused_loop
from jaxgen.generation.penalties import PenaltyState
from jaxgen.generation.programs import NGRAM_WINDOW, Model
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, PyTree, UInt32

LARGEST_STEP = 16
"""Tokens that one dispatch generates for a text, at most."""


class Slots(NamedTuple):
    """Texts that are being read or generated, one a row."""

    state: DecodeState
    keys: UInt32[Array, "N W"]
    """The data of each text's key."""
    sampling: SamplingParams
    """One value a row; every setting that any text may ask for is there, neutral by default."""


class Joining(NamedTuple):
    """What texts begin with, one a row."""

    after: PromptState | None
    """The states that they continue; None: the first carry, under the condition."""
    condition: PyTree
    seeds: UInt32[Any, "R"]
    places: Int[Any, "R"]
    """The row that a text has in its request: its key is `fold_in(key(seed), place)`."""
    sampling: SamplingParams


class Program(NamedTuple):
    """What a program that generates is compiled for, beside its shapes and the model."""

    fields: tuple[str, ...]
    """The settings that it looks at. The others are neutral in all texts that it runs."""
    num_logprobs: int | None


class Generated(NamedTuple):
    """What a dispatch generated."""

    output: DecodeOutput
    lengths: Int[Array, "R"]
    """Tokens of this dispatch."""
    finished: Bool[Array, "R"]


class Scored(NamedTuple):
    """Log-probabilities of the tokens that were read."""

    logprobs: Float[Array, "R S"]
    top_tokens: Int[Array, "R S n"]
    top_logprobs: Float[Array, "R S n"]


def _begin(params: PyTree, joining: Joining, model: Model) -> Slots:
    """Slots with texts that have not begun."""
    after, condition, seeds, places, sampling = joining
    rows = seeds.shape[0]
    carry = model.initial_carry(params, rows, condition) if after is None else after.carry
    state = init_state(model.step_fn, params, carry, places, sampling, NGRAM_WINDOW)
    if after is not None:
        state = state._replace(token=after.token)
    state = state._replace(carry=model.begin(state.carry, rows))

    def key_data(seed: Array, place: Array) -> Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.key(seed), place))

    return Slots(state, jax.vmap(key_data)(seeds, places), sampling)


@partial(jax.jit, static_argnames=("size", "model"))
def empty_slots(params: PyTree, joining: Joining, *, size: int, model: Model) -> Slots:
    """`size` slots without texts; `joining` tells the shapes of one."""
    one = _begin(params, joining, model)
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), one)


@partial(jax.jit, static_argnames=("model",), donate_argnames=("slots",))
def join(
    params: PyTree, slots: Slots, rows: Int[Array, "R"], joining: Joining, *, model: Model
) -> Slots:
    """The slots with new texts in some of them."""
    return _put(slots, rows, _begin(params, joining, model))


@partial(jax.jit, static_argnames=("model", "num_logprobs"), donate_argnames=("slots",))
def read(
    params: PyTree,
    slots: Slots,
    rows: Int[Array, "R"],
    tokens: Int[Array, "R S"],
    lengths: Int[Array, "R"],
    *,
    model: Model,
    num_logprobs: int | None,
) -> tuple[Slots, Scored | None]:
    """The slots after more prompt; with `num_logprobs` what the model thought of it.

    The log-probability of a token before which nothing was read means nothing.
    """
    before = _take(slots.state, rows)
    state = before._replace(carry=_own_carry(before.carry, model))
    logits = []

    def read_all(params: PyTree, carry: PyTree, line: Array, mask: Array) -> tuple[PyTree, Array]:
        carry, found = _read(model, params, carry, line, mask)
        logits.append(found)  # of the same trace: `prefill` has no use for them
        return carry, found

    reader = model.prefill_fn if num_logprobs is None else read_all
    state = prefill(model.step_fn, params, state, tokens, lengths, reader)
    carry = state.carry
    if model.restricted:  # the automaton begins after the prompt
        carry = ConstrainedCarry(carry, before.carry.state)
    state = state._replace(carry=carry)
    scored = None if num_logprobs is None else _scores(logits[0], tokens, num_logprobs)
    return slots._replace(state=_put(slots.state, rows, state)), scored


def _read(
    model: Model, params: PyTree, carry: PyTree, tokens: Array, mask: Array
) -> tuple[PyTree, Float[Array, "R S V"]]:
    """As a prefill function does, which not every model has."""
    if model.prefill_fn is not None:
        return model.prefill_fn(params, carry, tokens, mask)
    params = prepared(model.step_fn, params)

    def one(carry: PyTree, now: tuple[Array, Array]) -> tuple[PyTree, Array]:
        token, real = now
        after, logits = model.step_fn(params, carry, token)
        return select_rows(~real, carry, after), logits

    carry, logits = jax.lax.scan(one, carry, (tokens.T, mask.T))
    return carry, jnp.swapaxes(logits, 0, 1)


def _scores(logits: Array, tokens: Array, num_logprobs: int) -> Scored:
    logits = logits.astype(jnp.float32)
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1) - normaliser
    values, likeliest = jax.vmap(jax.vmap(lambda row: top_k(row, num_logprobs)))(logits)
    return Scored(chosen[..., 0], likeliest, values - normaliser)


@partial(jit_with_fused_loop, static_argnames=("model", "program"), donate_argnames=("slots",))
def step(
    params: PyTree,
    slots: Slots,
    rows: Int[Array, "R"],
    num_steps: Int[Array, ""],
    *,
    model: Model,
    program: Program,
) -> tuple[Slots, Generated]:
    """The slots with `num_steps` more tokens in some of them. `params` went through `prepare`.

    Where there are as many rows as slots, row i is slot i or none.
    """
    size = slots.keys.shape[0]
    absent, whole = rows >= size, rows.shape[0] == size
    some = slots if whole else _take(slots, rows)
    before, sampling = some.state, some.sampling
    known = _known(before.penalties, program.fields)
    leaves = [getattr(sampling, name) if name in program.fields else None for name in _NAMES]
    state, output = decode(
        Prepared(model.choosing_step),
        params,
        before._replace(finished=before.finished | absent, penalties=known),
        jax.random.wrap_key_data(some.keys),
        SamplingParams.tree_unflatten(sampling.max_top_k, leaves),
        max_new_tokens=LARGEST_STEP,
        num_steps=num_steps,
        num_logprobs=program.num_logprobs,
    )
    penalties = PenaltyState(
        *(
            old if new is None else new
            for old, new in zip(before.penalties, state.penalties, strict=True)
        )
    )
    generated = Generated(output, state.length - before.length, state.finished)
    state = state._replace(penalties=penalties)
    if whole:  # a finished row keeps all but these two
        state = state._replace(
            finished=jnp.where(absent, before.finished, state.finished),
            step=jnp.where(absent, before.step, state.step),
        )
        return slots._replace(state=state), generated
    return slots._replace(state=_put(slots.state, rows, state)), generated


_NAMES = tuple(SamplingParams.__annotations__)[:-1]


def _known(penalties: PenaltyState, fields: tuple[str, ...]) -> PenaltyState:
    """What the settings in use need to know of the text."""
    counted = {"presence_penalty", "frequency_penalty"} & {*fields}
    ngrams = "no_repeat_ngram" in fields
    return PenaltyState(
        seen=penalties.seen if "repetition_penalty" in fields else None,
        counts=penalties.counts if counted else None,
        history=penalties.history if ngrams else None,
        runs=penalties.runs if ngrams else None,
    )


@partial(jax.jit, static_argnames=("model",))
def state_of(slots: Slots, rows: Int[Array, "1"], *, model: Model) -> PromptState:
    """The state of a text, to be continued."""
    state = _take(slots.state, rows)
    return PromptState(_own_carry(state.carry, model), state.token)


def _own_carry(carry: PyTree, model: Model) -> PyTree:
    """The model's own carry, without the automaton's state."""
    return carry.carry if model.restricted else carry


def _take(tree: PyTree, rows: Int[Array, "R"]) -> PyTree:
    """The rows; any row where there is none of that number."""
    size = jax.tree.leaves(tree)[0].shape[0]
    return take_rows(tree, jnp.minimum(rows, size - 1))


def _put(tree: PyTree, rows: Int[Array, "R"], new: PyTree) -> PyTree:
    """The tree with new rows; those of a number that there is not are dropped."""
    return jax.tree.map(lambda x, y: x.at[rows].set(y, mode="drop"), tree, new)

"""`constrained`: a step function whose texts a finite automaton accepts, token by token.

The state of the automaton rides in the carry; tokens that it forbids have the logit -inf.

    step_fn = constrained(model_step, utf8_automaton())
    carry = constrained_carry(model_carry, batch_size)
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.automata import Automaton
from jaxgen.generation.decoding import PrefillFn, StepFn, prepared
from jaxgen.types import Array, Bool, Float, Int, PyTree


class ConstrainedCarry(NamedTuple):
    """The state of a constrained model."""

    carry: PyTree
    """The model's own."""
    state: Int[Array, "B"]
    """The automaton's; -n: n tokens are to be read before it begins."""


class ConstrainedParams(NamedTuple):
    """Parameters of a `ConstrainedStep`."""

    params: PyTree
    automaton: Automaton


@dataclass(frozen=True)
class ConstrainedStep:
    """A constrained step function whose automaton is part of the parameters.

    Automata of the same sizes then share a compiled program.
    """

    step_fn: StepFn

    def __call__(
        self, params: ConstrainedParams, carry: ConstrainedCarry, tokens: Int[Array, "B"]
    ) -> tuple[ConstrainedCarry, Float[Array, "B V"]]:
        """One step."""
        params, automaton = params
        read = _known(self.step_fn, automaton, params, carry.carry, tokens)
        after, logits = self.step_fn(params, carry.carry, read)
        state = _advance(automaton, carry.state, tokens)
        return ConstrainedCarry(after, state), _mask(automaton, state, logits)

    def prepare(self, params: ConstrainedParams) -> ConstrainedParams:
        """The model's parameters as its own loop wants them."""
        return params._replace(params=prepared(self.step_fn, params.params))


@dataclass(frozen=True)
class ConstrainedPrefill:
    """As `ConstrainedStep`, for a prefill function."""

    prefill_fn: PrefillFn

    def __call__(
        self,
        params: ConstrainedParams,
        carry: ConstrainedCarry,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
    ) -> tuple[ConstrainedCarry, Float[Array, "B T V"]]:
        """One pass over a prompt; masked steps leave the state alone."""
        params, automaton = params
        read = _known(self.prefill_fn, automaton, params, carry.carry, tokens, mask)
        after, logits = self.prefill_fn(params, carry.carry, read, mask)

        def step(state: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            token, real = now
            state = jnp.where(real, _advance(automaton, state, token), state)
            return state, state

        state, states = jax.lax.scan(step, carry.state, (tokens.T, mask.T))
        return ConstrainedCarry(after, state), _mask(automaton, states.T, logits)


@dataclass(frozen=True)
class RestrictedStep:
    """As `ConstrainedStep`, but the logits stay the model's own.

    Its `restrict` says what the automaton forbids. `decode` and the searches choose among what is
    left, and give the log-probabilities of the model itself. The automaton has no end token past
    the vocabulary: a text ends where no token may follow.
    """

    step_fn: StepFn

    def __call__(
        self, params: ConstrainedParams, carry: ConstrainedCarry, tokens: Int[Array, "B"]
    ) -> tuple[ConstrainedCarry, Float[Array, "B V"]]:
        """One step."""
        params, automaton = params
        after, logits = self.step_fn(params, carry.carry, tokens)
        return ConstrainedCarry(after, _advance(automaton, carry.state, tokens)), logits

    def restrict(
        self, params: ConstrainedParams, carry: ConstrainedCarry, logits: Float[Array, "B V"]
    ) -> Float[Array, "B V"]:
        """The logits that go with a carry, -inf where the token is forbidden."""
        return logits + _mask(params.automaton, carry.state, jnp.zeros_like(logits))

    def prepare(self, params: ConstrainedParams) -> ConstrainedParams:
        """The model's parameters as its own loop wants them."""
        return params._replace(params=prepared(self.step_fn, params.params))


@dataclass(frozen=True)
class BoundStep:
    """A constrained function with its automaton; equal to another of an equal automaton."""

    function: Callable[..., tuple[PyTree, Array]]
    digest: str
    automaton: Automaton = field(compare=False, repr=False)

    def __call__(
        self, params: PyTree, carry: ConstrainedCarry, *inputs: Array
    ) -> tuple[ConstrainedCarry, Array]:
        """One step, or one pass over a prompt; the parameters are the model's own."""
        return self.function(ConstrainedParams(params, self.automaton), carry, *inputs)

    def prepare(self, params: PyTree) -> PyTree:
        """The parameters as the model's own loop wants them."""
        return prepared(self.function, ConstrainedParams(params, self.automaton)).params


def constrained(step_fn: StepFn, automaton: Automaton) -> BoundStep:
    """A step function that forbids what the automaton does.

    No text comes to a dead end, see `make_automaton`; one that is cut short by its largest number
    of tokens may end unfinished (`automaton.accepting[state]` tells). A forbidden token can be in a
    prompt alone, or be forced; after it the automaton begins anew.

    The program holds the automaton: another one is another program. `ConstrainedStep(step_fn)`
    takes it with the parameters instead.

    Args:
        step_fn: the model.
        automaton: over its tokens; from `utf8_automaton`, `over_tokens` or `make_automaton`.

    Returns:
        `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])` with the carry that
        `constrained_carry` makes; V + 1 logits where the automaton's end token is one past the
        vocabulary. UserError, when called, where the automaton is of another vocabulary.
    """
    return BoundStep(ConstrainedStep(step_fn), _digest(automaton), automaton)


def constrained_prefill(prefill_fn: PrefillFn, automaton: Automaton) -> BoundStep:
    """A prefill function beside `constrained(step_fn, automaton)`."""
    return BoundStep(ConstrainedPrefill(prefill_fn), _digest(automaton), automaton)


def constrained_carry(carry: PyTree, batch_size: int, free_tokens: Any = 0) -> ConstrainedCarry:
    """The carry before the first token of a constrained model.

    Args:
        carry: the model's own.
        batch_size: rows.
        free_tokens: tokens that are read before the automaton begins: the lengths of the prompts,
            where the new text alone is meant; 0 where the prompt is part of what the automaton
            accepts. One number, or one a row. Traced.

    Raises:
        UserError: a number is negative, or there is not one a row.
    """
    if not isinstance(free_tokens, jax.core.Tracer):
        free_tokens = np.asarray(free_tokens)
        if (free_tokens < 0).any():
            raise UserError(f"`free_tokens` must be 0 or more, got {free_tokens.min()}")
    if jnp.shape(free_tokens) not in ((), (batch_size,)):
        raise UserError(
            f"`free_tokens` must be one number, or one for each of the {batch_size} rows, got "
            f"shape {jnp.shape(free_tokens)}"
        )
    state = -jnp.asarray(free_tokens, jnp.int32)
    return ConstrainedCarry(carry, jnp.broadcast_to(state, (batch_size,)))


def _known(
    function: Callable[..., tuple[PyTree, Array]],
    automaton: Automaton,
    params: PyTree,
    carry: PyTree,
    tokens: Int[Array, "B *T"],
    *mask: Array,
) -> Int[Array, "B *T"]:
    """The tokens as the model may read them: an end token past its vocabulary is another one."""
    vocab_size = jax.eval_shape(function, params, carry, tokens, *mask)[1].shape[-1]
    wanted = automaton.classes.shape[0]
    if wanted not in (vocab_size, vocab_size + 1):
        raise UserError(
            f"`automaton` must be over the {vocab_size} tokens of the model (or one more, an end "
            f"token), got one over {wanted}; build it for this vocabulary"
        )
    return tokens if wanted == vocab_size else jnp.minimum(tokens, vocab_size - 1)


def _advance(
    automaton: Automaton, state: Int[Array, "B"], tokens: Int[Array, "B"]
) -> Int[Array, "B"]:
    """The state after a token a row."""
    transitions, classes = jnp.asarray(automaton.transitions), jnp.asarray(automaton.classes)
    after = transitions[jnp.maximum(state, 0), classes[tokens]]
    return jnp.where(state < 0, state + 1, jnp.maximum(after, 0))


def _mask(
    automaton: Automaton, state: Int[Array, "B *T"], logits: Float[Array, "B *T V"]
) -> Float[Array, "B *T W"]:
    """The logits, -inf where the automaton forbids the token."""
    transitions, classes = jnp.asarray(automaton.transitions), jnp.asarray(automaton.classes)
    legal = (transitions[jnp.maximum(state, 0)] >= 0)[..., classes]
    free = (state < 0)[..., None]
    if classes.shape[0] > logits.shape[-1]:
        end = jnp.where(free, -jnp.inf, jnp.zeros((), logits.dtype)).astype(logits.dtype)
        logits = jnp.concatenate([logits, end], axis=-1)
    return jnp.where(legal | free, logits, -jnp.inf)


def _digest(automaton: Automaton) -> str:
    """A hash that two automata share only if they are the same."""
    found = hashlib.sha256()
    for array in automaton:
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()

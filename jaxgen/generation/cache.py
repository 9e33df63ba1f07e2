"""The continuous cache: a step function that remembers what followed states like the present one.

    p(w) = (1 - lambda) p_model(w) + lambda p_cache(w)
    p_cache(w) = sum of exp(theta h . h_i) over the remembered i that w followed, normalised

where h is the model's hidden state now, and h_i one of the last W that predicted a token, beside
the token that came (Grave, Joulin & Usunier, 2017, equations 2 to 4). Nothing is trained for it.

    step_fn = cached(step_with_hidden)      # (params, carry, tokens) -> (carry, logits, hidden)
    params = cached_params(params, theta=0.3, lambda_=0.1)
    carry = cached_carry(step_with_hidden, params, carry, window=2000)
    jaxgen.generate(step_fn, params, carry, prompt, None, 0, max_new_tokens=100)

Before anything is remembered the model speaks alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.checks import check_at_least_one
from jaxgen.generation.decoding import prepared
from jaxgen.types import Array, Bool, Float, Int, PyTree

Function = Callable[..., Any]
"""A step or prefill function that gives its hidden states too: `(carry, logits, hidden)`; or one
that has a method `with_hidden` which does."""


class CacheWindow(NamedTuple):
    """The last W pairs of a hidden state and the token that followed it."""

    keys: Float[Array, "B W H"]
    """Pair n, counted from 0, lies at place n modulo the room, W: a new one replaces the oldest."""
    tokens: Int[Array, "B W"]
    hidden: Float[Array, "B H"]
    """After the last token; the token that follows it is yet to come."""
    read: Int[Array, "B"]
    """Tokens read so far: one more than there were pairs, but 0 before the first."""


class CacheCarry(NamedTuple):
    """The state of a model with a cache."""

    carry: PyTree
    """The model's own."""
    window: CacheWindow


class CachedParams(NamedTuple):
    """Parameters of a model with a cache; other settings are no other program."""

    params: PyTree
    """The model's own."""
    theta: Float[Any, ""]
    lambda_: Float[Any, ""]


class Recall(NamedTuple):
    """What each of T hidden states finds among the N pairs that there is room for."""

    scores: Float[Array, "B T N"]
    """Products of the hidden states with those remembered, less the largest visible one."""
    visible: Bool[Array, "B T N"]
    """Which of them are among the last of their time."""
    tokens: Int[Array, "B N"]

    def weights(self, theta: Array) -> Float[Array, "B T N"]:
        """Probabilities up to one factor a state; all 0 where nothing is remembered."""
        return jnp.where(self.visible, jnp.exp(theta * self.scores), 0)


def empty_window(batch_size: int, room: int, hidden: Float[Any, "B *T H"]) -> CacheWindow:
    """A cache before the first token, with room for some pairs of hidden states like these."""
    size, dtype = hidden.shape[-1], hidden.dtype
    return CacheWindow(
        jnp.zeros((batch_size, room, size), dtype),
        jnp.zeros((batch_size, room), jnp.int32),
        jnp.zeros((batch_size, size), dtype),
        jnp.zeros(batch_size, jnp.int32),
    )


def read_tokens(
    window: CacheWindow,
    hidden: Float[Array, "B T H"],
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    size: int,
) -> tuple[CacheWindow, Recall]:
    """Remember T tokens, and look for each state among what was remembered by its time.

    All T states are compared with all pairs in one product a row. The pairs are written first and
    looked at then: XLA would copy what it has to read before it writes.

    Args:
        window: what is remembered before, with room for `size + T - 1` pairs or more.
        hidden: after each token.
        tokens: what was read.
        mask: True = real token; the others are passed over.
        size: pairs that a state sees, the last ones of its time.
    """
    room, places = window.keys.shape[1], jnp.arange(tokens.shape[1])
    made = window.read[:, None] - 1  # pairs so far; -1 where there is no hidden state yet
    made = made + jnp.cumsum(mask, axis=1, dtype=jnp.int32)  # after each token
    # The state before a token is that after the last real one before it.
    states = jnp.concatenate([window.hidden[:, None], hidden], axis=1)
    last = jax.lax.cummax(jnp.where(mask, places + 1, 0), axis=1)
    before = jnp.concatenate([jnp.zeros_like(last[:, :1]), last[:, :-1]], axis=1)

    place = jnp.where(mask & (made > 0), (made - 1) % room, room)  # the last one is nowhere
    at = (jnp.arange(len(tokens))[:, None], place)
    window = CacheWindow(
        window.keys.at[at].set(_rows(states, before), mode="drop"),
        window.tokens.at[at].set(tokens, mode="drop"),
        _rows(states, last[:, -1:])[:, 0],
        made[:, -1] + 1,
    )
    pair = _pairs(window.read, room)[:, None]
    after = made[..., None]
    visible = (pair >= jnp.maximum(after - size, 0)) & (pair < after)
    contract = (((2,), (2,)), ((0,), (0,)))
    scores = jax.lax.dot_general(hidden, window.keys, contract, preferred_element_type=jnp.float32)
    peak = jnp.where(visible, scores, -jnp.inf).max(axis=-1, keepdims=True)
    scores -= jnp.where(peak > -jnp.inf, peak, 0)
    return window, Recall(scores, visible, window.tokens)


def resized(window: CacheWindow, room: int) -> CacheWindow:
    """The same with room for more pairs, or for fewer: the last ones."""
    old = window.keys.shape[1]
    if room == old:
        return window
    place = _pairs(window.read, room) % old
    keys, tokens = _rows(window.keys, place), jnp.take_along_axis(window.tokens, place, axis=1)
    return window._replace(keys=keys, tokens=tokens)


def _pairs(read: Int[Array, "B"], room: int) -> Int[Array, "B N"]:
    """Which pair lies at each place after `read` tokens; negative where none does."""
    newest = read[:, None] - 2
    return newest - (newest - jnp.arange(room)) % room


def _rows(x: Float[Array, "B N H"], index: Int[Array, "B M"]) -> Float[Array, "B M H"]:
    return jnp.take_along_axis(x, index[..., None], axis=1)


def mixed_logits(
    logits: Float[Array, "B T V"], recall: Recall, theta: Array, lambda_: Array
) -> Float[Array, "B T V"]:
    """Log-probabilities of the model and the cache together; NaN where the logits have none."""
    weights = recall.weights(theta)
    total = weights.sum(axis=-1, keepdims=True)
    shares = lambda_ * weights / jnp.where(total > 0, total, 1)
    rows, places = jnp.arange(logits.shape[0]), jnp.arange(logits.shape[1])
    index = (rows[:, None, None], places[:, None], recall.tokens[:, None])
    found = jnp.zeros(logits.shape, jnp.float32).at[index].add(shares)
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
    logprobs += jnp.where(total > 0, jnp.log1p(-lambda_), 0)
    there = found > 0
    return jnp.where(there, jnp.logaddexp(logprobs, jnp.log(jnp.where(there, found, 1))), logprobs)


@dataclass(frozen=True)
class CachedStep:
    """`cached(function)`."""

    function: Function

    def __call__(
        self, params: CachedParams, carry: CacheCarry, tokens: Int[Array, "B *T"], *mask: Array
    ) -> tuple[CacheCarry, Float[Array, "B *T V"]]:
        """One step, or one pass over a prompt with its mask."""
        after, logits, hidden = _outputs(self.function, params.params, carry.carry, tokens, *mask)
        one = tokens.ndim == 1
        if one:
            tokens, logits, hidden = tokens[:, None], logits[:, None], hidden[:, None]
        real = mask[0] if mask else jnp.ones(tokens.shape, bool)
        size = carry.window.keys.shape[1]
        window = resized(carry.window, size + tokens.shape[1] - 1)
        window, recall = read_tokens(window, hidden, tokens.astype(jnp.int32), real, size)
        logits = mixed_logits(logits, recall, params.theta, params.lambda_)
        return CacheCarry(after, resized(window, size)), logits[:, 0] if one else logits

    def prepare(self, params: CachedParams) -> CachedParams:
        """The parameters as the model's own loop wants them."""
        return params._replace(params=prepared(self.function, params.params))


def cached(function: Function) -> CachedStep:
    """A step function with a continuous cache.

    Args:
        function: `function(params, carry, tokens[B]) -> (carry, logits[B, V], hidden[B, H])`, or a
            step function with a method `with_hidden` that gives these, as that of a language model
            has; or a prefill function that gives `logits[B, T, V]` and `hidden[B, T, H]` (the
            result is then one, too).

    Returns:
        `step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])`, whose logits are
        log-probabilities. `cached_params` makes its parameters, `cached_carry` its carry.

    Raises:
        UserError: when it is called, if the function does not give hidden states.
    """
    return CachedStep(function)


def cached_params(params: PyTree, theta: Any, lambda_: Any) -> CachedParams:
    """Parameters of a model with a cache.

    Args:
        params: the model's own.
        theta: 0 or more: how much likelier states are that resemble the present one; 0 remembers
            how often each token came. Traced.
        lambda_: the cache's share, 0 or more and below 1. Traced.

    Raises:
        UserError: one of them is out of its range, or not one number.
    """
    check_setting("theta", theta)
    check_setting("lambda_", lambda_)
    return CachedParams(params, jnp.float32(theta), jnp.float32(lambda_))


def check_setting(name: str, value: Any) -> None:
    """UserError for a theta or lambda out of its range; `name` ends as it is called there."""
    if np.ndim(value):
        raise UserError(f"`{name}` must be one number, got shape {np.shape(value)}")
    if isinstance(value, jax.core.Tracer):
        return
    most = np.inf if "theta" in name else 1.0
    if not 0 <= float(value) < most:
        rule = "0 or more, and finite" if "theta" in name else "at least 0 and below 1"
        raise UserError(f"`{name}` must be {rule}, got {float(value):g}")


def cached_carry(function: Function, params: PyTree, carry: PyTree, window: int) -> CacheCarry:
    """The carry before the first token of `cached(function)`.

    Args:
        function: as `cached` takes it.
        params: the model's own parameters, or those of `cached_params`.
        carry: the model's own carry, with the batch first.
        window: pairs to remember, W; the carry of a row grows by W * (H + 1) numbers.

    Raises:
        UserError: the window is below 1, the carry has no batch, or the function does not give
            hidden states.
    """
    check_at_least_one(window=window)
    sizes = [jnp.shape(leaf)[0] for leaf in jax.tree.leaves(carry) if jnp.ndim(leaf)]
    if not sizes:
        raise UserError("`carry` must have a leaf with the batch first, got none")
    if isinstance(params, CachedParams):
        params = params.params
    tokens = jax.ShapeDtypeStruct((sizes[0],), jnp.int32)
    outputs = jax.eval_shape(lambda *args: _outputs(function, *args), params, carry, tokens)
    return CacheCarry(carry, empty_window(sizes[0], window, outputs[2]))


def _outputs(function: Any, *arguments: Any) -> tuple[PyTree, Array, Array]:
    """Carry, logits and hidden states of a function."""
    outputs = getattr(function, "with_hidden", function)(*arguments)
    if not isinstance(outputs, tuple) or len(outputs) != 3:
        raise UserError(
            "a cache needs the model's hidden states: the function must return (carry, logits, "
            f"hidden), got {len(outputs)} values; return them too, or give it a method "
            "`with_hidden` that does"
        )
    return outputs

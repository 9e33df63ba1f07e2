"""Attention of a decoder to the outputs of an encoder, and the attentional vector it makes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.types import Array, Float, Int

SCORES = ("additive", "dot", "general", "scaled")


class Memory(NamedTuple):
    """What attention reads of a source: the encoder's outputs, projected once for all steps."""

    keys: Float[Array, "B S D"]
    """What a query is compared with."""
    values: Float[Array, "B S A"]
    """What each place adds to the attentional vector, before its weight."""
    lengths: Int[Array, "B"]
    """Real places of each row; the others get no weight."""


class Attention(nn.Module):
    """Attention after the decoder's last layer (Luong et al. 2015).

    Of a hidden state h and encoder outputs e_s: weights a = softmax over s of score(h, e_s), then
    the attentional vector tanh(h U + sum_s a_s e_s V), which is the tanh(W [context; h]) of the
    source with W in two parts, so that e V is made once. The scores:

        additive  v . tanh(h Q + e K)    (Bahdanau et al. 2015)
        dot       h . e                  the two must be of one size
        general   h . e K
        scaled    h . e K / sqrt(size of h)    (Vaswani et al. 2017)

    Parameters: `value_kernel` V [O, A], `hidden_kernel` U [H, A]; but for "dot" `key_kernel` K
    [O, H]; for "additive" also `query_kernel` Q [H, H] and `vector` v [H].
    """

    score: str
    source_size: int
    """O, size of an encoder output."""
    hidden_size: int
    """H, size of a hidden state of the decoder."""
    size: int
    """A, size of the attentional vector."""

    def setup(self) -> None:
        """Declare the parameters (Flax calls this)."""
        if self.score not in SCORES:
            raise UserError(
                f"`attention` must be none or one of {', '.join(SCORES)}, got {self.score!r}"
            )
        if self.score == "dot" and self.source_size != self.hidden_size:
            raise UserError(
                "`attention` dot compares vectors of one size, and the encoder gives "
                f"{self.source_size} numbers a step where the decoder has {self.hidden_size}; set "
                "`encoder_size` so that they agree (both directions count), or take general"
            )
        outputs, hidden = self.source_size, self.hidden_size
        shapes = {"value_kernel": (outputs, self.size), "hidden_kernel": (hidden, self.size)}
        if self.score != "dot":
            shapes["key_kernel"] = (outputs, hidden)
        if self.score == "additive":
            shapes["query_kernel"] = (hidden, hidden)
        init = nn.initializers.glorot_uniform()
        weights = {name: self.param(name, init, shape) for name, shape in shapes.items()}
        if self.score == "additive":
            init = nn.initializers.normal(hidden**-0.5)
            weights["vector"] = self.param("vector", init, (hidden,))
        self.parameters = weights

    def memory(self, outputs: Float[Array, "S B O"], lengths: Int[Array, "B"]) -> Memory:
        """Project time-major encoder outputs, which are finite beyond the lengths too."""
        keys = outputs
        if self.score != "dot":
            keys = _matmul(outputs, self.parameters["key_kernel"])
        values = _matmul(outputs, self.parameters["value_kernel"])
        return Memory(keys.swapaxes(0, 1), values.swapaxes(0, 1), lengths)

    def weights(self, hidden: Float[Array, "B T H"], memory: Memory) -> Float[Array, "B T S"]:
        """See `attention_weights`."""
        return attention_weights(self.score, self.parameters, hidden, memory)

    def __call__(self, hidden: Float[Array, "B T H"], memory: Memory) -> Float[Array, "B T A"]:
        """See `attend`."""
        return attend(self.score, self.parameters, hidden, memory)


def attend(
    score: str, parameters: Mapping[str, Any], hidden: Float[Array, "B T H"], memory: Memory
) -> Float[Array, "B T A"]:
    """The attentional vectors of some steps, in the type of `hidden`.

    Args:
        score: which one, see `Attention`.
        parameters: of an `Attention`.
        hidden: outputs of the decoder's last layer.
        memory: from `Attention.memory`.
    """
    weights = attention_weights(score, parameters, hidden, memory).astype(hidden.dtype)
    context = jnp.matmul(weights, memory.values, preferred_element_type=jnp.float32)
    own = _matmul(hidden, parameters["hidden_kernel"], jnp.float32)
    return jnp.tanh(own + context).astype(hidden.dtype)


def attention_weights(
    score: str, parameters: Mapping[str, Any], hidden: Float[Array, "B T H"], memory: Memory
) -> Float[Array, "B T S"]:
    """The weight of each place of the source at each step, float32.

    They add up to 1 over the real places and are 0 elsewhere; all are 0 where a row has no place.
    The arguments are those of `attend`.
    """
    scores = _scores(score, parameters, hidden, memory.keys)
    # Not minus infinity: a row without a real place would be 0 / 0.
    places = jnp.arange(scores.shape[-1], dtype=memory.lengths.dtype)
    real = (places < memory.lengths[:, None])[:, None]
    scores = jnp.where(real, scores, jnp.finfo(jnp.float32).min)
    return jnp.where(real, jax.nn.softmax(scores, axis=-1), 0)


def _scores(score: str, parameters: Mapping[str, Any], hidden: Array, keys: Array) -> Array:
    if score != "additive":
        scores = jnp.matmul(hidden, keys.swapaxes(1, 2), preferred_element_type=jnp.float32)
        return scores / hidden.shape[-1] ** 0.5 if score == "scaled" else scores
    queries = _matmul(hidden, parameters["query_kernel"])
    joined = jnp.tanh(queries[:, :, None] + keys[:, None])
    return _matmul(joined, parameters["vector"][:, None], jnp.float32)[..., 0]


def _matmul(x: Array, kernel: Array, dtype: Any = None) -> Array:
    """Of plain matrices, as in `jaxgen.nn.inputs`; in the type of `x` unless another is asked."""
    rows = x.reshape(-1, x.shape[-1])
    product = jnp.matmul(rows, kernel.astype(x.dtype), preferred_element_type=dtype)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])

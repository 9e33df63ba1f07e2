"""Pooling: one vector of a row's hidden states, of which only the real steps count."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nn.inputs import real_steps
from jaxgen.types import Array, Float, Int

POOLINGS = ("last", "mean", "max", "attention")


class Pooling(nn.Module):
    """Some poolings of the hidden states, one after the other in one vector.

    Parameters, for "attention" alone: `attention_kernel` [O, A] and `attention_vector` [A], where
    A is as many as the units of one direction.
    """

    kinds: tuple[str, ...] = ("last",)
    """Of "last", "mean", "max" and "attention"; each gives one vector of the size of the input."""
    bidirectional: bool = False
    """The second half of the hidden states was read from the last step to the first."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "T B O"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B P"]:
        """Pool the first `lengths` steps of each row; what stands beyond them changes nothing.

        Args:
            hidden: time-major outputs of the last layer; finite beyond the lengths too.
            lengths: real steps of each row; a row of none gives zeros.

        Returns:
            [B, O times the number of poolings], in the type of `hidden`.

        Raises:
            UserError: a pooling is not known, or none is given.
        """
        unknown = [kind for kind in self.kinds if kind not in POOLINGS]
        if unknown or not self.kinds:
            raise UserError(
                f"`pooling` must be one or more of {', '.join(POOLINGS)}, "
                f"got {unknown[0] if unknown else 'none'!r}"
            )
        pooled = [self._pool(kind, hidden, lengths) for kind in self.kinds]
        return pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled, axis=-1)

    def _pool(self, kind: str, hidden: Array, lengths: Array) -> Array:
        if kind == "last":
            return last(hidden, lengths, bidirectional=self.bidirectional)
        if kind == "mean":
            return mean(hidden, lengths)
        if kind == "max":
            return maximum(hidden, lengths)
        size = hidden.shape[-1]
        units = size // 2 if self.bidirectional else size
        init = nn.initializers.glorot_uniform()
        kernel = self.param("attention_kernel", init, (size, units))
        vector = self.param("attention_vector", nn.initializers.normal(units**-0.5), (units,))
        return attention(hidden, lengths, kernel, vector)


def last(
    hidden: Float[Array, "T B O"], lengths: Int[Array, "B"], *, bidirectional: bool = False
) -> Float[Array, "B O"]:
    """What each direction holds when it has read the row: its last real step, or its first."""
    where = jnp.maximum(lengths - 1, 0)
    units = hidden.shape[-1] // 2 if bidirectional else hidden.shape[-1]
    end = hidden[where, jnp.arange(len(lengths)), :units]
    if bidirectional:
        end = jnp.concatenate([end, hidden[0, :, units:]], axis=-1)
    return jnp.where(lengths[:, None] > 0, end, 0).astype(hidden.dtype)


def mean(hidden: Float[Array, "T B O"], lengths: Int[Array, "B"]) -> Float[Array, "B O"]:
    """Mean over the real steps, added up in float32."""
    real = real_steps(len(hidden), lengths)[..., None]
    total = jnp.where(real, hidden.astype(jnp.float32), 0).sum(axis=0)
    count = jnp.maximum(lengths, 1).astype(jnp.float32)
    return (total / count[:, None]).astype(hidden.dtype)


def maximum(hidden: Float[Array, "T B O"], lengths: Int[Array, "B"]) -> Float[Array, "B O"]:
    """Largest value of each unit over the real steps."""
    real = real_steps(len(hidden), lengths)[..., None]
    lowest = jnp.asarray(jnp.finfo(hidden.dtype).min, hidden.dtype)
    largest = jnp.where(real, hidden, lowest).max(axis=0)
    return jnp.where(lengths[:, None] > 0, largest, 0).astype(hidden.dtype)


def attention(
    hidden: Float[Array, "T B O"],
    lengths: Int[Array, "B"],
    kernel: Float[Array, "O A"],
    vector: Float[Array, "A"],
) -> Float[Array, "B O"]:
    """Mean over the real steps, weighted by the softmax of v . tanh(W h).

    Source: Yang et al. (2016), equations 5 to 7 without a bias.
    """
    T, B, size = hidden.shape
    rows = hidden.reshape(-1, size)  # plain matrices, as in `jaxgen.nn.inputs`
    keys = jnp.tanh(jnp.matmul(rows, kernel.astype(hidden.dtype)))
    scores = jnp.matmul(keys, vector.astype(hidden.dtype), preferred_element_type=jnp.float32)
    # Not minus infinity: a row without a real step would be 0 / 0.
    real = real_steps(T, lengths)
    scores = jnp.where(real, scores.reshape(T, B), jnp.finfo(jnp.float32).min)
    weights = jnp.where(real, jax.nn.softmax(scores, axis=0), 0)
    return (weights[..., None] * hidden.astype(jnp.float32)).sum(axis=0).astype(hidden.dtype)

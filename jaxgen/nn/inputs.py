"""The inputs of a recurrent layer and their projection: one matmul, or one table lookup."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Bool, Float, Int


class TokenInputs(NamedTuple):
    """Layer inputs that are rows of a table, left as tokens so that the layer can fold them.

    Projecting every row of the table once (V rows) replaces projecting every step (T * B rows);
    the result is the same, so the layer does whichever is less work.
    """

    tokens: Int[Array, "T B"]
    table: Float[Array, "V E"] | None
    """The embedding; None stands for one-hot inputs, whose table is the identity."""
    vocab_size: int

    @property
    def size(self) -> int:
        """Length of one input vector."""
        return self.vocab_size if self.table is None else self.table.shape[1]

    @property
    def folds(self) -> bool:
        """Whether projecting the table is less work than projecting every step."""
        return self.table is None or self.vocab_size <= self.tokens.size

    def rows(self) -> Float[Array, "T B E"]:
        """The input vectors themselves, for what cannot be folded (dropout on them)."""
        if self.table is None:
            return jax.nn.one_hot(self.tokens, self.vocab_size)
        return lookup(self.table, self.tokens)


def project(
    inputs: Float[Array, "*N D"] | TokenInputs,
    kernel: Float[Array, "D G"],
    bias: Float[Array, "*G"],
    dtype: Any,
) -> Float[Array, "*N G"]:
    """Input part of the pre-activations: one matmul, or one table lookup where that is less."""
    if not isinstance(inputs, TokenInputs):
        # As plain matrices: the gradient of a contraction over two axes would copy both operands.
        rows = inputs.astype(dtype).reshape(-1, inputs.shape[-1])
        projected = jnp.matmul(rows, kernel.astype(dtype)) + bias.astype(dtype)
        return projected.reshape(*inputs.shape[:-1], kernel.shape[-1])
    if inputs.table is None:
        return lookup((kernel + bias).astype(dtype), inputs.tokens)
    if inputs.folds:
        return lookup(project(inputs.table, kernel, bias, dtype), inputs.tokens)
    return project(inputs.rows(), kernel, bias, dtype)


def real_steps(steps: int, lengths: Int[Array, "B"]) -> Bool[Array, "T B"]:
    """True at the first `lengths` of so many steps, time-major."""
    return jnp.arange(steps, dtype=lengths.dtype)[:, None] < lengths

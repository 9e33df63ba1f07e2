"""The decoder's layers with input feeding: a loop over steps, each of which reads the last one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.stack_step import stack_step
from jaxgen.nn.attention import Memory, attend
from jaxgen.nn.dropout import drop
from jaxgen.nn.inputs import TokenInputs, project
from jaxgen.nn.lstm import LSTMParameters
from jaxgen.ops.lstm import LSTMCarry
from jaxgen.types import Array, Bool, Float

FedState = tuple[tuple[LSTMCarry, ...], Array]
"""The carries of the layers, and the attentional vector [B, A] of the last step."""


class FedLSTM(nn.Module):
    """A stack of layers, the first of which also reads the last step's attentional vector.

    Parameters: those of a `jaxgen.nn.LSTM` of plain layers, and `feed_kernel` [A, 4H].

    Source: Luong et al. (2015), section 3.3.
    """

    hidden_sizes: tuple[int, ...]
    score: str
    residual: bool = False
    dropout: float = 0.0
    """Dropout between layers."""
    variational: bool = True
    weight_drop: float = 0.0
    forget_bias: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "T B D"] | TokenInputs,
        state: FedState,
        memory: Memory,
        attention: Mapping[str, Any],
        *,
        mask: Bool[Array, "T B"] | None = None,
        deterministic: bool = True,
    ) -> tuple[FedState, tuple[Float[Array, "T B H"], Float[Array, "T B A"]]]:
        """Run the stack.

        Args:
            inputs: time-major.
            state: before the first step.
            memory: what attention reads of the source.
            attention: parameters of the attention.
            mask: True = real step; a padded one leaves the state alone.
            deterministic: no dropout.

        Returns:
            The state after the last step; each step's output of the last layer and attentional
            vector.
        """
        size = inputs.size if isinstance(inputs, TokenInputs) else inputs.shape[-1]
        shape = (state[1].shape[-1], 4 * self.hidden_sizes[0])
        feed_kernel = self.param("feed_kernel", nn.initializers.glorot_uniform(), shape)
        cells = []
        for index, units in enumerate(self.hidden_sizes):
            layer = LSTMParameters(units, self.forget_bias, self.weight_drop, name=f"layer_{index}")
            input_kernel, kernel, bias = layer(size, deterministic)
            below = input_kernel
            if index == 0:  # what the tokens add is made outside the loop, the bias included
                below = feed_kernel
                pre_activations = project(inputs, input_kernel, bias, self.dtype)
                bias = jnp.zeros_like(bias)
            cells.append((jnp.concatenate([below, kernel]).astype(self.dtype), bias))
            size = units
        once, each = self._factors(pre_activations.shape[:2], deterministic)

        def step(state: FedState, now: tuple) -> tuple[FedState, tuple[Array, Array]]:
            x, real, factors = now
            layers, attended = state
            layers, hidden = stack_step(
                tuple(cells),
                layers,
                x,
                residual=self.residual,
                fed=attended,
                kept=once if factors is None else factors,
            )
            attended = attend(self.score, attention, hidden[:, None], memory)[:, 0]
            new: FedState = (layers, attended)
            if real is not None:
                new = jax.tree.map(lambda a, b: jnp.where(real[:, None], a, b), new, state)
            return new, (hidden, attended)

        return jax.lax.scan(step, state, (pre_activations, mask, each))

    def _factors(
        self, shape: tuple[int, ...], deterministic: bool
    ) -> tuple[list[Array], list[Array] | None]:
        """What dropout multiplies the outputs below the last layer with: always, or each step."""
        if not self.dropout or deterministic:
            return [], None
        steps = shape[1:] if self.variational else shape
        factors = [
            drop(jnp.ones((*steps, units), self.dtype), self.make_rng("dropout"), self.dropout)
            for units in self.hidden_sizes[:-1]
        ]
        return (factors, None) if self.variational else ([], factors)

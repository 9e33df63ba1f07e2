"""The bridge: from where an encoder ended to where a decoder starts."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.ops.lstm import LSTMCarry
from jaxgen.types import Array


class Bridge(nn.Module):
    """Carries of an encoder's layers in, carries of as many layers of a decoder out.

    A layer of one direction and of the decoder's size is copied; else c and h are each tanh of a
    projection of those of all its directions, by `layer_n_c_kernel` [O, H] and `layer_n_c_bias`
    [H], `layer_n_h_kernel` and `layer_n_h_bias`.
    """

    sizes: tuple[int, ...]
    """Units of each of the decoder's layers."""
    bidirectional: bool = False
    """Each of the encoder's layers has two carries, forward before backward."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ends: Sequence[LSTMCarry]) -> tuple[LSTMCarry, ...]:
        """The first carries of the decoder."""
        ways = 2 if self.bidirectional else 1
        starts = []
        for index, size in enumerate(self.sizes):
            layer = ends[index * ways : (index + 1) * ways]
            if ways == 1 and layer[0].c.shape[-1] == size:
                starts.append(layer[0])
                continue
            c = self._project(f"layer_{index}_c", [end.c for end in layer], size)
            h = self._project(f"layer_{index}_h", [end.h for end in layer], size)
            starts.append(LSTMCarry(c, h.astype(self.dtype)))
        return tuple(starts)

    def _project(self, name: str, states: list[Array], size: int) -> Array:
        joined = jnp.concatenate(states, axis=-1).astype(self.dtype)
        init = nn.initializers.glorot_uniform()
        kernel = self.param(f"{name}_kernel", init, (joined.shape[-1], size))
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (size,))
        kernel = kernel.astype(self.dtype)
        return jnp.tanh(jnp.matmul(joined, kernel, preferred_element_type=jnp.float32) + bias)

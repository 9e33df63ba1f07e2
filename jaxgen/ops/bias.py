"""A bias added to rows, with a gradient that reads them in order."""

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float


@jax.custom_vjp
def add_bias(x: Float[Array, "*N V"], bias: Float[Array, "V"]) -> Float[Array, "*N V"]:
    """`x + bias`, where the gradient of the bias is a product with ones.

    XLA's own sum over the rows of a large vocabulary walks down column by column on a CPU, and
    takes as long as the matmuls.
    """
    return x + bias


def _forward(x: Array, bias: Array) -> tuple[Array, None]:
    return add_bias(x, bias), None


def _backward(_: None, d_out: Array) -> tuple[Array, Array]:
    rows = d_out.reshape(-1, d_out.shape[-1])
    return d_out, jnp.ones((len(rows),), rows.dtype) @ rows


add_bias.defvjp(_forward, _backward)

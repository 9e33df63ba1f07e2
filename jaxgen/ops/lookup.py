"""Rows of a table by token, with a backward pass that suits the device."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float, Int

# A CPU adds the rows up, in a quarter of the time of one_hot^T @ d_rows. Elsewhere that product is
# taken up to this many rows: fewer rows have more tokens to wait for each other. (Not measured.)
_ONE_HOT_ROWS = 512


@jax.custom_vjp
def lookup(table: Float[Array, "V D"], tokens: Int[Array, "*N"]) -> Float[Array, "*N D"]:
    """`table[tokens]`; tokens must lie in [0, V)."""
    return table.at[tokens].get(mode="promise_in_bounds")


def _forward(table: Array, tokens: Array) -> tuple[Array, tuple[Array, Array]]:
    return lookup(table, tokens), (table, tokens)


def _backward(residuals: tuple[Array, Array], d_rows: Array) -> tuple[Array, None]:
    table, tokens = residuals
    rows, size = table.shape
    elsewhere = one_hot_sums if rows <= _ONE_HOT_ROWS else scattered_sums
    d_table = jax.lax.platform_dependent(
        tokens.reshape(-1),
        d_rows.reshape(-1, size),
        cpu=partial(scattered_sums, rows),
        default=partial(elsewhere, rows),
    )
    return d_table.astype(table.dtype), None


def scattered_sums(
    rows: int, tokens: Int[Array, "N"], values: Float[Array, "N D"]
) -> Float[Array, "V D"]:
    """The sum of each token's values, float32, added up one by one."""
    sums = jnp.zeros((rows, values.shape[-1]), jnp.float32)
    return sums.at[tokens].add(values.astype(jnp.float32), mode="promise_in_bounds")


def one_hot_sums(
    rows: int, tokens: Int[Array, "N"], values: Float[Array, "N D"]
) -> Float[Array, "V D"]:
    """The sum of each token's values, float32, as one matmul."""
    one_hot = jax.nn.one_hot(tokens, rows, dtype=values.dtype)
    return jnp.matmul(one_hot.T, values, preferred_element_type=jnp.float32)


lookup.defvjp(_forward, _backward)

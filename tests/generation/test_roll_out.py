"""Roll-outs against `generate` after each prefix, one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_models import lstm_carry, lstm_params, lstm_step

from jaxgen.generation.generate import generate
from jaxgen.generation.roll_out import roll_out

V, B, N = 11, 3, 2


@pytest.mark.parametrize("length", [2, 5, pytest.param(6, marks=pytest.mark.slow)])
def test_roll_outs_are_those_of_generate_after_each_prefix(length: int) -> None:
    params = lstm_params(jax.random.key(0), V)
    start = jnp.array([0, 3, 5])
    tokens = jax.random.randint(jax.random.key(1), (B, length), 0, V)
    keys = jax.random.split(jax.random.key(2), (length - 1, N, B))
    found = jax.jit(roll_out, static_argnums=0)(
        lstm_step, params, lstm_carry(B), start, tokens, keys
    )
    assert found.shape == (length - 1, N, B, length)
    for prefix in range(1, length):
        prompts = jnp.concatenate([start[:, None], tokens[:, :prefix]], axis=1)
        for n in range(N):
            wanted: Any = generate(
                lstm_step,
                params,
                lstm_carry(B),
                prompts,
                None,
                keys[prefix - 1, n],
                max_new_tokens=length - prefix,
            )
            whole = np.concatenate([tokens[:, :prefix], wanted.tokens], axis=1)
            np.testing.assert_array_equal(found[prefix - 1, n], whole)


def test_roll_outs_differ() -> None:
    """Of one prefix, and of texts that are the same."""
    params = lstm_params(jax.random.key(0), V, scale=0.1)
    tokens = jnp.zeros((2, 20), jnp.int32)
    keys = jax.random.split(jax.random.key(2), (19, 2, 2))
    first = roll_out(lstm_step, params, lstm_carry(2), tokens[:, 0], tokens, keys)[0]
    assert len(np.unique(first.reshape(4, 20), axis=0)) == 4

"""What research code relies on: the core packages, and `generate`, with only JAX and Flax there."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp

import jaxgen

for name in ("ops", "nn", "models", "generation"):
    package = importlib.import_module(f"jaxgen.{name}")
    for module in pkgutil.iter_modules(package.__path__, f"jaxgen.{name}."):
        importlib.import_module(module.name)
importlib.import_module("jaxgen.training.step")


def step_fn(params, carry, tokens):
    """A model in two lines: each token is followed by the next one."""
    return carry + 1, params[tokens]


out = jaxgen.generate(
    step_fn,
    jnp.eye(5)[jnp.arange(1, 6) % 5] * 50.0,
    jnp.zeros((2,), jnp.int32),
    jnp.array([[0, 1], [3, 0]]),
    jnp.array([2, 1]),
    jax.random.key(0),
    jaxgen.SamplingParams(temperature=jnp.array([0.0, 1.0])),
    max_new_tokens=4,
)
assert out.tokens.tolist() == [[2, 3, 4, 0], [4, 0, 1, 2]], out.tokens
print("the core runs with jax", jax.__version__)

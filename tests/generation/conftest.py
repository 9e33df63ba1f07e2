"""Generation's tests compile many small programs: with little optimization that is far faster."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compile_fast():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)

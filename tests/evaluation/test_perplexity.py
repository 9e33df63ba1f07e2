"""Sums over held-out batches, and units, against NumPy."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.evaluation.perplexity import Nll, bits, perplexity
from jaxgen.evaluation.sums import make_sums
from jaxgen.types import LossAux, Sum

TRACES = []


def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """Costs that depend on all that was read before: the carry must flow through."""
    TRACES.append(1)
    assert key is None
    seen = carry[:, None] + jnp.cumsum(batch["x"] * batch["mask"].astype(jnp.float32), axis=1)
    nll = params * seen
    count = batch["mask"].sum().astype(jnp.float32)
    total = jnp.where(batch["mask"], nll, 0).sum()
    return total / count, LossAux(seen[:, -1], {"nll": Sum(total, count)}, count)


EVALUATE = make_sums(loss_fn, batches_per_dispatch=3)


@settings(deadline=None, max_examples=20)
@given(windows=st.integers(1, 8), seed=st.integers(0, 99))
def test_every_token_counts_once(windows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(windows, 2, 5)).astype(np.float32)
    mask = random.random((windows, 2, 5)) < 0.7
    batches = [{"x": x[i], "mask": mask[i]} for i in range(windows)]
    result = EVALUATE(jnp.float32(2.0), jnp.ones(2), iter(batches))["nll"]
    line = np.where(mask, x, 0).astype(np.float64).transpose(1, 0, 2).reshape(2, -1)
    seen = 1.0 + np.cumsum(line, axis=1)
    expected = (2.0 * seen * mask.transpose(1, 0, 2).reshape(2, -1)).sum()
    assert result.total == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert result.weight == mask.sum()


def test_one_program_for_any_number_of_windows() -> None:
    TRACES.clear()
    evaluate = make_sums(loss_fn, batches_per_dispatch=3)
    batch = {"x": np.ones((2, 5), np.float32), "mask": np.ones((2, 5), bool)}
    for windows in (1, 3, 7):
        found = evaluate(jnp.float32(0.5), jnp.zeros(2), [batch] * windows)["nll"]
        assert found.weight == 10 * windows
    assert len(TRACES) == 1


def test_no_text() -> None:
    assert EVALUATE(jnp.float32(1.0), jnp.zeros(2), []) == {}


def test_units() -> None:
    assert bits(math.log(4)) == pytest.approx(2.0)
    assert perplexity(math.log(4)) == pytest.approx(4.0)
    assert perplexity(1e6) == math.inf
    assert Nll(total=8 * math.log(4), count=8).mean == pytest.approx(math.log(4))
    assert Nll(0.0, 0).mean == 0.0


def test_long_sums_stay_exact() -> None:
    """Ten million tokens of 0.1 nats: a float32 running sum would be off by far more."""

    def constant(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        total = jnp.float32(0.1) * batch.sum()
        return total, LossAux(carry, {"nll": Sum(total, batch.sum())}, batch.sum())

    windows = [np.full((1,), 10_000.0, np.float32)] * 1000
    result = make_sums(constant, batches_per_dispatch=500)(jnp.zeros(()), (), windows)["nll"]
    assert result.weight == 10_000_000
    assert result.total / result.weight == pytest.approx(float(np.float32(0.1)), rel=1e-7)

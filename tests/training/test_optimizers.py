"""Optimizers against NumPy and PyTorch, schedules against hand-worked numbers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.training import updates
from jaxgen.training.optimizers import make_optimizer, make_schedule

RNG = np.random.default_rng(0)
START = RNG.normal(size=7).astype(np.float32)
GRADS = RNG.normal(size=(6, 7)).astype(np.float32)


def follow(**arguments: Any) -> np.ndarray:
    """Parameters after all of GRADS."""
    with jax.numpy_dtype_promotion("standard"):
        tx = make_optimizer(**arguments)
        params, state = jax.numpy.asarray(START), tx.init(jax.numpy.asarray(START))
        for grad in GRADS:
            updates, state = tx.update(jax.numpy.asarray(grad), state, params)
            params = optax.apply_updates(params, updates)
    return np.asarray(params)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_that_of_keras(momentum: float) -> None:
    params, velocity, speed = START.astype(np.float64), np.zeros(7), np.zeros(7)
    for grad in GRADS:
        velocity = 0.95 * velocity + 0.05 * grad**2
        speed = momentum * speed + 0.01 * grad / np.sqrt(velocity + 1e-7)
        params = params - speed
    actual = follow(name="rmsprop", learning_rate=0.01, b2=0.95, momentum=momentum)
    np.testing.assert_allclose(actual, params, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_has_an_epsilon(name: str) -> None:
    """So large a one that leaving it out would be seen."""
    params, m, v = START.astype(np.float64), np.zeros(7), np.zeros(7)
    for step, grad in enumerate(GRADS, 1):
        m, v = 0.8 * m + 0.2 * grad, 0.99 * v + 0.01 * grad**2
        mean, root = m / (1 - 0.8**step), np.sqrt(v / (1 - 0.99**step))
        params = params - 0.01 * mean / (root + 0.1)
    actual = follow(name=name, learning_rate=0.01, b1=0.8, b2=0.99, epsilon=0.1)
    np.testing.assert_allclose(actual, params, rtol=1e-5)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_same_as_torch(name: str, weight_decay: float) -> None:
    import torch

    weight = torch.nn.Parameter(torch.tensor(START))
    rules = {
        "adam": lambda: torch.optim.Adam([weight], 0.01, (0.8, 0.99), weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW([weight], 0.01, (0.8, 0.99), weight_decay=weight_decay),
        "sgd": lambda: torch.optim.SGD([weight], 0.01, momentum=0.9, weight_decay=weight_decay),
    }
    rule = rules[name]()
    for grad in GRADS:
        weight.grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_([weight], 1.5)
        rule.step()
    actual = follow(
        name=name,
        learning_rate=0.01,
        clip_norm=1.5,
        weight_decay=weight_decay,
        momentum=0.9,
        b1=0.8,
        b2=0.99,
    )
    np.testing.assert_allclose(actual, weight.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_in_blocks_as_by_optax_at_once(name: str, finite: bool, monkeypatch: Any) -> None:
    """Of two models at once; rows that no block divides, and arrays that are taken whole."""
    monkeypatch.setattr(updates, "BLOCK", 6)
    clip, rule = {"clip_norm": 1.5}, {"name": name, "learning_rate": 0.01, "weight_decay": 0.1}
    shapes = {"wide": (2, 13, 3), "deep": (2, 2, 40), "flat": (2, 50), "small": (2, 2, 2)}
    params = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    gradients = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}

    def run(tx: Any, params: Any, grads: Any) -> Any:
        state, chosen = tx.init(params), jnp.bool_(finite)
        for _ in range(3):
            norm = updates.global_norm(grads)
            params, state = updates.updated(tx, grads, state, params, norm=norm, finite=chosen)
        return params, state

    whole = optax.chain(optax.clip_by_global_norm(1.5), make_optimizer(**rule))
    found = jax.jit(jax.vmap(partial(run, make_optimizer(**rule, **clip))))(params, gradients)
    for model in (0, 1):
        own = jax.tree.map(lambda x, model=model: x[model], (params, gradients))
        expected = jax.jit(partial(run, whole))(*own)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        for actual, wanted in pairs:
            np.testing.assert_allclose(actual[model], wanted, rtol=1e-5, atol=1e-7)


@settings(deadline=None)
@given(norm=st.floats(0.01, 10), clip=st.floats(0.01, 10))
def test_clipping_bounds_the_norm(norm: float, clip: float) -> None:
    grad = GRADS[0] * np.float32(norm / np.linalg.norm(GRADS[0]))
    tx = make_optimizer(name="sgd", learning_rate=1.0, clip_norm=clip)
    updates, _ = tx.update(jax.numpy.asarray(grad), tx.init(START))
    np.testing.assert_allclose(np.linalg.norm(updates), min(norm, clip), rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]),
        ("linear", [0, 0.5, 1.0, 1.5, 2.0, 1.1, 0.2]),
        ("cosine", [0, 0.5, 1.0, 1.5, 2.0, 1.1, 0.2]),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    course = make_schedule(
        learning_rate=2.0, schedule=schedule, warmup_steps=4, total_steps=12, final_fraction=0.1
    )
    steps = [0, 1, 2, 3, 4, 8, 12]
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose([float(course(s)) for s in steps], expected, atol=1e-6)


def test_a_schedule_drives_the_optimizer() -> None:
    course = make_schedule(learning_rate=1.0, schedule="linear", total_steps=len(GRADS))
    rates = 1 - np.arange(len(GRADS)) / len(GRADS)
    expected = START - (rates[:, None] * GRADS).sum(0)
    np.testing.assert_allclose(
        follow(name="sgd", learning_rate=course), expected, rtol=1e-4, atol=1e-5
    )

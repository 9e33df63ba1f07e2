"""Several devices make the update that one makes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.training.devices import candidate_devices, fastest, measure_devices
from jaxgen.training.parallel import Layout, jit_multi_step, make_layout, usable_cores
from jaxgen.training.step import init_state, make_train_step

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


def batches(toy: Any, steps: int, accumulate: int) -> Any:
    """Masked so unevenly that a mean of the devices' means would be wrong."""
    windows = toy.Stream().read(0, 0, steps * accumulate)
    rows = np.array([0.95, 0.9, 0.2, 0.05])[:, None]
    random = np.random.default_rng(0).random((steps * accumulate, toy.B, toy.T))
    windows["mask"] = random < rows
    if accumulate == 1:
        return windows
    return {name: x.reshape(steps, accumulate, *x.shape[1:]) for name, x in windows.items()}


def steps_of(loss_fn: Any, tx: Any, layout: Layout, accumulate: int = 1, **options: Any) -> Any:
    train_step = make_train_step(
        loss_fn, tx, accumulate=accumulate, axis_name=layout.axis_name, **options
    )
    return jit_multi_step(train_step, layout, accumulate=accumulate)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_devices_equal_one(toy: Any, accumulate: int) -> None:
    tx = optax.sgd(0.1)
    ends = []
    for devices in (1, 2):
        layout = make_layout(devices)
        multi_step = steps_of(
            toy.deterministic_loss_fn, tx, layout, accumulate=accumulate, averaging="ema"
        )
        state = init_state(
            toy.init_params(), tx, jax.random.key(1), carry=toy.carry(), averaging="ema"
        )
        state = layout.place_state(state)
        placed = layout.place_batches(batches(toy, 3, accumulate), accumulate=accumulate)
        for _ in range(2):  # twice, as the second call must not compile again
            state, metrics = multi_step(state, placed, 3)
        assert multi_step._cache_size() == 1
        assert layout.devices == devices
        ends.append((state._replace(key=jax.random.key_data(state.key)), metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *ends)


def test_one_collective_a_step(toy: Any) -> None:
    layout, tx = make_layout(2), optax.sgd(0.5)
    multi_step = steps_of(toy.deterministic_loss_fn, tx, layout)
    state = init_state(toy.init_params(), tx, jax.random.key(1), carry=toy.carry())
    program = multi_step.lower(state, batches(toy, 3, 1), 3).compile().as_text()
    assert program.count("all-reduce(") == 1


def test_devices_drop_different_units(toy: Any) -> None:
    """Equal rows on both devices leave different carries only if their keys differ."""

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        noise = jax.random.normal(key, carry.shape)
        loss, aux = toy.loss_fn(params, carry, batch, key)
        return loss, aux._replace(carry=noise)

    layout, tx = make_layout(2), optax.sgd(0.5)
    state = init_state(toy.init_params(), tx, jax.random.key(1), carry=toy.carry())
    state, _ = steps_of(loss_fn, tx, layout)(
        layout.place_state(state), layout.place_batches(batches(toy, 1, 1)), 1
    )
    half = toy.B // 2
    assert (np.asarray(state.carry[:half]) != np.asarray(state.carry[half:])).all()


def test_local_is_the_whole_of_a_replicated_tree(toy: Any) -> None:
    layout, tx = make_layout(2), optax.sgd(0.5)
    state = layout.place_state(init_state(toy.init_params(), tx, jax.random.key(1)))
    local = layout.local(state.params)
    for leaf, expected in zip(
        jax.tree.leaves(local), jax.tree.leaves(toy.init_params()), strict=True
    ):
        assert len(leaf.devices()) == 1
        np.testing.assert_array_equal(leaf, expected)


def test_only_long_trainings_are_measured(toy: Any) -> None:
    tx = optax.sgd(0.5)
    candidates = {n: (layout := make_layout(n), steps_of(toy.loss_fn, tx, layout)) for n in (1, 2)}

    def make_state() -> Any:
        return init_state(toy.init_params(), tx, jax.random.key(1), carry=toy.carry())

    text = batches(toy, 3, 1)
    assert set(measure_devices(candidates, make_state, text, total_steps=1)) == {1}
    assert candidates[2][1]._cache_size() == 0
    seconds = measure_devices(candidates, make_state, text, total_steps=10**9)
    assert set(seconds) == {1, 2}
    assert min(seconds.values()) > 0


def test_more_devices_must_be_clearly_faster() -> None:
    assert fastest({1: 1.0}) == 1
    assert fastest({1: 1.0, 2: 0.97}) == 1
    assert fastest({1: 1.0, 2: 0.6}) == 2


def test_candidates() -> None:
    assert candidate_devices(1, 5) == (1,)
    assert candidate_devices(2, 4) == (2,)
    assert candidate_devices("auto", 4) == (1, 2)
    assert candidate_devices("auto", 5) == (1,)
    with pytest.raises(UserError, match="at most the 2 that JAX sees, got 3"):
        candidate_devices(3, 6)
    with pytest.raises(UserError, match=r"multiple of `training\.devices`, got 5 and 2"):
        candidate_devices(2, 5)


def test_one_device_needs_no_mesh() -> None:
    assert make_layout(1) == Layout()


@pytest.mark.parametrize(
    ("request_", "flags", "expected"),
    [("3", "", 3), ('"auto"', "", min(usable_cores(), 8)), ("3", "2", 2)],
)
def test_requesting_host_devices(request_: str, flags: str, expected: int) -> None:
    code = (
        "import jax\nfrom jaxgen.training.parallel import request_host_devices\n"
        f"request_host_devices({request_})\nprint(jax.device_count())\nrequest_host_devices(1)"
    )
    environment = {"JAX_PLATFORMS": "cpu", "PATH": ""}
    if flags:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={flags}"
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == expected

"""The training step against plain loops over optax and NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training.step import (
    TrainState,
    evaluation_params,
    init_state,
    is_averaging,
    make_train_step,
    multi_step_of,
    start_averaging,
)
from jaxgen.types import LossAux, Sum

STEPS = 5


def assert_trees_close(actual: Any, expected: Any, **tolerance: float) -> None:
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, **tolerance), actual, expected)


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree))))


def start(toy: Any, tx: Any, averaging: Any = "none") -> TrainState:
    key = jax.random.key(1)
    return init_state(toy.init_params(), tx, key, carry=toy.carry(), averaging=averaging)


def on_one_device(train_step: Any) -> Any:
    return jax.jit(multi_step_of(train_step), donate_argnums=0)


def reference(toy: Any, tx: Any, batches: Any, steps: int, key: Any = None) -> list[Any]:
    """Parameters after each step, and the carry, of a loop that anyone would write."""
    params, carry = toy.init_params(), toy.carry()
    opt_state = tx.init(params)
    history = []
    grad_fn = jax.jit(jax.grad(toy.loss_fn, has_aux=True))
    for index in range(steps):
        batch = jax.tree.map(lambda x, i=index: x[i], batches)
        step_key = None if key is None else jax.random.fold_in(key, index)
        grads, aux = grad_fn(params, carry, batch, step_key)
        carry, nll_sum = aux.carry, aux.sums["nll"].total
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, carry, float(nll_sum), norm(grads)))
    return history


@pytest.fixture(scope="module")
def batches(toy: Any) -> Any:
    return toy.Stream().read(0, 0, STEPS)


@pytest.fixture(scope="module")
def tx() -> Any:
    return optax.adam(0.01)


@pytest.fixture(scope="module")
def history(toy: Any, tx: Any, batches: Any) -> list[Any]:
    return reference(toy, tx, batches, STEPS, jax.random.key(1))


def test_chunk_equals_plain_loop(toy: Any, tx: Any, batches: Any, history: Any) -> None:
    multi_step = on_one_device(make_train_step(toy.loss_fn, tx))
    state, metrics = multi_step(start(toy, tx), batches, STEPS)
    params, carry, _, _ = history[-1]
    assert int(state.step) == STEPS
    assert_trees_close((state.params, state.carry), (params, carry), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.sums["nll"].total, [row[2] for row in history], rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, [row[3] for row in history], rtol=1e-4)
    np.testing.assert_array_equal(metrics.weight, toy.B * toy.T)
    assert metrics.finite.all()


def test_where_steps_are_divided_changes_nothing(toy: Any, tx: Any, batches: Any) -> None:
    multi_step = on_one_device(make_train_step(toy.loss_fn, tx))
    whole, _ = multi_step(start(toy, tx), batches, STEPS)
    first, metrics = multi_step(start(toy, tx), batches, 2)
    assert metrics.weight.tolist() == [toy.B * toy.T] * 2 + [0.0] * 3
    rest = jax.tree.map(lambda x: np.roll(x, -2, axis=0), batches)
    second, _ = multi_step(first, rest, 3)
    assert multi_step._cache_size() == 1  # one program for every length
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(second), strict=True):
        assert (left == right).all()


def test_chunk_donates_its_state(toy: Any, tx: Any, batches: Any) -> None:
    multi_step = on_one_device(make_train_step(toy.loss_fn, tx))
    state = start(toy, tx)
    multi_step(state, batches, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_accumulation_weighs_windows_by_their_tokens(toy: Any) -> None:
    """Masked windows differ in their counts; the update is that of the mean over all tokens."""
    windows, tx = 3, optax.sgd(0.5)
    batch = toy.Stream().read(0, 0, windows)
    mask = np.random.default_rng(0).random((windows, toy.B, toy.T)) < [[[0.9]], [[0.5]], [[0.1]]]
    batch["mask"] = mask
    step = jax.jit(make_train_step(toy.deterministic_loss_fn, tx, accumulate=windows))
    state, metrics = step(start(toy, tx), batch)

    def mean(params: Any) -> Any:
        carry, total = toy.carry(), jnp.float32(0)
        for index in range(windows):
            window = {name: x[index] for name, x in batch.items()}
            carry = jax.lax.stop_gradient(carry)
            _, aux = toy.loss_fn(params, carry, window, None)
            carry = aux.carry
            total += aux.sums["nll"].total
        return total / float(mask.sum()), carry

    grads, carry = jax.grad(mean, has_aux=True)(toy.init_params())
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, toy.init_params(), grads)
    assert_trees_close((state.params, state.carry), (expected, carry), rtol=1e-4, atol=1e-6)
    assert float(metrics.weight) == mask.sum()
    np.testing.assert_allclose(metrics.grad_norm, norm(grads), rtol=1e-4)


def test_accumulated_windows_have_keys_of_their_own(toy: Any, batches: Any) -> None:
    seen = []

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return toy.loss_fn(params, carry, batch, key)

    tx = optax.sgd(0.1)
    batches = jax.tree.map(lambda x: x[:4].reshape(2, 2, *x.shape[1:]), batches)
    multi_step = on_one_device(make_train_step(loss_fn, tx, accumulate=2))
    jax.block_until_ready(multi_step(start(toy, tx), batches, 2))
    jax.effects_barrier()
    assert len(set(seen)) == 4


def test_exponential_average(toy: Any, tx: Any, batches: Any, history: Any) -> None:
    step = make_train_step(toy.loss_fn, tx, averaging="ema", ema_decay=0.3)
    state, _ = on_one_device(step)(start(toy, tx, "ema"), batches, STEPS)
    expected = jax.tree.map(np.asarray, toy.init_params())
    for n, (params, *_) in enumerate(history):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = jax.tree.map(
            lambda mean, new, d=decay: d * mean + (1 - d) * np.asarray(new), expected, params
        )
    assert is_averaging(state)
    assert_trees_close(evaluation_params(state), expected, rtol=1e-4, atol=1e-6)


def test_nt_asgd_averages_from_its_start(toy: Any, tx: Any, batches: Any, history: Any) -> None:
    step = make_train_step(toy.loss_fn, tx, averaging="nt_asgd")
    multi_step = on_one_device(step)
    state, _ = multi_step(start(toy, tx, "nt_asgd"), batches, 2)
    assert not is_averaging(state)
    assert_trees_close(evaluation_params(state), state.params)
    rest = jax.tree.map(lambda x: np.roll(x, -2, axis=0), batches)
    state, _ = multi_step(start_averaging(state), rest, 3)
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *[params for params, *_ in history[2:]])
    assert is_averaging(state)
    assert_trees_close(evaluation_params(state), mean, rtol=1e-4, atol=1e-6)


def test_start_averaging_needs_an_average(toy: Any, tx: Any) -> None:
    with pytest.raises(ValueError, match="without averaging"):
        start_averaging(start(toy, tx))


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(toy: Any, tx: Any, poison: str) -> None:
    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        loss, aux = toy.loss_fn(params, carry, batch["text"], key)
        if poison == "loss":
            return loss + batch["poison"], aux
        # Zero, with an infinite slope where poisoned.
        return loss + jnp.sqrt(
            jnp.where(jnp.isnan(batch["poison"]), 0 * params["out"], 1)
        ).sum(), aux

    poisons = np.array([0, 0, np.nan, 0, 0], np.float32)
    batches = {"text": toy.Stream().read(0, 0, STEPS), "poison": poisons}
    multi_step = on_one_device(make_train_step(loss_fn, tx))
    state, metrics = multi_step(start(toy, tx), batches, STEPS)
    good, _ = multi_step(start(toy, tx), batches, 2)
    assert metrics.finite.tolist() == [True, True, False, False, False]
    assert not state.finite
    assert good.finite
    for left, right in zip(
        jax.tree.leaves(state._replace(finite=good.finite)), jax.tree.leaves(good), strict=True
    ):
        assert (left == right).all()
    again, _ = multi_step(state, batches, STEPS)  # steps already sent when that happened
    assert int(again.step) == 2


def test_a_model_without_memory(tx: Any) -> None:
    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        assert carry == ()
        error = batch @ params
        count = jnp.float32(len(error))
        squared = Sum(jnp.square(error).sum(), count)
        return jnp.square(error).mean(), LossAux((), {"squared_error": squared}, count)

    state = init_state(jnp.ones(3), tx, jax.random.key(0))
    batches = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    state, metrics = on_one_device(make_train_step(loss_fn, tx))(state, batches, 4)
    np.testing.assert_allclose(metrics.loss, metrics.sums["squared_error"].total / 6, rtol=1e-6)
    assert state.carry == ()

"""Fine-tuning layer by layer, against Adam and SGD written out in NumPy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import OptimizerConfig, TrainingConfig
from jaxgen.config.toml import parse_toml
from jaxgen.errors import UserError
from jaxgen.training.checkpoints import restore_like
from jaxgen.training.from_settings import optimizer_of
from jaxgen.training.parallel import jit_multi_step
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seeds import first_states, make_seed_layout
from jaxgen.training.step import TrainState, init_state, make_train_step
from jaxgen.trees import flatten, nest
from jaxgen.types import LossAux, Sum

RNG = np.random.default_rng(0)
START = {"embedding": RNG.normal(size=3), "lstm": RNG.normal(size=4), "output": RNG.normal(size=2)}
DEPTHS = {"embedding": 2, "lstm": 1, "output": 0}
STEPS = 7
GRADS = [{name: RNG.normal(size=x.shape) for name, x in START.items()} for _ in range(STEPS)]
EPOCH = 4


class Source(NamedTuple):
    """Batches that are only counted."""

    batches_per_epoch: int
    shapes: Sequence[Any] = ()

    def same_shape(self, epoch: int, first: int) -> int:
        return self.batches_per_epoch - first

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> Any:
        raise NotImplementedError


def steps(total: int = STEPS, epoch: int = EPOCH) -> StepSchedule:
    """So many steps in all, and in an epoch."""
    return StepSchedule(Source(epoch), TrainingConfig(epochs=100, max_steps=total))


def float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def depths(params: Any) -> dict[str, int]:
    return {name: DEPTHS[name] for name in params}


def optimizer(**settings: Any) -> Any:
    return optimizer_of(OptimizerConfig(**settings), steps(), depth_of=depths)[0]


def course(**settings: Any) -> list[dict[str, np.ndarray]]:
    """Parameters after each of GRADS; one compiled update for all."""
    tx = optimizer(**settings)
    params, state = float32(START), tx.init(float32(START))
    found = []

    @jax.jit
    def update(grads: Any, state: Any, params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for grads in GRADS:
        params, state = update(float32(grads), state, params)
        found.append(jax.tree.map(np.asarray, params))
    assert update._cache_size() == 1
    return found


def adam(rates: list[float], start: int, name: str, decay: float = 0.0) -> list[np.ndarray]:
    """Adam of one layer whose first update is that of step `start`."""
    params, m, v, found = START[name], 0.0, 0.0, []
    for step, grads in enumerate(GRADS):
        if step >= start:
            t, grad = step - start + 1, grads[name]
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            speed = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            params = params - rates[step] * (speed + decay * params)
        found.append(params)
    return found


def same(actual: list[dict[str, np.ndarray]], name: str, expected: list[np.ndarray]) -> None:
    for own, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(own[name], other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.1)])
def test_each_layer_learns_at_its_own_rate(name: Any, decay: float) -> None:
    found = course(
        name=name,
        weight_decay=decay,
        learning_rate=0.1,
        layer_decay=0.5,
        clip_norm=None,
        schedule="linear",
        warmup_steps=2,
    )
    peak = [0.0, 0.05, 0.1, 0.08, 0.06, 0.04, 0.02]
    for layer, depth in DEPTHS.items():
        rates = [0.5**depth * rate for rate in peak]
        same(found, layer, adam(rates, 0, layer, decay))


def test_layers_join_from_the_output_down() -> None:
    """After 2 steps each: Adam's moments and bias correction begin there, the schedule does not."""
    found = course(
        learning_rate=0.1,
        layer_decay=0.5,
        unfreeze_epochs=0.5,
        clip_norm=None,
        schedule="linear",
    )
    for layer, depth in DEPTHS.items():
        rates = [0.1 * 0.5**depth * (1 - step / STEPS) for step in range(STEPS)]
        same(found, layer, adam(rates, 2 * depth, layer))
    np.testing.assert_array_equal(found[3]["embedding"], float32(START["embedding"]))
    assert (found[4]["embedding"] != found[3]["embedding"]).all()


def test_frozen_gradients_do_not_count_in_the_clipping() -> None:
    found = course(name="sgd", learning_rate=1.0, unfreeze_epochs=0.5, clip_norm=0.1)
    params = dict(START)
    for step, grads in enumerate(GRADS):
        joined = [name for name, depth in DEPTHS.items() if step >= 2 * depth]
        norm = np.sqrt(sum((grads[name] ** 2).sum() for name in joined))
        for name in joined:
            params[name] = params[name] - grads[name] * min(1.0, 0.1 / norm)
        for name in START:
            np.testing.assert_allclose(found[step][name], params[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rmsprop", "sgd"])
def test_all_layers_alike_is_the_plain_rule(name: Any) -> None:
    """The layers' rates are put into the rule, and its momentum goes on with them."""
    settings = {"name": name, "momentum": 0.9, "schedule": "cosine", "weight_decay": 0.01}
    plain, layered = course(**settings), course(**settings, layer_decay=1 - 1e-9)
    for own, other in zip(layered, plain, strict=True):
        for layer in START:
            np.testing.assert_allclose(own[layer], other[layer], rtol=1e-6)


def test_a_frozen_layer_has_no_optimizer_state_yet() -> None:
    tx = optimizer(unfreeze_epochs=0.5)
    state = first = tx.init(float32(START))
    update = jax.jit(tx.update)
    for grads in GRADS[:2]:
        with jax.numpy_dtype_promotion("standard"):
            _, state = update(float32(grads), state, float32(START))
    rules, untouched = (tree[-1].inner_states for tree in (state, first))
    assert int(rules[2].inner_state.step) == 2
    frozen, fresh = (tree[2].inner_state.rule for tree in (rules, untouched))
    jax.tree.map(np.testing.assert_array_equal, frozen, fresh)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(rules[0]))
    saved = jax.tree.map(np.asarray, nest(flatten(state)))
    restored = restore_like(first, saved, where="a checkpoint")
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_seeds_side_by_side_unfreeze_alike() -> None:
    """Under `vmap` both end where plain Adam would."""
    tx = optimizer(learning_rate=0.1, unfreeze_epochs=0.5, clip_norm=None)

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        loss = sum((params[name] * batch[name]).sum() for name in START)
        return loss, LossAux(carry, {"nll": Sum(loss, jnp.float32(1))}, jnp.float32(1))

    def state_of(key: Any) -> TrainState:
        return init_state(float32(START), tx, key)

    batches = jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *GRADS)
    keys = [jax.random.key(seed) for seed in (0, 1)]
    layout = make_seed_layout(2, 1, vmap=True)
    multi_step = jit_multi_step(make_train_step(loss_fn, tx), layout)
    state, _ = multi_step(first_states(state_of, keys, layout), batches, np.int32(STEPS))
    for layer, depth in DEPTHS.items():
        expected = adam([0.1] * STEPS, 2 * depth, layer)[-1]
        for own in np.asarray(state.params[layer]):
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)


def test_the_schedule_of_ulmfit_can_be_said() -> None:
    """Slanted triangular rates (equation 3), but from zero where it has a 32nd of the peak."""
    total, cut, ratio, peak = 1000, 100, 32, 0.01
    config = OptimizerConfig(
        learning_rate=peak, schedule="linear", warmup_steps=cut, final_fraction=1 / ratio
    )
    _, rate = optimizer_of(config, steps(total, 100))
    for step in (0, 1, 50, 100, 101, 400, 999):
        p = step / cut if step < cut else 1 - (step - cut) / (total - cut)
        expected = peak * (1 + p * (ratio - 1)) / ratio
        close = peak / ratio if step < cut else 1e-8
        with jax.numpy_dtype_promotion("standard"):
            assert abs(float(rate(step)) - expected) <= close * 1.0001


@pytest.mark.parametrize("settings", [{"layer_decay": 0.5}, {"unfreeze_epochs": 1.0}])
def test_a_task_without_depths(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=f"`optimizer.{name}` is for tasks that say how deep"):
        optimizer_of(OptimizerConfig(**settings), steps())


@pytest.mark.parametrize(("name", "value"), [("layer_decay", 0), ("layer_decay", 1.5)])
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"`optimizer.{name}` must be (more than 0|at most 1)"):
        parse_toml(f"[optimizer]\n{name} = {value}")

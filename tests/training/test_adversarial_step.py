"""The step of several phases against plain loops over optax, on devices and over seeds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training.adversarial_step import Phase, init_adversarial_state, make_adversarial_step
from jaxgen.training.parallel import jit_multi_step, make_layout
from jaxgen.training.phases import PhasedBatch
from jaxgen.training.seeds import make_seed_layout
from jaxgen.training.step import TrainState, multi_step_of
from jaxgen.types import LossAux, Sum

ROWS, D = 4, 3
ORDER = [0, 2, 1, 2, 1]
FIT, COPY, JUDGE = optax.adam(0.1), optax.sgd(0.5), optax.adam(0.2)
X = np.random.default_rng(0).normal(size=(len(ORDER), ROWS, D)).astype(np.float32)
WEIGHTS = np.array([1, 1, 1, 0], np.float32)  # not the same on both devices


def judged(params: Any, x: Any) -> Any:
    return jnp.tanh(x + params["generator"]) @ params["discriminator"]


def result(values: Any, weights: Any, name: str) -> Any:
    total, count = (values * weights).sum(), weights.sum()
    return total / jnp.maximum(count, 1), LossAux((), {name: Sum(total, count)}, count)


def fit(params: Any, extra: Any, batch: Any, key: Any, step: Any) -> Any:
    x, weights = batch
    return result(jnp.square(x - params["generator"]).sum(axis=1), weights, "fit")


def fool(params: Any, extra: Any, batch: Any, key: Any, step: Any) -> Any:
    x, weights = batch
    warmth = 1.0 / (1 + step).astype(jnp.float32)
    return result(warmth * (extra["baseline"] - judged(params, x)), weights, "fool")


def judge(params: Any, extra: Any, batch: Any, key: Any, step: Any) -> Any:
    x, weights = batch
    fake = jax.nn.softplus(judged(params, x))
    real = jax.nn.softplus(-(x @ params["discriminator"]))
    return result(fake + real, weights, "judge")


def remember(extra: Any, sums: Any) -> Any:
    return {"baseline": 0.5 * extra["baseline"] + sums["fool"].total / sums["fool"].weight}


PHASES = (
    Phase("generator", fit, FIT, "fit", copy_to="kept"),
    Phase("generator", fool, COPY, "generator", remember),
    Phase("discriminator", judge, JUDGE, "discriminator"),
)


def parts(shift: float = 0.0) -> dict[str, Any]:
    start = {"generator": jnp.array([0.1, -0.2, 0.3]), "discriminator": jnp.array([1.0, 2.0, -1.0])}
    return {name: x + shift for name, x in (start | {"kept": jnp.zeros(D)}).items()}


def first_state(phases: Any = PHASES, shift: float = 0.0) -> TrainState:
    extra = {"baseline": jnp.float32(0.25)}
    return init_adversarial_state(parts(shift), phases, jax.random.key(1), extra)


def batches(order: Any = ORDER) -> PhasedBatch:
    phase = np.repeat(np.array(order, np.int32)[:, None], ROWS, axis=1)
    return PhasedBatch((X, np.tile(WEIGHTS, (len(order), 1))), phase)


def reference(shift: float = 0.0) -> tuple[dict[str, Any], Any, list[dict[str, float]]]:
    """What anyone would write."""
    params, extra = parts(shift), {"baseline": jnp.float32(0.25)}
    opt = {phase.optimizer: phase.tx.init(params[phase.part]) for phase in PHASES}
    rows = []
    for step, number in enumerate(ORDER):
        phase, batch = PHASES[number], (jnp.asarray(X[step]), jnp.asarray(WEIGHTS))
        grads, aux = jax.grad(phase.loss_fn, has_aux=True)(
            params, extra, batch, None, jnp.int32(step)
        )
        with jax.numpy_dtype_promotion("standard"):
            updates, opt[phase.optimizer] = phase.tx.update(
                grads[phase.part], opt[phase.optimizer], params[phase.part]
            )
        params[phase.part] = params[phase.part] + updates
        if number == 0:
            params["kept"] = params["generator"]
        if number == 1:
            extra = remember(extra, aux.sums)
        rows.append({name: float(total) for name, (total, _) in aux.sums.items()})
    return params, extra, rows


def assert_close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_steps_are_a_plain_loop(devices: int) -> None:
    if jax.device_count() < devices:
        pytest.skip("needs two devices")
    layout = make_layout(devices)
    multi_step = jit_multi_step(make_adversarial_step(PHASES, axis_name=layout.axis_name), layout)
    state = layout.place_state(first_state())
    state, metrics = multi_step(state, layout.place_batches(batches()), len(ORDER))
    params, extra, rows = reference()
    assert_close((state.params, state.extra), (params, extra))
    assert set(metrics.sums) == {"fit", "fool", "judge"}
    for name, (totals, counts) in metrics.sums.items():
        np.testing.assert_allclose(totals, [row.get(name, 0) for row in rows], rtol=1e-5)
        assert counts.tolist() == [3.0 if name in row else 0.0 for row in rows]
    assert int(state.step) == len(ORDER)
    assert metrics.finite.all()
    np.testing.assert_array_equal(metrics.weight, 3)


@pytest.mark.parametrize("vmap", [False, True])
def test_seeds_are_single_runs_and_make_one_phase_a_step(vmap: bool) -> None:
    ran = []

    def spied(number: int, phase: Phase) -> Phase:
        def loss_fn(*args: Any) -> Any:
            jax.debug.callback(lambda _: ran.append(number), args[-1])
            return phase.loss_fn(*args)

        return phase._replace(loss_fn=loss_fn)

    layout = make_seed_layout(2, 1, vmap)
    phases = [spied(number, phase) for number, phase in enumerate(PHASES)]
    run = layout.divide(multi_step_of(make_adversarial_step(phases)))
    states = layout.stack_runs([first_state(), first_state(shift=0.5)])
    ends, _ = jax.jit(run)(states, batches(), len(ORDER))
    jax.effects_barrier()
    assert sorted(ran) == sorted(2 * ORDER)  # each loss where it is asked for, and no other
    for index, shift in enumerate((0.0, 0.5)):
        own = layout.of_run((ends.params, ends.extra), index)
        assert_close(own, reference(shift)[:2])


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    def poisoned(params: Any, extra: Any, batch: Any, key: Any, step: Any) -> Any:
        loss, aux = judge(params, extra, batch, key, step)
        return jnp.where(step == 3, jnp.nan, loss), aux

    phases = (*PHASES[:2], PHASES[2]._replace(loss_fn=poisoned))
    multi_step = jax.jit(multi_step_of(make_adversarial_step(phases)))
    state, metrics = multi_step(first_state(phases), batches(), len(ORDER))
    good, _ = multi_step(first_state(phases), batches(), 3)
    assert metrics.finite.tolist() == [True, True, True, False, False]
    assert not state.finite
    assert int(state.step) == 3
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.params, state.opt_state, state.extra),
        (good.params, good.opt_state, good.extra),
    )


def test_each_step_and_phase_has_its_own_key() -> None:
    seen = []

    def spy(params: Any, extra: Any, batch: Any, key: Any, step: Any) -> Any:
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return judge(params, extra, batch, key, step)

    phases = (*PHASES[:2], PHASES[2]._replace(loss_fn=spy))
    step = jax.jit(multi_step_of(make_adversarial_step(phases)))
    jax.block_until_ready(step(first_state(phases), batches([2] * 5), 5))
    jax.effects_barrier()
    assert len(set(seen)) == 5

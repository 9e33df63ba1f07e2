"""Steps whose values are arguments: the same steps, and one program for every learning rate."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.training.optimizers import make_optimizer, make_schedule
from jaxgen.training.parallel import Layout, jit_multi_step, make_layout
from jaxgen.training.seeds import first_states, make_seed_layout
from jaxgen.training.shared_programs import jit_shared_steps, shared_program
from jaxgen.training.step import init_state, make_train_step, multi_step_of

LAYOUTS = {
    "one device": Layout,
    "two devices": lambda: make_layout(2),
    "two seeds": lambda: make_seed_layout(2, 1),
}


def parts(toy: Any, layout: Layout, rate: float = 0.1) -> tuple[Any, Any]:
    """A training step, and a function that makes the state before it."""
    schedule = make_schedule(
        learning_rate=rate, schedule="cosine", warmup_steps=2, total_steps=9, final_fraction=0.1
    )
    tx = make_optimizer(name="adam", learning_rate=schedule, clip_norm=1.0)

    def state_of(key: Any) -> Any:
        return init_state(toy.init_params(), tx, key, carry=toy.carry())

    def first_state() -> Any:
        keys = [jax.random.key(1), jax.random.key(2)]
        if layout.axis_name is None and hasattr(layout, "seeds"):
            return first_states(state_of, keys, layout)
        return layout.place_state(state_of(keys[0]))

    return make_train_step(toy.loss_fn, tx, axis_name=layout.axis_name), first_state


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(LAYOUTS)[1:]]


@pytest.mark.parametrize("name", ["one device", *SLOW])
def test_the_same_steps(name: str, toy: Any) -> None:
    if name == "two devices" and jax.device_count() < 2:
        pytest.skip("needs two devices")
    layout = LAYOUTS[name]()
    train_step, first_state = parts(toy, layout)
    ends = []
    for jit_steps in (jit_multi_step, jit_shared_steps):
        multi_step = jit_steps(train_step, layout)
        state = first_state()
        for count in (3, 2):
            batches = layout.place_batches(toy.Stream().read(0, 0, 3))
            state, metrics = multi_step(state, batches, np.int32(count))
        ends.append(jax.tree.map(np.asarray, (state.params, metrics)))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_one_program_for_every_learning_rate(toy: Any) -> None:
    texts, plain = [], []
    for rate in (0.1, 0.2):
        train_step, first_state = parts(toy, Layout(), rate)
        multi_step = multi_step_of(train_step)
        state, batches, count = first_state(), toy.Stream().read(0, 0, 3), np.int32(3)
        program = shared_program(multi_step, state, batches, count)
        lowered = program.jitted.lower(state, (batches, count), program.closed_over)
        texts.append(lowered.as_text())
        plain.append(jax.jit(multi_step).lower(state, batches, count).as_text())
    assert texts[0] == texts[1]
    assert plain[0] != plain[1]  # or nothing would have to be done

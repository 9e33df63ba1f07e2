"""The bytes that a step sends: the closed form against the collectives of the real program."""

import jax
import numpy as np
import pytest

from benchmarks.cases import Case
from benchmarks.communication import (
    CLUSTERS,
    SHAPES,
    Cluster,
    counted_bytes,
    rows_to_pay,
    step_bytes,
)
from benchmarks.costs import parameter_count
from benchmarks.jaxgen_lm import loss_of, model_of, params_of
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.parallel import jit_multi_step, make_layout
from jaxgen.training.step import init_state, make_train_step


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("case", [Case(B=2, T=3, H=4, V=5), Case(B=2, T=3, H=4, V=5, L=2, E=3)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_sends_the_closed_form(case: Case, accumulate: int) -> None:
    layout, model, tx = (
        make_layout(2),
        model_of(case),
        make_optimizer(name="sgd", learning_rate=1.0),
    )
    state = init_state(params_of(case), tx, jax.random.key(0), carry=model.initial_carry(case.B))
    tokens = np.zeros((2, *(accumulate,) * (accumulate > 1), case.B, case.T + 1), np.int32)
    step = make_train_step(loss_of(model), tx, axis_name=layout.axis_name, accumulate=accumulate)
    steps = jit_multi_step(step, layout, accumulate=accumulate)
    program = steps.lower(state, {"tokens": tokens}, np.int32(1)).compile().as_text()
    assert sum(counted_bytes(program)) == step_bytes(parameter_count(case))
    assert len(counted_bytes(program)) == 1  # in the loop over steps, and not in one within it


def test_bytes_are_read_off_a_program() -> None:
    text = """
  %a = (f32[8,4]{1,0}, bf16[3]{0}, f32[]) all-reduce(%x, %y, %z), channel_id=1
  ROOT %b = f32[2]{0} all-gather-start(%a)
  %c = f32[100]{0} add(%a, %b)
"""
    assert counted_bytes(text) == [4 * 32 + 2 * 3 + 4, 8]


def test_a_ring_by_hand() -> None:
    """Four devices, 8 bytes at 2 bytes a second: each sends 12 bytes, in 6 messages of 0.5 s."""
    cluster = Cluster("by hand", 4, flops=1.0, share=1.0, bandwidth=2.0, latency=0.5, messages=6)
    assert cluster.reduce_seconds(8) == 12 / 2 + 3
    assert step_bytes(10) == 4 * 14


def test_ethernet_needs_more_rows_than_one_host() -> None:
    host, ethernet, _ = CLUSTERS
    for shape in SHAPES:
        assert rows_to_pay(shape, ethernet) > rows_to_pay(shape, host) > 0

"""Closed-form costs against the products in the real programs' jaxprs."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import costs
from benchmarks.cases import Case
from benchmarks.jaxgen_lm import loss_of, model_of, params_of, unfolded_loss_of
from jaxgen.models.decoding import step_fn_of
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.step import init_state, make_train_step

CASES = [
    Case(B=3, T=5, H=8, V=11),
    Case(B=3, T=5, H=8, V=11, L=3),
    Case(B=3, T=5, H=8, V=11, E=6),
    Case(B=3, T=5, H=8, V=40, E=6, L=2),  # more tokens in the table than steps: not folded
    Case(B=3, T=5, H=8, V=600, E=6),  # the table's gradient is a scatter
]


def traced_train_step(case: Case, folded: bool) -> float:
    model = model_of(case)
    loss_fn = (loss_of if folded else unfolded_loss_of)(model)
    tx = make_optimizer(name="adam", learning_rate=1e-3, clip_norm=1.0)
    carry = model.initial_carry(case.B)
    state = init_state(params_of(case), tx, jax.random.key(0), carry=carry)
    batch = {"tokens": jnp.asarray(case.batches(1)[0])}
    return costs.traced_flops(make_train_step(loss_fn, tx), state, batch)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_train_step_flops_are_those_of_the_program(case: Case, folded: bool) -> None:
    assert costs.train_step(case, folded=folded).flops == traced_train_step(case, folded)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation_flops_are_those_of_the_program(case: Case) -> None:
    model = model_of(case)
    batch = {"tokens": jnp.asarray(case.batches(1)[0])}
    carry = model.initial_carry(case.B)
    found = costs.traced_flops(loss_of(model), params_of(case), carry, batch, None)
    assert costs.evaluation(case).flops == found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sampler_step_flops_are_those_of_the_program(case: Case) -> None:
    model = model_of(case)
    step_fn = step_fn_of(model)
    prepared = step_fn.prepare(params_of(case))
    tokens = jnp.zeros(case.B, jnp.int32)
    found = costs.traced_flops(step_fn, prepared, model.initial_carry(case.B), tokens)
    assert costs.sampler_step(case).flops == found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameter_count(case: Case) -> None:
    counted = sum(x.size for x in jax.tree.leaves(params_of(case)))
    assert costs.parameter_count(case) == counted


def test_xla_counts_a_loop_body_once_and_traced_flops_counts_every_trip() -> None:
    """What XLA reports for a scan of 50 products is one body's; the jaxpr walk reports all 50."""
    weight, start = jnp.ones((16, 16)), jnp.ones((4, 16))
    body = 2 * 4 * 16 * 16

    def scan(trips: int) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ weight, None), start, length=trips)[0]

    reported = costs.compiled_flops(lambda: scan(50))
    assert body <= reported < 2 * body
    assert costs.traced_flops(lambda: scan(50)) == 50 * body


def test_nested_scans_multiply() -> None:
    weight = jnp.ones((4, 4))

    def inner(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.lax.scan(lambda y, _: (y @ weight, None), x, length=3)[0], None

    found = costs.traced_flops(lambda x: jax.lax.scan(inner, x, length=5)[0], jnp.ones((2, 4)))
    assert found == 5 * 3 * 2 * 2 * 4 * 4


def test_a_while_loop_with_products_is_refused() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ y, x)

    with pytest.raises(ValueError, match="trip count"):
        costs.traced_flops(loop, jnp.ones((2, 2)))


def test_floor_takes_the_larger_bound_and_the_right_level() -> None:
    ceilings = {
        "matmul": {"float32": 100.0},
        "read": {"cache_small": 50.0, "cache_large": 20.0, "memory": 10.0},
    }
    assert costs.floor_seconds(costs.Cost(1000, 100), ceilings) == 10
    assert costs.floor_seconds(costs.Cost(100, 100), ceilings) == 2
    big = 2.0**25
    assert costs.floor_seconds(costs.Cost(100, big), ceilings) == big / 10
    # A small matrix that is read again and again comes from the cache, whatever else moves.
    again = costs.Cost(100, big, weights=500.0, matrix=50.0)
    assert costs.floor_seconds(again, ceilings) == big / 10 + 10


def test_figures_by_hand() -> None:
    ceilings = {"matmul": {"bfloat16": 100.0}, "read": {"cache_small": 50.0}}
    found = costs.figures(costs.Cost(100, 10), 4, 2.0, ceilings, "bfloat16")
    assert found["tokens_per_second"] == 2
    assert found["flops_per_second"] == 50
    assert found["share_of_matmul"] == found["share_of_floor"] == 0.5
    assert (found["intensity"], found["floor_seconds"]) == (10, 1)

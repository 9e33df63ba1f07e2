"""Sums over held-out batches: batches of several shapes, few programs."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaxgen.evaluation.sums import make_sums
from jaxgen.types import Array, LossAux, Sum


def test_batches_of_several_shapes_are_summed_in_order() -> None:
    traced = []

    def loss_fn(
        params: Array, carry: Array, batch: dict[str, Array], key: None
    ) -> tuple[Array, LossAux]:
        traced.append(batch["x"].shape)
        total = (params * batch["x"]).sum()
        count = jnp.float32(batch["x"].size)
        carry = 2 * carry + total  # tells the order
        return total, LossAux(carry, {"x": Sum(total, count), "carry": Sum(carry, count)}, count)

    widths = [3, 3, 3, 5, 5, 3]

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number, width in enumerate(widths, 1):
            yield {"x": np.full((2, width), number, np.float32)}

    sums = make_sums(loss_fn, batches_per_dispatch=2)(jnp.float32(1), jnp.float32(0), batches())
    totals = [2 * width * number for number, width in enumerate(widths, 1)]
    carry, carries = 0, 0
    for total in totals:
        carry = 2 * carry + total
        carries += carry
    assert float(sums["x"].total) == sum(totals)
    assert float(sums["x"].weight) == 2 * sum(widths)
    assert float(sums["carry"].total) == carries
    assert {*traced} == {(2, 3), (2, 5)}
    assert len(traced) == 2  # once a shape


def test_no_batches_give_no_sums() -> None:
    sums = make_sums(lambda params, carry, batch, key: jnp.zeros(()))
    assert sums(jnp.float32(1), (), []) == {}

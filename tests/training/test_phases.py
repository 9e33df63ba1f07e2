"""The order of phases, by hand, and the batches that carry it."""

from typing import Any

import numpy as np

from jaxgen.training.phases import PhasedBatches, PhaseOrder


def test_phases_follow_one_another_and_then_take_turns() -> None:
    order = PhaseOrder(first=((0, 3), (1, 2)), cycle=(1, 1, 2))
    assert order.first_steps == 5
    steps = np.arange(12)
    expected = [0, 0, 0, 1, 1, 1, 1, 2, 1, 1, 2, 1]
    assert order.of_steps(steps).tolist() == expected
    assert order.of_steps(steps[7:9]).tolist() == expected[7:9]
    assert order.of_steps(steps).dtype == np.int32


def test_batches_carry_the_phase_of_their_step(toy: Any) -> None:
    source = toy.Stream()
    batches = PhasedBatches(source, PhaseOrder(first=((0, toy.WINDOWS + 1),), cycle=(1, 2)))
    (shape,) = batches.shapes
    read = batches.read(1, 0, 4)  # of the second epoch, whose first step is the last of phase 0
    assert read.phase.shape == (4, *shape.phase.shape) == (4, toy.B)
    assert read.phase.dtype == shape.phase.dtype
    assert read.phase.tolist() == [[phase] * toy.B for phase in (0, 1, 2, 1)]
    np.testing.assert_array_equal(read.batch["tokens"], source.read(1, 0, 4)["tokens"])
    some = batches.read(1, 1, 2, slice(1, 3))
    assert some.phase.tolist() == [[1, 1], [2, 2]]
    assert batches.batches_per_epoch == toy.WINDOWS
    assert batches.same_shape(0, 2) == toy.WINDOWS - 2

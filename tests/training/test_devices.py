"""Compiling ahead: every shape of batch has its program before the first step."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.training import loop
from jaxgen.training.devices import choose_devices, jitted_init
from jaxgen.training.progress import Display
from jaxgen.training.runs import Run
from jaxgen.training.schedule import StepSchedule


@pytest.mark.slow
def test_batches_of_several_shapes_are_compiled_ahead(toy: Any, tmp_path: Path) -> None:
    """A bucketed source: four short batches, then the others; the loop compiles nothing more."""

    class Buckets(toy.Stream):
        short = toy.T - 2

        @property
        def shapes(self) -> Any:
            lengths = (self.short, toy.T)
            return [{"tokens": jax.ShapeDtypeStruct((toy.B, n + 1), np.int32)} for n in lengths]

        def same_shape(self, epoch: int, first: int) -> int:
            return 4 - first if first < 4 else toy.WINDOWS - first

        def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> Any:
            tokens = super().read(epoch, first, count, rows)["tokens"]
            return {"tokens": tokens[..., : self.short + 1] if first < 4 else tokens}

    settings = toy.config(epochs=2.0, devices=1, accumulate_steps=2)
    trainable = toy.trainable(settings, stream=Buckets())
    schedule = StepSchedule(trainable.batches, settings)
    run = Run.create(tmp_path, toy.FILES)
    init, display = jitted_init(trainable), Display(schedule.total, toy.OBJECTIVE)
    layout, multi_step = choose_devices(trainable, init, schedule, settings, run, display)
    assert multi_step._cache_size() == 2
    state = init(jax.random.key(0))
    opened = loop.open_loop(trainable, state, multi_step, [run], settings, layout=layout)
    (result,) = loop.train(opened)
    assert (result.reason, result.steps) == ("finished", 12)
    assert multi_step._cache_size() == 2
    assert run.notes["devices"] == 1

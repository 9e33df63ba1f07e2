"""A training of jaxgen that pauses after each of its evaluations, as a contestant."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.cli.train import parse_train
from jaxgen.tasks import task_of
from jaxgen.training.devices import choose_devices, jitted_init
from jaxgen.training.loop import evaluations, open_loop
from jaxgen.training.loop_state import Loop
from jaxgen.training.open_runs import open_run
from jaxgen.training.parallel import request_host_devices
from jaxgen.training.progress import Display
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.step import evaluation_params


class JaxgenRun:
    """What `jaxgen.train` does with a configuration of an encoder-decoder, step for step.

    Its seconds begin before the corpus is read and have everything in them but the imports:
    tokenizing, compilation, training, validation, checkpoints. What is done between two calls of
    `advance` is not in them.

    Args:
        arguments: of `jaxgen train`, a configuration and options.
    """

    _loop: Loop
    _load: Callable[[Any], Any]

    def __init__(self, arguments: list[str]):
        self.experiment = parse_train(arguments).experiment
        request_host_devices(self.experiment.training.devices)
        self.seconds = 0.0
        self._folder = tempfile.TemporaryDirectory()
        self._evaluations = self._train(Path(self._folder.name, "run"))

    def advance(self) -> dict[str, Any] | None:
        """Train to the next evaluation.

        Returns:
            `seconds` of the training so far, `steps`, and the figures of the validation pairs;
            None where the training has ended.
        """
        started = time.perf_counter()
        figures = next(self._evaluations, None)
        self.seconds += time.perf_counter() - started
        if figures is None:
            return None
        return {"seconds": self.seconds, "steps": self._loop.step, **figures}

    def answers(self, sources: list[str]) -> list[str]:
        """What the model of now writes for each source, greedily."""
        params = self._loop.layout.local(evaluation_params(self._loop.state))
        # Not bound to the device that they lie on: decoding takes all.
        model = self._load(jax.tree.map(np.asarray, params))
        return model.translate(sources, beam_size=1)

    def _train(self, out: Path) -> Iterator[dict[str, float]]:
        """The figures of each evaluation; see `jaxgen.experiment.train`."""
        experiment, task = self.experiment, task_of(self.experiment)
        config = experiment.training
        data = task.open_data(experiment)
        files = dict(task.fit_files(experiment, data, None))
        self._load = lambda params: task.load(experiment, files, params)
        trainable = task.build(experiment, files, data, out / "tokens", None)
        run = open_run(out, experiment, files, trainable, resume=False, overwrite=False)
        init = jitted_init(trainable)
        schedule = StepSchedule(trainable.batches, config)
        display = Display(schedule.total, trainable.objective)
        layout, multi_step = choose_devices(trainable, init, schedule, config, run, display)
        state = init(jax.random.key(config.seed))
        self._loop = open_loop(
            trainable, state, multi_step, [run], config, layout=layout, display=display
        )
        for evaluated in evaluations(self._loop):
            yield evaluated.figures[0]

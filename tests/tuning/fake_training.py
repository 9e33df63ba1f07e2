"""Trials whose figures are given rather than trained, for the tests of what a study does."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxgen.config import Experiment
from jaxgen.errors import UserError
from jaxgen.training.trainable import Objective
from jaxgen.tuning import pictures, trials

Curves = Callable[[Experiment], Sequence[Sequence[float]]]
"""The best figure of each seed so far, for each evaluation."""


def fake_training(
    monkeypatch: pytest.MonkeyPatch,
    curves: Curves,
    at: Callable[[Any], None] = lambda loop: None,
    *,
    plot: bool = False,
) -> list[Any]:
    """Let trials have these figures; the loops that were opened, in order.

    Args:
        monkeypatch: Of the test.
        curves: Raises what a training would, or gives its figures.
        at: Called at each evaluation with the loop.
        plot: Draw the study in the end.
    """
    loops: list[Any] = []

    def open_(self: trials.Trials, experiment: Experiment, directory: Path) -> Any:
        seeds = [
            SimpleNamespace(best=None, diverged=False, name=f"seed-{seed}", progress=None)
            for seed in range(self.seeds or 1)
        ]
        (directory / "weights").write_text("large")
        loop = SimpleNamespace(
            experiment=experiment,
            config=experiment.training,
            runs=seeds,
            step=0,
            schedule=SimpleNamespace(epoch_steps=1),
            trainable=SimpleNamespace(
                digests={"validation": "same"}, objective=Objective("nll", counts="tokens")
            ),
            reason="finished",
            interrupted=lambda: False,
        )
        loops.append(loop)
        return loop

    def evaluations(loop: Any) -> Iterator[None]:
        for figures in curves(loop.experiment):
            loop.step += 1
            for run, figure in zip(loop.runs, figures, strict=True):
                run.best = figure
            at(loop)
            yield

    monkeypatch.setattr(trials.Trials, "_open", open_)
    monkeypatch.setattr(trials, "evaluations", evaluations)
    if not plot:
        monkeypatch.setattr(pictures, "plot_study", lambda *args: None)
    return loops


def diverge(experiment: Experiment) -> Any:
    raise UserError("`loss` is nan at step 3: training stopped; lower `optimizer.learning_rate`")

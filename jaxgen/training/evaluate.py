"""One evaluation in the training loop: measure, show, find what is best and what stops, save."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.training.loop_state import Evaluated, Loop, fail, place_states, save, states_of
from jaxgen.training.plots import plot_run
from jaxgen.training.progress import spread
from jaxgen.training.run_progress import EARLY_STOPPING
from jaxgen.training.step import evaluation_params, is_averaging, start_averaging
from jaxgen.training.trainable import Sample
from jaxgen.types import PyTree


def evaluate(loop: Loop) -> Evaluated:
    """Measure, show, find what is best and what stops, and save."""
    params = loop.layout.local(evaluation_params(loop.state))
    figures = loop.processes.from_first(
        f"the evaluation of step {loop.step}", lambda: measure(loop, params)
    )
    name = loop.trainable.objective.name
    for i in loop.active:
        if name in figures[i] and not np.isfinite(figures[i][name]):
            what = f"validation {name} is {figures[i][name]} at step {loop.step}"
            fail(loop, i, what, loop.step)
    writes = loop.trainable.sample if loop.processes.leads else None
    samples = [] if writes is None else list(writes(params))
    rows, best = {}, set()
    for i in loop.active:
        run, own = loop.runs[i], figures[i]
        if name in own and run.add_evaluation(own[name]):
            best.add(i)
        row = loop.where | {f"validation_{figure}": value for figure, value in own.items()}
        if samples:
            row["samples"] = [list(sample) for sample in samples]
        run.run.append_metrics(row | {"seconds": round(loop.elapsed, 3)})
        rows[i] = row
    show_evaluation(loop, rows, best, samples)
    sound_alarms(loop, figures)
    average_stalled_runs(loop, rows)
    if len(loop.runs) > 1:
        for i in rows:
            if loop.runs[i].out_of_patience(loop.config.patience):
                loop.runs[i].progress.stopped = EARLY_STOPPING
                loop.display.line(f"{loop.runs[i].name} stops early, at step {loop.step}")
    save(loop, list(rows), best)
    if len(loop.active) < len(loop.runs):
        place_states(loop, states_of(loop))
    if loop.trainable.plotted and loop.processes.leads:
        for i in rows:
            plot_run(loop.runs[i].run, loop.trainable.objective, loop.trainable.plotted)
    return Evaluated(loop.step, [own if i in rows else {} for i, own in enumerate(figures)])


def measure(loop: Loop, params: PyTree) -> list[dict[str, float]]:
    """The figures of each run on held-out data."""
    evaluation, runs = loop.trainable.evaluation, range(len(loop.runs))
    if evaluation is None:
        return [{} for _ in runs]
    sums = jax.tree.map(np.asarray, evaluation.sums(params))
    figures = [loop.trainable.figures(loop.layout.of_run(sums, i)) for i in runs]
    if evaluation.generated is not None:
        for i in loop.active:
            figures[i] |= evaluation.generated(loop.layout.of_run(params, i))
    return figures


def show_evaluation(
    loop: Loop, rows: dict[int, dict[str, Any]], best: Collection[int], samples: Sequence[Sample]
) -> None:
    """An evaluation of one run as it is; of several, how far the objective spreads."""
    if len(loop.runs) == 1:
        for i, row in rows.items():
            loop.display.evaluation(row, best=i in best, samples=samples)
        return
    objective = loop.trainable.objective
    name = f"validation_{objective.shown_name}"
    values = {loop.runs[i].name: row[name] for i, row in rows.items() if name in row}
    if values:
        epoch = loop.step / loop.schedule.epoch_steps
        found = spread(values, objective)
        loop.display.line(f"step {loop.step}  epoch {epoch:.2f}  {name} {found}")


def sound_alarms(loop: Loop, figures: Sequence[dict[str, float]]) -> None:
    """Say once of each run what the task finds wrong with its figures."""
    if loop.trainable.alarm is None:
        return
    for i in loop.active:
        found = None if loop.runs[i].progress.alarmed else loop.trainable.alarm(figures[i])
        if found is not None:
            loop.runs[i].progress.alarmed = True
            who = "" if len(loop.runs) == 1 else f"{loop.runs[i].name}: "
            loop.display.line(f"warning: {who}step {loop.step}: {found}")


def average_stalled_runs(loop: Loop, evaluated: Collection[int]) -> None:
    """Let NT-ASGD begin in the runs whose evaluations bring nothing better."""
    if loop.config.averaging != "nt_asgd" or loop.trainable.evaluation is None:
        return
    states = states_of(loop)
    stalled = [
        i
        for i in evaluated
        if loop.runs[i].stalls(loop.config.nt_asgd_window) and not is_averaging(states[i])
    ]
    for i in stalled:
        states[i] = start_averaging(states[i])
        who = "" if len(loop.runs) == 1 else f"{loop.runs[i].name}: "
        loop.display.line(f"{who}validation stalls: averaging the parameters from here on")
    if stalled:
        place_states(loop, states)

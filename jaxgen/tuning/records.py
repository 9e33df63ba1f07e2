"""What is known of the trials of a study: which is best, and how the others ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from jaxgen.training.trainable import Objective
from jaxgen.tuning.space import Choices, Space
from jaxgen.tuning.study import stored

_ENDS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Trial:
    """One trial."""

    number: int
    ended: str
    """finished, early stopping, pruned, time is up, interrupted, failed, running, or lost: killed
    before it could say how it ended."""
    value: float | None
    """The mean over its seeds of each one's best figure, in the objective's unit; None where it
    failed or goes on."""
    figures: tuple[float, ...]
    """The best figure of each seed."""
    settings: dict[str, Any]
    """Those of the space, by their full names."""
    failure: str | None
    """Why it failed."""
    steps: int
    """Optimizer steps made."""
    seconds: float
    """That it took."""
    curve: tuple[tuple[int, float], ...]
    """Number of each evaluation, and the figure so far."""
    host: str
    """The machine that trained it."""
    directory: str
    """Where, on that machine."""


def records(study: optuna.Study, space: Space) -> list[Trial]:
    """The trials that have begun, by number."""
    return [
        _record(trial, space)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
    ]


def best_of(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The trial of the best figure, of equals the first; None where none has any."""
    values = {trial.number: trial.value for trial in trials if trial.value is not None}
    if not values:
        return None
    number = list(values)[objective.best(list(values.values()))]
    return next(trial for trial in trials if trial.number == number)


def _record(trial: FrozenTrial, space: Space) -> Trial:
    known = trial.user_attrs.get("place", {}) | trial.user_attrs.get("result", {})
    figures = tuple(known.get("figures", ()))
    ended = known.get("ended", _ENDS[trial.state])
    if trial.state == TrialState.FAIL:
        ended, figures = "failed" if known.get("failure") else "lost", ()
    return Trial(
        number=trial.number,
        ended=ended,
        value=fmean(figures) if figures and trial.state.is_finished() else None,
        figures=figures,
        settings={name: _value(space, name, kept) for name, kept in trial.params.items()},
        failure=known.get("failure"),
        steps=known.get("steps", 0),
        seconds=known.get("seconds", 0.0),
        curve=tuple(sorted(trial.intermediate_values.items())),
        host=known.get("host", ""),
        directory=known.get("directory", ""),
    )


def _value(space: Space, name: str, kept: Any) -> Any:
    """A setting as the configuration has it, from what Optuna keeps."""
    allowed = space.get(name)
    if not isinstance(allowed, Choices):
        return kept
    return next((value for value in allowed.values if stored(value) == kept), kept)


def table(trials: Sequence[Trial], objective: Objective, most: int = 20) -> str:
    """The best trials, one a line, then how many there are of each end.

    Args:
        trials: From `records`.
        objective: Of the study.
        most: Lines at most.
    """
    measured = [trial for trial in trials if trial.value is not None]
    sign = -1.0 if objective.higher_is_better else 1.0
    measured.sort(key=lambda trial: (sign * (trial.value or 0.0), trial.number))
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    rows = [["trial", objective.shown_name, "ended", "steps", "seconds", *names]]
    for trial in measured[:most]:
        value = objective.show(trial.value or 0.0)
        settings = [_cell(trial.settings.get(name)) for name in names]
        figures = [f"{value:.4f}", trial.ended, str(trial.steps), f"{trial.seconds:.0f}"]
        rows.append([str(trial.number), *figures, *settings])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = dict.fromkeys(trial.ended for trial in trials)
    ends = [f"{sum(trial.ended == end for trial in trials)} {end}" for end in counts]
    return "\n".join([*lines, f"{len(trials)} trials: {', '.join(ends)}"])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""study.png: how a study went, and what each setting does, where matplotlib is installed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgen.evaluation.pictures import can_draw, new_figure, save_figure
from jaxgen.training.trainable import Objective
from jaxgen.tuning.records import Trial
from jaxgen.tuning.space import Choices, Range, Space

_COLUMNS = 2
_DONE, _CUT, _BEST = "#2c6fab", "#b8c4d0", "#c0392b"


def plot_study(
    trials: Sequence[Trial], space: Space, objective: Objective, path: Path
) -> Path | None:
    """Draw the figure of each trial, their courses, and the figure over each setting.

    Returns:
        The picture's path, or None without matplotlib, without a figure or on a full disk.
    """
    measured = [trial for trial in trials if trial.value is not None]
    if not measured or not can_draw():
        return None
    rows = 1 + math.ceil(len(space) / _COLUMNS)
    figure = new_figure(10.0, 3.6 * rows)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    label = f"validation {objective.shown_name}"
    _history(axes[0, 0], measured, objective)
    _courses(axes[0, 1], trials, objective)
    spots = axes[1:].ravel()
    for spot, (name, allowed) in zip(spots, space.items(), strict=False):
        _over_setting(spot, measured, name, allowed, objective)
    for spot in spots[len(space) :]:
        spot.set_visible(False)
    for spot in axes.ravel():
        spot.set_ylabel(label)
        spot.grid(alpha=0.25)
        spot.spines[["top", "right"]].set_visible(False)
    return save_figure(path, figure)


def _shown(trial: Trial, objective: Objective) -> float:
    return objective.show(trial.value or 0.0)


def _colours(trials: Sequence[Trial]) -> list[str]:
    return [_DONE if trial.ended in ("finished", "early stopping") else _CUT for trial in trials]


def _history(axes: Any, measured: Sequence[Trial], objective: Objective) -> None:
    """The figure of each trial, and the best so far."""
    numbers = [trial.number for trial in measured]
    values = [_shown(trial, objective) for trial in measured]
    best = [values[objective.best(values[: count + 1])] for count in range(len(values))]
    axes.scatter(numbers, values, c=_colours(measured), s=18)
    axes.step(numbers, best, where="post", color=_BEST, label="best so far")
    axes.set_xlabel("trial")
    axes.legend(frameon=False)


def _courses(axes: Any, trials: Sequence[Trial], objective: Objective) -> None:
    """The best figure of each trial so far, evaluation by evaluation."""
    drawn = [trial for trial in trials if trial.curve]
    for trial, colour in zip(drawn, _colours(drawn), strict=True):
        counts, values = zip(*trial.curve, strict=True)
        shown = [objective.show(value) for value in values]
        axes.plot(counts, shown, color=colour, linewidth=0.9, marker=".", markersize=3)
    axes.set_xlabel("evaluation (grey: pruned or cut off)")


def _over_setting(
    axes: Any, measured: Sequence[Trial], name: str, allowed: Range | Choices, objective: Objective
) -> None:
    """The figures of the trials over one setting."""
    own = [trial for trial in measured if name in trial.settings]
    values = [_shown(trial, objective) for trial in own]
    if isinstance(allowed, Choices):
        places: list[Any] = [allowed.values.index(trial.settings[name]) for trial in own]
        axes.set_xticks(range(len(allowed.values)), [str(value) for value in allowed.values])
    else:
        places = [trial.settings[name] for trial in own]
        if allowed.log:
            axes.set_xscale("log")
    axes.scatter(places, values, c=_colours(own), s=18)
    axes.set_xlabel(name)

"""What a training shows: a live line on a terminal, plain lines elsewhere."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from jaxgen.training.trainable import Objective, Sample

PLAIN_SECONDS = 10.0
"""Time between plain lines."""


class Display:
    """The live line; a context manager."""

    def __init__(
        self, total_steps: int, objective: Objective, console: Console | None = None
    ) -> None:
        """Show a training of so many steps on `console` (default: standard error)."""
        self.total_steps = total_steps
        self._counts = objective.counts
        self.console = console or Console(stderr=True)
        self._shown = -math.inf
        self._bar = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            refresh_per_second=5,
        )
        self._task = self._bar.add_task("", total=total_steps, text="compiling ...")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(
        self,
        step: int,
        epoch: float,
        figures: Mapping[str, float],
        per_second: float,
        seconds_left: float,
    ) -> None:
        """Show how far the training is.

        Args:
            step: Optimizer steps made.
            epoch: Passes over the data made.
            figures: Of the last steps.
            per_second: Tokens or examples a second, 0 while unknown.
            seconds_left: To the end, 0 while unknown.
        """
        shown = [f"{name} {value:.4f}" for name, value in figures.items()]
        text = "  ".join([f"step {step}/{self.total_steps}", f"epoch {epoch:.2f}", *shown])
        if per_second:
            text += f"  {per_second:,.0f} {self._counts}/s  {duration(seconds_left)} left"
        if self.console.is_terminal:
            self._bar.update(self._task, completed=step, text=text)
        elif time.monotonic() - self._shown >= PLAIN_SECONDS:
            self._shown = time.monotonic()
            self.line(text)

    def evaluation(
        self, row: Mapping[str, Any], *, best: bool, samples: Sequence[Sample] = ()
    ) -> None:
        """Show an evaluation's figures and samples."""
        names = [name for name in row if name not in ("step", "epoch", "samples")]
        figures = "  ".join(f"{name} {row[name]:.4f}" for name in names)
        if figures:
            self.line(f"step {row['step']}  epoch {row['epoch']:.2f}  {figures}{'  best' * best}")
        for sample in samples:
            self.line(f"{sample.title}:", style="dim")
            self.line(sample.text)

    def line(self, text: str, style: str = "") -> None:
        """Print a line above the live one. The text is taken as it is, markup included."""
        self.console.print(Text(text, style=style), soft_wrap=True)


def spread(values: Mapping[str, float], objective: Objective) -> str:
    """Figures of runs side by side: mean, deviation, and the best."""
    names = list(values)
    name = names[objective.best(list(values.values()))]
    mean, deviation = statistics.fmean(values.values()), statistics.pstdev(values.values())
    return f"{mean:.4f} \u00b1 {deviation:.4f} ({len(values)} runs)  best {values[name]:.4f} {name}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people write them: 1:02:03, 4:05, 12 s."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"

"""What a training shows: a live line on a terminal, plain lines elsewhere."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

Unit = Literal["bpc", "perplexity", "nll"]
PLAIN_SECONDS = 10.0
"""Time between plain lines."""


def in_unit(nll: float, unit: Unit) -> float:
    """Nats per token in another unit."""
    if unit == "bpc":
        return nll / math.log(2.0)
    if unit == "perplexity":
        return math.exp(nll) if nll < 700.0 else math.inf
    return nll


class Display:
    """The live line; a context manager."""

    def __init__(self, total_steps: int, unit: Unit, console: Console | None = None) -> None:
        """Show the nll in `unit` on `console` (default: standard error)."""
        self.unit = unit
        self.total_steps = total_steps
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
        nll: float,
        tokens_per_second: float,
        seconds_left: float,
    ) -> None:
        """Show how far the training is.

        Args:
            step: Optimizer steps made.
            epoch: Passes over the data made.
            nll: Nats per token of the last steps.
            tokens_per_second: Speed, 0 while unknown.
            seconds_left: To the end, 0 while unknown.
        """
        text = f"step {step}/{self.total_steps}  epoch {epoch:.2f}  loss {nll:.4f}"
        if self.unit != "nll":
            text += f"  {self.unit} {in_unit(nll, self.unit):.3f}"
        if tokens_per_second:
            text += f"  {tokens_per_second:,.0f} tokens/s  {duration(seconds_left)} left"
        if self.console.is_terminal:
            self._bar.update(self._task, completed=step, text=text)
        elif time.monotonic() - self._shown >= PLAIN_SECONDS:
            self._shown = time.monotonic()
            self.line(text)

    def evaluation(
        self, row: Mapping[str, Any], *, best: bool, samples: Sequence[tuple[float, str]] = ()
    ) -> None:
        """Show an evaluation's figures and samples."""
        names = [name for name in row if name not in ("step", "epoch", "samples")]
        figures = "  ".join(f"{name} {row[name]:.4f}" for name in names)
        if figures:
            self.line(f"step {row['step']}  epoch {row['epoch']:.2f}  {figures}{'  best' * best}")
        for temperature, text in samples:
            self.line(f"temperature {temperature:g}:", style="dim")
            self.line(text)

    def line(self, text: str, style: str = "") -> None:
        """Print a line above the live one. The text is taken as it is, markup included."""
        self.console.print(Text(text, style=style), soft_wrap=True)


def spread(values: Mapping[str, float]) -> str:
    """Figures of runs side by side, the smaller the better: mean, deviation, and the best."""
    name = min(values, key=lambda name: values[name])
    mean, deviation = statistics.fmean(values.values()), statistics.pstdev(values.values())
    return f"{mean:.4f} \u00b1 {deviation:.4f} ({len(values)} runs)  best {values[name]:.4f} {name}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people write them: 1:02:03, 4:05, 12 s."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"

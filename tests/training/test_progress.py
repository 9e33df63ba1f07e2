"""What a training shows, and its picture."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from jaxgen.training import progress
from jaxgen.training.plots import plot_run
from jaxgen.training.progress import Display, duration
from jaxgen.training.runs import Run
from jaxgen.training.trainable import Objective

NLL = Objective("nll", unit="nats per token")


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.0, 61.0, 3723.0)] == ["0 s", "59 s", "1:01", "1:02:03"]


def test_plain_lines_come_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    with Display(100, NLL, Console(file=file)) as display:
        display.update(10, 0.5, {"nll": math.log(4), "bpc": 2.0}, 12345.6, 90.0)
        display.update(20, 1.0, {"nll": 1.0}, 12345.6, 80.0)
        monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
        display.update(30, 1.5, {"nll": 1.0}, 0.0, 0.0)
    first, second = file.getvalue().splitlines()
    assert first == ("step 10/100  epoch 0.50  nll 1.3863  bpc 2.0000  12,346 tokens/s  1:30 left")
    assert second.startswith("step 30/100")


def test_a_terminal_gets_a_live_line() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)
    with Display(100, NLL, console) as display:
        display.update(50, 0.5, {"perplexity": 2.718}, 1000.0, 5.0)
        display.line("a [bold]sample[/bold]")
    text = file.getvalue()
    assert "step 50/100" in text
    assert "2.718" in text
    assert "a [bold]sample[/bold]" in text  # text is shown as it is


def test_plot(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    assert plot_run(run, NLL) is None
    run.append_metrics({"step": 5, "nll": 2.0})
    assert plot_run(run, NLL) == run.directory / "loss.png"
    run.append_metrics({"step": 5, "validation_nll": 2.1})
    plot_run(run, NLL)
    assert (run.directory / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_costs_the_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", {})
    run.append_metrics({"step": 5, "nll": 2.0})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match=r"could not draw .*loss\.png: No space left on device"):
        assert plot_run(run, NLL) is None


def test_no_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", {})
    run.append_metrics({"step": 5, "nll": 2.0})
    monkeypatch.setattr("jaxgen.evaluation.pictures.find_spec", lambda name: None)
    assert plot_run(run, NLL) is None

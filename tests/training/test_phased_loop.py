"""What a training of phases asks of the loop: its own end, a late objective, one alarm, losses."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jaxgen.training.loop import Result
from jaxgen.training.progress import Display
from jaxgen.training.runs import Run
from jaxgen.training.trainable import Evaluation, Objective

OBJECTIVE = Objective("score", higher_is_better=True)


@pytest.fixture(scope="module")
def settings(toy: Any) -> Any:
    return toy.config(evaluate_every=5, epochs=50.0)


@pytest.fixture(scope="module")
def pieces(toy: Any, settings: Any) -> Any:
    return toy.pieces(settings)


def stream(toy: Any, steps: int) -> Any:
    """The training text, with an end of its own."""
    source = toy.Stream()
    source.total_steps = steps
    return source


def train(
    toy: Any, pieces: Any, settings: Any, out: Path, steps: int, scores: list[float | None]
) -> tuple[Result, str]:
    """A training whose evaluations have these scores, or none; and what it said."""
    left = list(scores)

    def generated(params: Any) -> dict[str, float]:
        score = left.pop(0)
        return {} if score is None else {"score": score}

    said = io.StringIO()
    result = toy.train(
        out,
        settings,
        pieces=pieces,
        stream=stream(toy, steps),
        objective=OBJECTIVE,
        evaluation=Evaluation(lambda params: None, toy.evaluate_fn(), generated),
        alarm=lambda figures: "all alike" if figures.get("score", 1.0) < 0.5 else None,
        plotted=("perplexity",),
        display=Display(steps, OBJECTIVE, Console(file=said, width=200)),
    )
    return result, said.getvalue()


def test_the_objective_comes_late_and_the_alarm_once(
    toy: Any, pieces: Any, settings: Any, tmp_path: Path
) -> None:
    """Evaluations at steps 5, 10, 15 and 20; the second one is the first that could be the best."""
    run = tmp_path / "run"
    result, said = train(toy, pieces, settings, run, 20, [None, 0.7, 0.4, 0.3])
    assert (result.reason, result.steps, result.best) == ("finished", 20, 0.7)
    best = Run.open(run).checkpoint("best")
    assert best is not None
    assert best["step"] == 10
    assert said.count("warning: step 15: all alike") == said.count("all alike") == 1
    assert (run / "loss.png").exists()
    result, said = train(toy, pieces, settings, run, 30, [0.2, 0.9])
    assert (result.steps, result.best) == (30, 0.9)
    assert "all alike" not in said


def test_steps_may_end_earlier(toy: Any, pieces: Any, settings: Any, tmp_path: Path) -> None:
    shorter = settings.model_copy(update={"max_steps": 7})
    result, _ = train(toy, pieces, shorter, tmp_path / "run", 20, [None, None])
    assert (result.steps, result.best) == (7, None)
    assert Run.open(tmp_path / "run").checkpoint("best") is None

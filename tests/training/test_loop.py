"""The loop: what it measures, when it stops, and that it goes on as if never stopped."""

import io
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxgen.errors import UserError
from jaxgen.training import loop
from jaxgen.training.progress import Display
from jaxgen.training.run_progress import Progress
from jaxgen.training.runs import Run
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.step import evaluation_params
from jaxgen.training.trainable import Objective, Sample
from jaxgen.types import Sum

TIMES = ("seconds", "tokens_per_second")


def figures(run: Run) -> list[dict[str, Any]]:
    """The metrics without what the clock decides."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in run.read_metrics()]


def checkpoints(run: Run) -> dict[str, Any]:
    return {which: run.load_checkpoint(which) for which in ("last", "best")}


def assert_same_run(left: Path, right: Path) -> None:
    """Bit for bit: last and best checkpoint, early-stopping memory, metrics."""
    a, b = Run.open(left), Run.open(right)
    jax.tree.map(np.testing.assert_array_equal, checkpoints(a), checkpoints(b))
    ends = [run.index["last"]["progress"]["validation"] for run in (a, b)]
    assert ends[0] == ends[1]
    assert figures(a) == figures(b)


@pytest.fixture(scope="module")
def settings(toy: Any) -> Any:
    return toy.config(evaluate_every=7, averaging="nt_asgd", nt_asgd_window=2)


@pytest.fixture(scope="module")
def pieces(toy: Any, settings: Any) -> Any:
    """Compiled once for the tests of this file."""
    return toy.pieces(settings)


@pytest.fixture(scope="module")
def evaluate_fn(toy: Any) -> Any:
    return toy.evaluate_fn()


@pytest.fixture(scope="module")
def whole(
    toy: Any, settings: Any, pieces: Any, evaluate_fn: Any, tmp_path_factory: Any
) -> tuple[Path, loop.Result]:
    """A training that nothing disturbed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, toy.train(directory, settings, pieces=pieces, evaluate_fn=evaluate_fn)


def test_the_loop_is_a_plain_loop(toy: Any, settings: Any, pieces: Any, whole: Any) -> None:
    """The parameters at the end are those of single steps, the carry fresh in each epoch."""
    directory, result = whole
    state, multi_step, _ = pieces
    state, stream = state(), toy.Stream()
    for step in range(4 * toy.WINDOWS):
        epoch, window = divmod(step, toy.WINDOWS)
        if window == 0:
            state = state._replace(carry=toy.carry())
        batch = stream.read(epoch, window, 1)
        batches = jax.tree.map(lambda x: np.repeat(x, settings.steps_per_dispatch, 0), batch)
        active = state.average.active  # the loop decides when averaging starts
        state = state._replace(average=state.average._replace(active=active))
        state, _ = multi_step(state, batches, 1)
    assert (result.reason, result.steps) == ("finished", 4 * toy.WINDOWS)
    jax.tree.map(np.testing.assert_array_equal, result.state.params, state.params)
    saved = Run.open(directory)
    jax.tree.map(
        np.testing.assert_array_equal,
        saved.load_params("last"),
        dict(evaluation_params(result.state)),
    )


def test_metrics(toy: Any, settings: Any, whole: Any) -> None:
    directory, result = whole
    rows = Run.open(directory).read_metrics()
    train = [row for row in rows if "nll" in row]
    validation = [row for row in rows if "validation_nll" in row]
    steps = range(1, 4 * toy.WINDOWS + 1)
    assert [row["step"] for row in train] == [s for s in steps if s % 5 == 0 or s % 7 == 0] + [48]
    assert [row["step"] for row in validation] == [7, 14, 21, 28, 35, 42, 48]
    assert result.best == min(row["validation_nll"] for row in validation)
    assert train[-1]["perplexity"] == pytest.approx(np.exp(train[-1]["nll"]))
    assert all(np.isfinite(row["grad_norm"]) and row["grad_norm"] > 0 for row in train)
    assert (directory / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_of_the_saved_parameters_is_the_recorded_one(
    toy: Any, whole: Any, evaluate_fn: Any
) -> None:
    directory, result = whole
    sums = evaluate_fn(Run.open(directory).load_params("best"))
    assert toy.figures(sums)["nll"] == result.best


class Crash(BaseException):
    """Ends the loop as a kill does: nothing below may catch it and save."""


@pytest.mark.parametrize("crash_at", [0, 4, 11, 23])
def test_resuming_changes_nothing(
    toy: Any,
    settings: Any,
    pieces: Any,
    evaluate_fn: Any,
    whole: Any,
    tmp_path: Path,
    crash_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed twice after so many dispatches, then resumed: the same files."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.02)  # saves between evaluations too
    state, multi_step, layout = pieces
    for _ in range(2):
        calls = 0

        def dying(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > crash_at:
                raise Crash
            return multi_step(*arguments)

        with suppress(Crash):  # the second time it may come to the end first
            toy.train(tmp_path, settings, pieces=(state, dying, layout), evaluate_fn=evaluate_fn)
    result = toy.train(tmp_path, settings, pieces=pieces, evaluate_fn=evaluate_fn)
    assert result.reason == "finished"
    assert_same_run(whole[0], tmp_path)


def test_a_finished_run_is_left_alone(
    toy: Any, settings: Any, pieces: Any, evaluate_fn: Any, whole: Any
) -> None:
    before = (whole[0] / "run.json").read_bytes()
    result = toy.train(whole[0], settings, pieces=pieces, evaluate_fn=evaluate_fn)
    assert (result.reason, result.steps) == ("finished", 48)
    assert (whole[0] / "run.json").read_bytes() == before


def start(toy: Any, directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, toy.__file__, str(directory), "--epochs", "6"]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, cwd=root, env={"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "PATH": ""}
    )


def last_step(directory: Path) -> int:
    try:
        return Run.open(directory).index["last"]["step"]
    except (UserError, TypeError):
        return -1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.slow
def test_a_killed_process_resumes(toy: Any, tmp_path: Path) -> None:
    """Kill -9 at a random moment, then to the end: as if nothing had happened."""
    undisturbed, killed = (start(toy, tmp_path / name) for name in ("whole", "cut"))
    while last_step(tmp_path / "cut") < 1 and killed.poll() is None:
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0.0, 0.4))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() in (-signal.SIGKILL, 0)  # 0: it was done before
    assert start(toy, tmp_path / "cut").wait() == 0
    assert undisturbed.wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_ctrl_c_finishes_the_dispatch_and_saves(
    toy: Any, settings: Any, pieces: Any, evaluate_fn: Any, whole: Any, tmp_path: Path
) -> None:
    state, multi_step, layout = pieces
    calls = 0

    def pressed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return multi_step(*arguments)

    handler = signal.getsignal(signal.SIGINT)
    result = toy.train(tmp_path, settings, pieces=(state, pressed, layout), evaluate_fn=evaluate_fn)
    assert signal.getsignal(signal.SIGINT) is handler
    assert result.reason == "interrupted"
    assert 0 < last_step(tmp_path) == result.steps < 48
    toy.train(tmp_path, settings, pieces=pieces, evaluate_fn=evaluate_fn)
    assert_same_run(whole[0], tmp_path)


def test_nan_stops_and_keeps_the_last_good_state(
    toy: Any, settings: Any, evaluate_fn: Any, tmp_path: Path
) -> None:
    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        loss, aux = toy.loss_fn(params, carry, batch, key)
        poison = jax.numpy.where(batch["tokens"][0, 0] == poisoned, jax.numpy.nan, 0.0)
        return loss + poison, aux

    stream = toy.Stream()
    stream.tokens = stream.tokens.copy()
    poisoned = toy.V - 1
    stream.tokens[0] = 0
    stream.tokens[0, 10 * toy.T] = poisoned  # the first token of window 10
    options = {"evaluate_fn": evaluate_fn, "stream": stream}
    with pytest.raises(UserError, match=r"`loss` is nan at step 11: .* after step 10 is saved"):
        toy.train(tmp_path, settings, pieces=toy.pieces(settings, loss_fn), **options)
    run = Run.open(tmp_path)
    assert last_step(tmp_path) == 10
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.load_params("last")))


def nll_of(value: float) -> dict[str, Sum]:
    return {"nll": Sum(np.float64(value), np.float64(1.0))}


def test_early_stopping(toy: Any, tmp_path: Path) -> None:
    nlls = iter([3.0, 2.0, 2.5, 2.0, 2.1, 1.0])
    settings = toy.config(patience=3, evaluate_every=4)
    result = toy.train(tmp_path, settings, evaluate_fn=lambda params: nll_of(next(nlls)))
    assert (result.reason, result.steps, result.best) == ("early stopping", 20, 2.0)
    assert Run.open(tmp_path).index["best"]["step"] == 8
    again = toy.train(tmp_path, settings, evaluate_fn=lambda params: nll_of(next(nlls)))
    assert (again.reason, again.steps) == ("early stopping", 20)


def test_time_limit(toy: Any, tmp_path: Path) -> None:
    settings = toy.config(max_minutes=1e-9)
    result = toy.train(tmp_path, settings)
    assert result.reason == "time is up"
    assert Run.open(tmp_path).index["last"]["step"] == result.steps < 48


def test_validation_that_is_not_finite_stops(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation nll is nan at step 12"):
        toy.train(tmp_path, toy.config(), evaluate_fn=lambda params: nll_of(float("nan")))


def test_samples_and_figures_are_shown_and_kept(toy: Any, tmp_path: Path) -> None:
    shown = io.StringIO()
    toy.train(
        tmp_path,
        toy.config(epochs=1.0),
        sample=lambda params: [Sample("temperature 0.5", "a [b] c"), Sample("temperature 1", "d")],
        evaluate_fn=lambda params: nll_of(1.0) | {"accuracy": Sum(np.array(2.0), np.array(4.0))},
        rates={"learning_rate": lambda step: 0.1 * step},
        display=Display(12, toy.OBJECTIVE, Console(file=shown)),
    )
    *_, train, row = Run.open(tmp_path).read_metrics()
    assert row["samples"] == [["temperature 0.5", "a [b] c"], ["temperature 1", "d"]]
    assert row["validation_accuracy"] == 0.5
    assert train["learning_rate"] == pytest.approx(1.1)
    text = shown.getvalue()
    expected = (
        "validation_nll 1.0000  validation_perplexity 2.7183  validation_accuracy 0.5000  best"
    )
    assert expected in text
    assert "temperature 0.5:\na [b] c\n" in text


def test_a_higher_figure_may_be_better(toy: Any, tmp_path: Path) -> None:
    """Best checkpoint, early stopping and the plot follow the objective, not the loss."""
    accuracies = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.9])
    result = toy.train(
        tmp_path,
        toy.config(patience=3, evaluate_every=4),
        objective=Objective("accuracy", higher_is_better=True, counts="examples"),
        evaluate_fn=lambda params: {
            **nll_of(1.0),
            "accuracy": Sum(np.array(next(accuracies)), np.array(1.0)),
        },
    )
    assert (result.reason, result.steps, result.best) == ("early stopping", 20, 0.5)
    run = Run.open(tmp_path)
    assert run.index["best"]["step"] == 8
    assert any("examples_per_second" in row for row in run.read_metrics())


def test_figures_of_generated_text_join_the_others(toy: Any, tmp_path: Path) -> None:
    from jaxgen.training.trainable import Evaluation

    evaluation = Evaluation(
        lambda params: None, lambda params: nll_of(1.0), lambda params: {"bleu": 12.5}
    )
    toy.train(tmp_path, toy.config(epochs=1.0), evaluation=evaluation)
    assert Run.open(tmp_path).read_metrics()[-1]["validation_bleu"] == 12.5


def test_the_loop_can_be_left_after_an_evaluation(
    toy: Any, settings: Any, pieces: Any, evaluate_fn: Any, whole: Any, tmp_path: Path
) -> None:
    """A search prunes a trial by leaving the generator; what it saved goes on as ever."""
    state, multi_step, layout = pieces
    handler = signal.getsignal(signal.SIGINT)
    run = Run.create(tmp_path, toy.FILES)
    what = toy.trainable(settings, evaluate_fn)
    opened = loop.open_loop(what, state(), multi_step, [run], settings, layout=layout)
    seen = []
    for evaluated in loop.evaluations(opened):
        seen.append((evaluated.step, evaluated.figures[0]["nll"]))
        if len(seen) == 2:
            break
    assert [step for step, _ in seen] == [7, 14]
    assert signal.getsignal(signal.SIGINT) is handler
    toy.train(tmp_path, settings, pieces=pieces, evaluate_fn=evaluate_fn)
    assert_same_run(whole[0], tmp_path)


def test_accumulation_reads_every_window(toy: Any, tmp_path: Path) -> None:
    read = []

    class Watched(toy.Stream):
        def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> Any:
            read.extend((epoch, window) for window in range(first, first + count))
            return super().read(epoch, first, count, rows)

    result = toy.train(tmp_path, toy.config(accumulate_steps=5, epochs=2.0), stream=Watched())
    assert result.steps == 4  # two whole steps fit in the 12 windows of an epoch
    assert read == [(epoch, window) for epoch in (0, 1) for window in range(10)]


def test_lengths(toy: Any) -> None:

    def schedule(**settings: Any) -> StepSchedule:
        return StepSchedule(toy.Stream(), toy.config(**settings))

    assert schedule(epochs=2.5).total == 30
    assert schedule(epochs=0.01).total == 1
    assert schedule(max_steps=7).total == 7
    assert schedule(accumulate_steps=5).epoch_steps == 2
    with pytest.raises(UserError, match=r"at most the 12 batches .* got 13"):
        schedule(accumulate_steps=13)


def test_a_dispatch_has_batches_of_one_shape(toy: Any) -> None:
    class TwoShapes(toy.Stream):
        def same_shape(self, epoch: int, first: int) -> int:
            return 4 - first if first < 4 else 12 - first

    schedule = StepSchedule(TwoShapes(), toy.config(steps_per_dispatch=6, accumulate_steps=2))
    assert [schedule.length(step, 99) for step in (0, 1, 2, 3, 6)] == [2, 1, 4, 3, 2]
    (blank,) = schedule.blank_batches()
    assert blank["tokens"].shape == schedule.read(0, 2)["tokens"].shape == (6, 2, toy.B, toy.T + 1)


@pytest.mark.parametrize(
    ("validation", "since", "stalls"),
    [
        ([3.0], 0, False),
        ([3.0, 2.0], 0, False),
        ([3.0, 2.0, 2.0], 1, False),
        ([3.0, 2.0, 2.5, 2.9], 2, False),
        ([3.0, 2.0, 2.5, 2.9, 2.1], 3, True),
        ([3.0, 2.0, 1.0, 1.0, 1.9], 2, False),
    ],
)
def test_what_evaluations_decide(validation: list[float], since: int, stalls: bool) -> None:
    progress = Progress(validation=validation)
    assert progress.evaluations_since_best(Objective("nll")) == since
    assert progress.stalls(2, Objective("nll")) == stalls
    mirrored = Progress(validation=[-figure for figure in validation])
    higher = Objective("accuracy", higher_is_better=True)
    assert mirrored.evaluations_since_best(higher) == since
    assert mirrored.stalls(2, higher) == stalls

"""What a study does with its trials, against the rules worked out again by hand."""

import json
import math
import os
import signal
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_run import write_config

from jaxgen.errors import UserError

optuna = pytest.importorskip("optuna")

from fake_training import diverge, fake_training  # noqa: E402

import jaxgen  # noqa: E402
from jaxgen.config.toml import read_toml  # noqa: E402
from jaxgen.evaluation.perplexity import bits  # noqa: E402
from jaxgen.tuning.records import table  # noqa: E402
from jaxgen.tuning.study import FIRST_PRUNED, STARTUP_TRIALS, SeededTPE, close_with  # noqa: E402

RATES = {"low": 1e-4, "high": 1e-1, "log": True}
SPACE = {"optimizer": {"learning_rate": RATES}}
RATE = "optimizer.learning_rate"


def study_in(database: Path, name: str) -> Any:
    """A study, there or new, that closes its database."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    close_with(study, storage)
    return study


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def tune(config: Path, space: Any = SPACE, **options: Any) -> Any:
    options = {"out": config.parent / "best", "say": lambda line: None, **options}
    return jaxgen.tune(config, space, **options)


def bowl(experiment: Any, evaluations: int = 4) -> list[list[float]]:
    """Figures that are best at a learning rate of 1e-2, and better at each evaluation."""
    distance = abs(math.log10(experiment.optimizer.learning_rate) + 2)
    return [[1 + distance + 1 / count] for count in range(1, evaluations + 1)]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of twenty trials of the bowl."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_training(monkeypatch, bowl, plot=True)
        return tune(write_config(tmp_path_factory.mktemp("twenty")), trials=20)


@pytest.mark.slow
def test_pruned_are_those_worse_than_the_median(twenty: Any) -> None:
    finished: list[dict[int, float]] = []
    for trial in twenty.trials:
        curve = dict(trial.curve)
        for count, figure in curve.items():
            others = [other[count] for other in finished if count in other]
            worse = bool(others) and figure > statistics.median(others)
            given_up = worse and len(finished) >= STARTUP_TRIALS and count >= FIRST_PRUNED
            assert given_up == (trial.ended == "pruned" and count == max(curve)), trial
        if trial.ended == "finished":
            finished.append(curve)
    assert {trial.ended for trial in twenty.trials} == {"finished", "pruned"}


@pytest.mark.slow
def test_the_first_is_the_experiment_and_the_best_is_near_the_optimum(twenty: Any) -> None:
    assert twenty.reason == "all trials made"
    assert [trial.number for trial in twenty.trials] == list(range(20))
    assert twenty.trials[0].settings == {RATE: 2e-3}
    assert all(1e-4 <= trial.settings[RATE] <= 1e-1 for trial in twenty.trials)
    assert twenty.best.value == min(trial.value for trial in twenty.trials)
    # Uniform draws would all miss the tenth of the range around 1e-2 once in eight times.
    assert abs(math.log10(twenty.best.settings[RATE]) + 2) < 0.15


@pytest.mark.slow
def test_what_is_left_of_a_study(twenty: Any) -> None:
    kept = [path.name for path in twenty.folder.glob("trial-*")]
    assert kept == [f"trial-{twenty.best.number:05d}"]
    assert json.loads(json.dumps(twenty.best.settings)) == twenty.best.settings
    written = read_toml(twenty.folder / "best.toml")
    assert written.optimizer.learning_rate == twenty.best.settings[RATE]
    assert (twenty.folder / "study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_table(twenty: Any) -> None:
    head, *rows, counts = table(twenty.trials, twenty.objective, most=3).splitlines()
    assert head.split() == ["trial", "bpc", "ended", "steps", "seconds", RATE]
    numbers = [int(row.split()[0]) for row in rows]
    assert numbers == sorted(range(20), key=lambda n: (twenty.trials[n].value, n))[:3]
    assert float(rows[0].split()[1]) == round(bits(twenty.best.value), 4)
    assert counts.startswith("20 trials: ")


def test_the_mean_of_the_seeds_decides(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {1: [1.0, 4.0], 2: [2.0, 2.5]}
    fake_training(monkeypatch, lambda experiment: [figures[experiment.model.num_layers]])
    tuning = tune(config, {"model": {"num_layers": [1, 2]}}, trials=4, seeds=2)
    assert tuning.best.settings == {"model.num_layers": 2}
    assert tuning.best.value == 2.25
    assert tuning.best.figures == (2.0, 2.5)


@pytest.mark.slow
def test_a_higher_figure_can_be_the_better_one(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        'task = "classifier"\n[model]\nembedding_size = 4\n[training]\nbatch_size = 8\n'
    )
    fake_training(monkeypatch, lambda experiment: [[experiment.optimizer.learning_rate]])
    tuning = tune(config, trials=8)
    assert tuning.objective.name == "accuracy"
    assert tuning.best.value == max(trial.value for trial in tuning.trials)


@pytest.mark.slow
def test_going_on_is_the_same_as_never_having_stopped(
    config: Path, monkeypatch: pytest.MonkeyPatch, twenty: Any
) -> None:
    fake_training(monkeypatch, bowl)
    for count in (7, 13, 20, 20):  # the last time nothing is left to do
        parts = tune(config, trials=count)
    pairs = zip(parts.trials, twenty.trials, strict=True)
    assert all((a.settings, a.value, a.ended) == (b.settings, b.value, b.ended) for a, b in pairs)


def test_two_workers_share_a_study(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One begins while the other is in the middle of a trial."""
    other: list[Any] = []

    def at(loop: Any) -> None:
        if not other:
            other.append(None)
            other[0] = tune(config, trials=3, study=database, name="shared", out=elsewhere)

    database, elsewhere = config.parent / "shared.db", config.parent / "elsewhere"
    fake_training(monkeypatch, bowl, at)
    tuning = tune(config, trials=4, study=database, name="shared")
    assert [trial.number for trial in tuning.trials] == list(range(4))
    assert len({trial.settings[RATE] for trial in tuning.trials}) == 4
    running = [trial.ended for trial in other[0].trials]
    assert running == ["running", "finished", "finished"]


def test_a_failure_is_recorded_and_the_study_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curves(experiment: Any) -> Any:
        return diverge(experiment) if experiment.model.hidden_size == 8 else bowl(experiment)

    fake_training(monkeypatch, curves)
    said: list[str] = []
    tuning = tune(config, {"model": {"hidden_size": [4, 8]}}, trials=5, say=said.append)
    first, *others = tuning.trials
    assert (first.ended, first.value) == ("failed", None)
    assert "`loss` is nan at step 3" in first.failure
    assert "trial 0 failed: `loss` is nan at step 3" in said[0]
    assert {trial.ended for trial in others} >= {"finished"}
    assert tuning.best.settings == {"model.hidden_size": 4}


@pytest.mark.slow
def test_each_kind_of_failure(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def curves(experiment: Any) -> Any:
        size = experiment.model.hidden_size
        if size == 8:
            return diverge(experiment)
        if size == 16:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return bowl(experiment)

    fake_training(monkeypatch, curves)
    space = {
        **SPACE,
        "model": {"hidden_size": [4, 8, 16], "tied": [True, False], "embedding_size": [0]},
    }
    tuning = tune(config, space, trials=14)
    failures = {
        (trial.settings["model.hidden_size"], trial.settings["model.tied"]): trial.failure
        for trial in tuning.trials
    }
    assert "`loss` is nan at step 3" in failures[8, False]
    assert failures[16, False].startswith("out of memory: RESOURCE_EXHAUSTED")
    assert failures[4, False] is None
    assert "`model.tied` shares the embedding" in failures[4, True]
    assert {trial.value is None for trial in tuning.trials if trial.failure} == {True}
    assert tuning.best.settings["model.hidden_size"] == 4


def test_a_mistake_of_ours_is_not_a_failed_trial(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curves(experiment: Any) -> Any:
        raise TypeError("a bug")

    fake_training(monkeypatch, curves)
    with pytest.raises(TypeError, match="a bug"):
        tune(config, trials=2)


def test_it_gives_up_where_all_trials_fail(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_training(monkeypatch, diverge)
    with pytest.raises(UserError, match=r"no trial of the study has a figure .*: 2 failed, the"):
        tune(config, trials=2)
    monkeypatch.setattr("jaxgen.tuning.tune.FAILURES", 2)
    with pytest.raises(UserError, match="2 trials failed one after the other, the last because"):
        tune(config, minutes=5)


def test_only_the_best_trial_is_kept(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    folder = config.parent / "best.study"
    fake_training(monkeypatch, bowl, lambda loop: kept.append(len([*folder.glob("trial-*")])))
    tune(config, trials=4)
    assert max(kept) == 2  # the best and the one that is trained


@pytest.mark.parametrize(
    "signal_number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_with_the_best_so_far(
    config: Path, monkeypatch: pytest.MonkeyPatch, signal_number: int
) -> None:
    calls: list[int] = []

    def at(loop: Any) -> None:
        calls.append(loop.step)
        if len(calls) == 10:  # in the third trial
            os.kill(os.getpid(), signal_number)

    fake_training(monkeypatch, bowl, at)
    tuning = tune(config, trials=50)
    assert tuning.reason == "interrupted"
    assert len(tuning.trials) == 3
    assert tuning.best is not None
    assert tuning.trials[-1].value is not None
    assert len(tune(config, trials=4).trials) == 4  # and it goes on


def test_the_time_limit(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation takes ten seconds; the second trial is cut off after the second of them."""
    now = [0.0]

    def at(loop: Any) -> None:
        now[0] += 10.0
        if now[0] >= 60.0:
            loop.reason = "time is up"

    def curves(experiment: Any) -> Any:
        return bowl(experiment, evaluations=4 if not now[0] else 2)

    for module in ("tune", "trials"):
        clock = SimpleNamespace(monotonic=lambda: now[0])
        monkeypatch.setattr(f"jaxgen.tuning.{module}.time", clock)
    loops = fake_training(monkeypatch, curves, at)
    tuning = tune(config, minutes=1)
    assert tuning.reason == "time is up"
    assert [trial.ended for trial in tuning.trials] == ["finished", "time is up"]
    assert tuning.trials[1].value == bowl(loops[1].experiment, 2)[-1][0]
    assert [60 * loop.config.max_minutes for loop in loops] == pytest.approx([60, 20])


def test_a_trial_of_a_killed_worker_is_made_again(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def at(loop: Any) -> None:
        if len(loops) == 2 and loop.step == 2:
            raise Killed

    loops = fake_training(monkeypatch, bowl, at)
    with pytest.raises(Killed):
        tune(config, trials=3)
    study = study_in(config.parent / "best.study" / "study.db", "best")
    assert study.trials[-1].state == optuna.trial.TrialState.RUNNING
    tuning = tune(config, trials=3)
    assert [trial.ended for trial in tuning.trials] == ["finished", "lost", "finished", "finished"]
    assert tuning.trials[2].settings == tuning.trials[1].settings


def test_a_study_of_something_else(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_training(monkeypatch, bowl)
    tune(config, trials=1)
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace("hidden_size = 8", "hidden_size = 9"))
    for changed, message in (
        ({"config": other}, r"of another experiment: its `model.hidden_size` is 8, got 9"),
        ({"space": {"model": {"hidden_size": [2, 3]}}}, r"of another space: it has "),
        ({"seeds": 2}, "trains 1 seeds a trial, got 2"),
    ):
        with pytest.raises(UserError, match=message):
            tune(**{"config": config, "trials": 2, **changed})
    assert len(tune(other, trials=2, overwrite=True).trials) == 2


def test_another_corpus_is_noticed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_training(monkeypatch, bowl)
    tune(config, trials=1)
    study = study_in(config.parent / "best.study" / "study.db", "best")
    study.set_user_attr("corpus", {"validation": "another"})
    with pytest.raises(UserError, match="the corpus here is not the one of the study's first"):
        tune(config, trials=2)


@pytest.mark.slow
def test_figures_that_do_not_compare(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_training(monkeypatch, bowl)
    space = {"tokenizer": {"kind": ["char", "byte"]}}
    tune(config, space, trials=1, out=config.parent / "kinds")
    study = study_in(config.parent / "kinds.study" / "study.db", "kinds")
    study.set_user_attr("corpus", {"validation": "another"})
    tuning = tune(config, space, trials=2, out=config.parent / "kinds")
    assert "`nll` is counted per token, and the validation tokens are not" in (
        tuning.trials[1].failure
    )


def test_bad_places(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_training(monkeypatch, bowl)
    for url in ("nosuch://x/y", "sqlite://x:port/y", "sqlite:////no/such/folder/study.db"):
        with pytest.raises(UserError, match="cannot use the study's database"):
            tune(config, trials=1, study=url)
    folder = config.parent / "mine.study"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine.study is for the study and is not empty.*notes.txt"):
        tune(config, trials=1, out=config.parent / "mine")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    foreign = study_in(config.parent / "foreign.db", "best")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(UserError, match="was not made by jaxgen; choose another `name`"):
        tune(config, trials=1, study=f"sqlite:///{config.parent / 'foreign.db'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a study needs an end; give `minutes`, `trials` or both"),
        ({"minutes": 0}, "`minutes` must be a number above 0, got 0"),
        ({"trials": 0}, "`trials` must be at least 1, got 0"),
        ({"trials": 1, "seeds": 0}, "`seeds` must be at least 1, got 0"),
    ],
)
def test_bad_limits(config: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tune(config, **options)


def test_nothing_held_out(config: Path) -> None:
    config.write_text(
        config.read_text().replace("validation_fraction = 0.1", "validation_fraction = 0.0")
    )
    with pytest.raises(UserError, match="trials are compared on validation data"):
        tune(config, trials=1)


def test_draws_follow_from_the_seed_and_the_number() -> None:
    def draws(seed: int, start: int) -> list[float]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=SeededTPE(seed))
        for _ in range(start):
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    assert draws(0, 0) != draws(1, 0)
    assert draws(0, 0)[2] == draws(0, 2)[0]  # trial 2, whatever was drawn before
    assert len({*draws(0, 0), *draws(0, 3)}) == 6

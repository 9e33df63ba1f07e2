"""Seeds trained together: each is the run it would be alone, and none disturbs another."""

import io
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxgen.errors import UserError
from jaxgen.evaluation.perplexity import bits
from jaxgen.training import loop, seeds
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.progress import Display
from jaxgen.training.runs import Run
from jaxgen.training.seed_runs import SeedRuns, seed_group_of, seeds_history
from jaxgen.training.step import init_state
from jaxgen.training.trainable import Objective
from jaxgen.types import Sum

pytestmark = pytest.mark.slow

needs_two = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
TIMES = ("seconds", "tokens_per_second")


def state_of(toy: Any, settings: Any, seed: int) -> Any:
    return toy.state_of(settings, seed, key=seed)


def nll_of(values: Any) -> dict[str, Sum]:
    """The sums of an evaluation of several seeds."""
    return {"nll": Sum(np.array(values, np.float64), np.ones(len(values)))}


def each_alone(toy: Any, count: int) -> Any:
    """An evaluation of several seeds, one after the other."""
    alone = toy.evaluate_fn()

    def each(params: Any) -> Any:
        own = [{k: v[i] for k, v in params.items() if k != "seed"} for i in range(count)]
        return jax.tree.map(lambda *sums: np.stack(sums), *map(alone, own))

    return each


def train(
    toy: Any,
    directory: Path,
    settings: Any,
    numbers: Any = (0, 1, 2, 3),
    *,
    devices: int = 1,
    multi_step: Any = None,
    evaluate: Any = None,
    states: Any = None,
    display: Any = None,
    **options: Any,
) -> list[loop.Result]:
    """Train seeds into a directory, from where it stands."""
    layout = seeds.make_seed_layout(len(numbers), devices)
    multi_step = multi_step or toy.multi_step_of(settings, layout)
    if SeedRuns.exists(directory):
        home = SeedRuns.open(directory)
    else:
        home = SeedRuns.create(directory, numbers, devices, lambda seed: toy.FILES)
    states = states or [state_of(toy, settings, seed) for seed in numbers]
    evaluate = evaluate or each_alone(toy, len(numbers))
    opened = loop.open_loop(
        toy.trainable(settings, evaluate, **options),
        layout.stack_runs(states),
        multi_step,
        home.runs,
        settings,
        layout=layout,
        display=display,
        log=home.log,
    )
    return loop.train(opened)


def saved(directory: Path) -> dict[str, Any]:
    """All that a run leaves, without what the clock decides."""
    run = Run.open(directory)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in run.read_metrics()]
    progress = run.index["last"]["progress"] | {"seconds": 0.0}
    both = {which: run.load_checkpoint(which) for which in ("last", "best") if run.index.get(which)}
    return {"rows": rows, "progress": progress, "steps": run.index["last"]["step"], **both}


def assert_same(left: Path, right: Path) -> None:
    a, b = saved(left), saved(right)
    for name in ("rows", "progress", "steps"):
        assert a.pop(name) == b.pop(name)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def settings(toy: Any) -> Any:
    return toy.config(evaluate_every=7, averaging="nt_asgd", nt_asgd_window=2)


@pytest.fixture(scope="module")
def multi_step(toy: Any, settings: Any) -> Any:
    """Of four seeds on one device; compiled once for the tests of this file."""
    return toy.multi_step_of(settings, seeds.make_seed_layout(4, 1))


@pytest.fixture(scope="module")
def whole(toy: Any, settings: Any, multi_step: Any, tmp_path_factory: Any) -> Path:
    """Four seeds that nothing disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    results = train(toy, directory, settings, multi_step=multi_step)
    assert {(r.reason, r.steps) for r in results} == {("finished", 48)}
    return directory


@pytest.mark.parametrize(("devices", "vmap"), [(1, True), pytest.param(2, False, marks=needs_two)])
def test_each_seed_makes_the_steps_it_makes_alone(
    toy: Any, settings: Any, devices: int, vmap: bool
) -> None:
    """One after the other bit for bit; all at once up to the order of additions in a product."""
    layout = seeds.make_seed_layout(4, devices, vmap)
    all_at_once = toy.multi_step_of(settings, layout)
    state = layout.stack_runs([state_of(toy, settings, seed) for seed in range(4)])
    _, alone, _ = toy.pieces(settings)
    batches = toy.Stream().read(0, 0, 5)
    state, metrics = all_at_once(state, layout.place_batches(batches), np.int32(5))
    for seed, member in enumerate(layout.unstack_runs(state)):
        wanted, rows = alone(state_of(toy, settings, seed), batches, np.int32(5))
        pairs = ((member.params, wanted.params), (member.opt_state, wanted.opt_state))
        for one, other in (*pairs, (jax.tree.map(lambda x, s=seed: x[s], metrics), rows)):
            if vmap:
                jax.tree.map(
                    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), one, other
                )
            else:
                jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_seed_is_the_run_it_is_alone(
    toy: Any, settings: Any, whole: Path, tmp_path: Path
) -> None:
    """The whole training: files of seed 2 and of a run with its state, bit for bit."""
    _, alone, layout = toy.pieces(settings)
    pieces = (lambda: state_of(toy, settings, 2), alone, layout)
    toy.train(tmp_path / "run", settings, pieces=pieces)
    assert_same(whole / "seed-2", tmp_path / "run")


@pytest.mark.parametrize("vmap", [False, True])
def test_the_other_seeds_do_not_matter(toy: Any, settings: Any, vmap: bool) -> None:
    """Bit for bit, whatever the others are, even one that is not finite."""
    layout = seeds.make_seed_layout(2, 1, vmap)
    multi_step = toy.multi_step_of(settings, layout)
    batches = toy.Stream().read(0, 0, 5)
    ends = []
    for other in (5, 6, None):
        neighbour = state_of(toy, settings, other or 0)
        if other is None:
            spoilt = jax.tree.map(lambda x: x * jnp.nan, neighbour.params)
            neighbour = neighbour._replace(params=spoilt)
        state = layout.stack_runs([state_of(toy, settings, 3), neighbour])
        state, _ = multi_step(state, batches, np.int32(5))
        ends.append(layout.unstack_runs(state)[0].params)
        assert bool(layout.unstack_runs(state)[1].finite) == (other is not None)
    for end in ends[1:]:
        jax.tree.map(np.testing.assert_array_equal, ends[0], end)


@needs_two
def test_devices_never_talk(toy: Any, settings: Any) -> None:
    layout = seeds.make_seed_layout(4, 2)
    state = layout.stack_runs([state_of(toy, settings, seed) for seed in range(4)])
    program = toy.multi_step_of(settings, layout).lower(state, toy.Stream().read(0, 0, 5), 5)
    text = program.compile().as_text()
    assert not any(name in text for name in ("all-reduce", "all-gather", "collective-permute"))


class Crash(BaseException):
    """Ends the loop as a kill does: nothing below may catch it and save."""


@pytest.mark.parametrize("crash_at", [0, 9, 17])
def test_resuming_changes_nothing(
    toy: Any,
    settings: Any,
    multi_step: Any,
    whole: Path,
    tmp_path: Path,
    crash_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after so many files were written, some runs saved and some not: the same files."""
    from jaxgen.training import runs, seed_runs

    write_atomically, writes = runs.write_atomically, []

    def dying(*arguments: Any) -> None:
        writes.append(arguments)
        if len(writes) > 16 + crash_at:  # beyond those of the start
            raise Crash
        write_atomically(*arguments)

    with monkeypatch.context() as patch, suppress(Crash):
        patch.setattr(runs, "write_atomically", dying)
        patch.setattr(seed_runs, "write_atomically", dying)
        train(toy, tmp_path, settings, multi_step=multi_step)
    results = train(toy, tmp_path, settings, multi_step=multi_step)
    assert {(r.reason, r.steps) for r in results} == {("finished", 48)}
    for seed in range(4):
        assert_same(whole / f"seed-{seed}", tmp_path / f"seed-{seed}")


def poisoned(toy: Any, bad: tuple[int, ...]) -> Any:
    """A loss that is nan where `bad` seeds read the first token of window 10."""

    def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        loss, aux = toy.loss_fn({k: v for k, v in params.items() if k != "seed"}, carry, batch, key)
        here = batch["tokens"][0, 0] == toy.V - 1
        mine = (jax.lax.stop_gradient(params["seed"]) == jnp.array(bad, jnp.float32)).any()
        return loss + jnp.where(here & mine, jnp.nan, 0.0), aux

    return loss_fn


def poisoned_states(toy: Any, settings: Any, numbers: Any) -> Any:
    tx = make_optimizer(name="adam", learning_rate=0.01, clip_norm=5.0)
    return [
        init_state(
            toy.init_params(n) | {"seed": jnp.float32(n)},
            tx,
            jax.random.key(n),
            carry=toy.carry(),
            averaging=settings.averaging,
        )
        for n in numbers
    ]


def test_one_seed_that_diverges_leaves_the_others(toy: Any, settings: Any, tmp_path: Path) -> None:
    stream = toy.Stream()
    stream.tokens = stream.tokens.copy()
    stream.tokens[0] = 0
    stream.tokens[0, 10 * toy.T] = toy.V - 1
    ends, layout = {}, seeds.make_seed_layout(2, 1)
    for name, bad in (("bad", (1,)), ("good", (9,)), ("all", (0, 1))):
        shown = io.StringIO()
        options = {
            "numbers": (0, 1),
            "multi_step": toy.multi_step_of(settings, layout, poisoned(toy, bad)),
            "states": poisoned_states(toy, settings, (0, 1)),
            "stream": stream,
            "display": Display(48, toy.OBJECTIVE, Console(file=shown, width=200)),
        }
        if name == "all":
            with pytest.raises(UserError, match=r"all 2 runs diverged, .*`loss` is nan at step 11"):
                train(toy, tmp_path / name, settings, **options)
            break
        ends[name] = train(toy, tmp_path / name, settings, **options)
        if name == "bad":
            message = "seed-1 diverged: `loss` is nan at step 11; the state after step 10 is saved"
            assert message in shown.getvalue()
            resumed = train(toy, tmp_path / name, settings, **options)
            assert [(r.reason, r.steps) for r in resumed] == [("finished", 48), ("diverged", 10)]
    assert [(r.reason, r.steps) for r in ends["bad"]] == [("finished", 48), ("diverged", 10)]
    assert [(r.reason, r.steps) for r in ends["good"]] == [("finished", 48), ("finished", 48)]
    assert_same(tmp_path / "bad/seed-0", tmp_path / "good/seed-0")
    last = Run.open(tmp_path / "bad/seed-1").load_checkpoint("last")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last["params"]))
    facts = seeds_history(tmp_path / "bad", toy.OBJECTIVE)["runs"]["seed-1"]
    assert (facts["steps"], facts["stopped"]) == (10, "`loss` is nan at step 11")


def test_a_seed_stops_early_alone(toy: Any, tmp_path: Path) -> None:
    settings = toy.config(patience=2, evaluate_every=4)
    rows = iter([[3.0, 3.0], [2.0, 4.0], [1.9, 4.0], [2.1, 0.0], [2.0, 0.0]])
    shown = io.StringIO()
    first, second = train(
        toy,
        tmp_path,
        settings,
        (0, 1),
        evaluate=lambda params: nll_of(next(rows)),
        objective=Objective("nll"),
        display=Display(48, Objective("nll"), Console(file=shown, width=200)),
    )
    assert (second.reason, second.steps, second.best) == ("early stopping", 12, 3.0)
    assert (first.reason, first.steps, first.best) == ("early stopping", 20, 1.9)
    lines = shown.getvalue().splitlines()
    assert (
        "step 8  epoch 0.67  validation_nll 3.0000 ± 1.0000 (2 runs)  best 2.0000 seed-0" in lines
    )
    assert (
        "step 16  epoch 1.33  validation_nll 2.1000 ± 0.0000 (1 runs)  best 2.1000 seed-0" in lines
    )


def test_a_seed_whose_validation_is_not_finite(toy: Any, tmp_path: Path) -> None:
    nan = float("nan")
    first, second = train(
        toy,
        tmp_path,
        toy.config(evaluate_every=24),
        (0, 1),
        evaluate=lambda params: nll_of([nan, 1.0]),
    )
    assert (first.reason, first.steps) == ("diverged", 24)
    assert (second.reason, second.steps, second.best) == ("finished", 48, 1.0)


def test_a_run_knows_the_seeds_beside_it(whole: Path, tmp_path: Path) -> None:
    assert seed_group_of(whole / "seed-1") == whole.resolve()
    assert seed_group_of(whole) is None
    shutil.copytree(whole / "seed-1", tmp_path / "seed-1")
    assert seed_group_of(tmp_path / "seed-1") is None
    with pytest.raises(UserError, match=r"runs of several seeds: seed-0, .* such as .*seed-0 "):
        Run.open(whole)
    facts = seeds_history(whole, Objective("nll", shown=("bpc", bits)))
    figures = [facts["runs"][f"seed-{n}"]["best_validation_bpc"] for n in range(4)]
    assert facts["best_validation_bpc_mean"] == pytest.approx(np.mean(figures))
    assert facts["best_validation_bpc_deviation"] == pytest.approx(np.std(figures))
    assert facts["best_run"].endswith(f"seed-{np.argmin(figures)}")

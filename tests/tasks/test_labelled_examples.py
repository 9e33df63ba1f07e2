"""Training of a task of labelled texts: several shapes, no carry, matrices, higher is better."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import EXPERIMENTS, Config, Experiment
from jaxgen.evaluation.sums import make_sums
from jaxgen.experiment import describe, evaluate, load, train
from jaxgen.tasks import TASKS, Task
from jaxgen.training import loop
from jaxgen.training.from_settings import optimizer_of, step_options
from jaxgen.training.runs import Run
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seeds import over_seeds
from jaxgen.training.step import TrainState, init_state, make_train_step
from jaxgen.training.trainable import Evaluation, Objective, Trainable
from jaxgen.types import LossAux, Sum

V, C, B = 8, 3, 4
LENGTHS = (3, 5)
TIMES = ("seconds", "examples_per_second")
TINY = {"batch_size": B, "steps_per_dispatch": 3, "devices": 1, "epochs": 3, "accumulate_steps": 2}


class Batch(NamedTuple):
    """As `jaxgen.data` makes of labelled texts."""

    tokens: Any
    lengths: Any
    labels: Any
    weights: Any


class Examples(NamedTuple):
    """Blocks of two batches of one shape, the last row of the last batch a filling."""

    blocks: int
    seed: int
    several: bool

    @property
    def batches_per_epoch(self) -> int:
        return 2 * self.blocks

    @property
    def shapes(self) -> Any:
        labels = ((B, C), np.float32) if self.several else ((B,), np.int32)
        others = (((B,), np.int32), labels, ((B,), np.float32))
        return [
            Batch(*(jax.ShapeDtypeStruct(*leaf) for leaf in (((B, length), np.int32), *others)))
            for length in LENGTHS
        ]

    def same_shape(self, epoch: int, first: int) -> int:
        return 2 - first % 2

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> Any:
        batches = [self.batch(epoch, place) for place in range(first, first + count)]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[:, rows], *batches)

    def batch(self, epoch: int, place: int) -> Batch:
        random = np.random.default_rng([self.seed, epoch, place])
        tokens = random.integers(1, V, (B, LENGTHS[place // 2 % 2])).astype(np.int32)
        labels = tokens[:, 0] % C  # the first word says it
        weights = np.ones(B, np.float32)
        if place == self.batches_per_epoch - 1:
            weights[-1] = 0
        some = (labels[:, None] == np.arange(C)).astype(np.float32)
        lengths = np.full(B, tokens.shape[1], np.int32)
        return Batch(tokens, lengths, some if self.several else labels.astype(np.int32), weights)


def logits_of(params: Any, tokens: Any) -> Any:
    return params["table"][tokens[:, 0]] + params["other"][tokens[:, 1:]].mean(1)


def loss_fn(params: Any, carry: Any, batch: Batch, key: Any, several: bool) -> Any:
    logits, weights = logits_of(params, batch.tokens), batch.weights
    if several:
        nll = -jax.nn.log_sigmoid(jnp.where(batch.labels > 0, logits, -logits)).sum(-1)
        found, true = logits > 0, batch.labels > 0
        pairs = jnp.stack([~true, true], -1)[..., None] & jnp.stack([~found, found], -1)[:, :, None]
        hits = (found == true).all(-1)
    else:
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], 1)[:, 0]
        one_hot = [labels[:, None] == jnp.arange(C) for labels in (batch.labels, logits.argmax(-1))]
        pairs, hits = (
            one_hot[0][:, :, None] & one_hot[1][:, None],
            logits.argmax(-1) == batch.labels,
        )
    confusion = jnp.tensordot(weights, pairs.astype(jnp.float32), 1)
    count = weights.sum()
    sums = {
        "nll": Sum((nll * weights).sum(), count),
        "accuracy": Sum(jnp.where(hits, weights, 0).sum(), count),
        "confusion": Sum(confusion, count),
    }
    return sums["nll"].total / jnp.maximum(count, 1), LossAux(carry, sums, count)


def figures(sums: Any) -> dict[str, float]:
    found = {name: float(sums[name].total / sums[name].weight) for name in ("nll", "accuracy")}
    confusion = sums["confusion"].total
    trace = np.trace(confusion) if confusion.ndim == 2 else confusion[:, [0, 1], [0, 1]].sum()
    return {**found, "diagonal": float(trace / confusion.sum())}


class LabelledModel(Config):
    """A table."""

    several: bool = False
    """Several labels a text."""


class LabelledExperiment(Experiment):
    task: Literal["labelled"] = "labelled"
    model: LabelledModel = LabelledModel()


class Data(NamedTuple):
    train: Examples
    validation: Examples
    test: None = None


def open_data(experiment: LabelledExperiment) -> Data:
    several = experiment.model.several
    return Data(Examples(5, 0, several), Examples(3, 1, several))


def all_batches(examples: Examples) -> list[Batch]:
    return [examples.batch(0, place) for place in range(examples.batches_per_epoch)]


def shapes(experiment: Any, files: Any) -> Any:
    return {name: jax.ShapeDtypeStruct((V, C), jnp.float32) for name in ("table", "other")}


def objective(experiment: Any, files: Any) -> Objective:
    return Objective("accuracy", higher_is_better=True, counts="examples")


def build(
    experiment: LabelledExperiment, files: Any, data: Data, cache: Path, pretrained: Any, *,
    seeds: Any = None,
) -> Trainable:  # fmt: skip
    config = experiment.training
    tx, rate = optimizer_of(experiment.optimizer, StepSchedule(data.train, config))
    loss = partial(loss_fn, several=experiment.model.several)
    over_runs: Callable[..., Any] | None = None
    if seeds is not None:
        over_runs = partial(over_seeds, layout=seeds)
    sums = make_sums(loss, batches_per_dispatch=2, over_runs=over_runs)

    def first_state(key: Any) -> TrainState:
        table, other = jax.random.normal(key, (2, V, C))
        params = {"table": table, "other": other}
        return init_state(params, tx, key, averaging=config.averaging)

    return Trainable(
        init_state=first_state,
        train_step_on=lambda axis: make_train_step(
            loss, tx, axis_name=axis, **step_options(config)
        ),
        batches=data.train,
        initial_carry=(),
        rates={"learning_rate": rate},
        figures=figures,
        objective=objective(experiment, files),
        evaluation=Evaluation(
            lambda params: None, lambda params: sums(params, (), all_batches(data.validation))
        ),
    )


def measured(model: Any, data: Data, options: Any) -> dict[str, Any]:
    loss = partial(loss_fn, several=data.train.several)
    return figures(make_sums(loss)(model, (), all_batches(data.validation)))


@pytest.fixture(scope="module", autouse=True)
def joined() -> Iterator[None]:
    EXPERIMENTS["labelled"] = LabelledExperiment
    TASKS["labelled"] = Task(
        open_data=open_data,
        fit_files=lambda *_: {},
        build=build,
        load=lambda experiment, files, params: params,
        init_shapes=shapes,
        evaluate=measured,
        facts=lambda experiment, files: {},
        objective=objective,
        command="evaluate",
    )
    yield
    del EXPERIMENTS["labelled"], TASKS["labelled"]


def settings(several: bool = False, **training: Any) -> LabelledExperiment:
    return LabelledExperiment().updated(
        model={"several": several},
        optimizer={"learning_rate": 0.1},
        training={**TINY, **training},
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows = Run.open(path).read_metrics()
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def last(path: Path) -> Any:
    return Run.open(path).load_checkpoint("last")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, joined: None) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "run"
    train(settings(averaging="ema"), out=out)
    return out


def plain_accuracy(params: Any, several: bool = False) -> float:
    """By a loop over the texts."""
    hits = []
    for batch in all_batches(open_data(settings(several)).validation):
        for tokens, label, weight in zip(batch.tokens, batch.labels, batch.weights, strict=True):
            logits = params["table"][tokens[0]] + params["other"][tokens[1:]].mean(0)
            hit = (logits > 0) == (label > 0) if several else logits.argmax() == label
            hits += [np.all(hit)] * int(weight)
    return float(np.mean(hits))


def test_rows_and_evaluations_hold_the_figures(run: Path) -> None:
    """The accuracy is the share on the diagonal of the confusion matrix, row by row."""
    rows = rows_of(run)
    training = [row for row in rows if "accuracy" in row]
    held_out = [row for row in rows if "validation_accuracy" in row]
    assert [row["step"] for row in training] == [3, 5, 6, 9, 10, 12, 15]
    assert [row["step"] for row in held_out] == [5, 10, 15]
    for row in training:
        assert row["accuracy"] == pytest.approx(row["diagonal"])
    for row in held_out:
        assert row["validation_accuracy"] == pytest.approx(row["validation_diagonal"])
    every = Run.open(run).read_metrics()
    assert any("examples_per_second" in row for row in every)
    assert not any("tokens_per_second" in row for row in every)
    averaged = last(run)["average"]["params"]
    assert held_out[-1]["validation_accuracy"] == pytest.approx(plain_accuracy(averaged))
    values = [row["validation_accuracy"] for row in held_out]
    assert describe(run)["best_validation_accuracy"] == max(values)
    assert describe(run)["best_step"] == 5 * (1 + values.index(max(values)))
    assert evaluate(run, split="validation")["accuracy"] == pytest.approx(max(values))
    assert (run / "loss.png").is_file()


def test_interrupted_within_a_row_its_matrix_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left:
        """Says that Ctrl-C came once the seventh step is dispatched."""

        def __enter__(self) -> Callable[[], bool]:
            return lambda: opened[0].step >= 7

        def __exit__(self, *_: object) -> None:
            pass

    opened: list[Any] = []

    def open_loop(*arguments: Any, **options: Any) -> Any:
        opened.append(loop.open_loop(*arguments, **options))
        return opened[0]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "interrupts", Left)
        patch.setattr("jaxgen.start.open_loop", open_loop)
        assert train(settings(averaging="ema"), out=tmp_path).reason == "interrupted"
    kept = Run.open(tmp_path).index["last"]
    assert kept["step"] == 7
    assert np.shape(kept["progress"]["row"]["sums"]["confusion"][0]) == (C, C)
    train(None, out=tmp_path, resume=True)
    assert rows_of(tmp_path) == rows_of(run)
    jax.tree.map(np.testing.assert_array_equal, last(tmp_path), last(run))


@pytest.mark.slow
def test_two_devices_make_the_same_steps(run: Path, tmp_path: Path) -> None:
    """The filling rows lie on one device only, and the mean is over the real ones."""
    train(settings(averaging="ema", devices=2), out=tmp_path)
    for name in ("table", "other"):
        np.testing.assert_allclose(
            last(tmp_path)["params"][name], last(run)["params"][name], rtol=1e-4, atol=1e-6
        )
    for own, other in zip(rows_of(tmp_path), rows_of(run), strict=True):
        assert own == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_seeds_are_measured_side_by_side(run: Path, tmp_path: Path) -> None:
    results = train(settings(averaging="ema"), out=tmp_path, seeds=2)
    for own, other in zip(rows_of(tmp_path / "seed-0"), rows_of(run), strict=True):
        assert own == pytest.approx(other, rel=1e-4)
    facts = describe(tmp_path)
    bests = [result.best for result in results]
    assert facts["best_validation_accuracy_mean"] == pytest.approx(np.mean(bests))
    assert facts["best_run"].endswith(f"seed-{int(np.argmax(bests))}")
    second = load(tmp_path / "seed-1", "best")
    assert bests[1] == pytest.approx(plain_accuracy(second))


@pytest.mark.slow
def test_several_labels_a_text(tmp_path: Path) -> None:
    """Labels [B, C] and one 2 x 2 matrix a label; NT-ASGD waits for the accuracy to stall."""
    experiment = settings(True, averaging="nt_asgd", nt_asgd_window=1, epochs=8, devices=2)
    turning = {"name": "sgd", "learning_rate": 1.0, "weight_decay": 2.0}  # w becomes -w
    train(experiment.updated(optimizer=turning), out=tmp_path)
    held_out = [row for row in rows_of(tmp_path) if "validation_accuracy" in row]
    values = [row["validation_accuracy"] for row in held_out]
    state = last(tmp_path)
    stalls = [max(values[: i - 1]) > values[i] for i in range(2, len(values))]
    assert any(stalls)
    assert state["average"]["active"]
    assert values[-1] == pytest.approx(plain_accuracy(state["average"]["params"], several=True))

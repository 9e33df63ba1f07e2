"""Figures of several trainings, and the reference in Keras: divided, measured, recorded, shown."""

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import classifier_sections, keras_reference, report, results, trainings
from jaxgen.config import LabelledData
from jaxgen.data.labelled import LabelledTexts
from jaxgen.errors import UserError


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=60), st.data())
def test_folds_are_even_in_every_class(classes: list[str], data: Any) -> None:
    count = data.draw(st.integers(2, len(classes)))
    folds = trainings.folds_of(classes, count, seed=0)
    for name in ("abc", *"abc"):
        chosen = [f for f, c in zip(folds.tolist(), classes, strict=True) if c in name]
        sizes = [chosen.count(fold) for fold in range(count)]
        assert max(sizes) - min(sizes) <= 1


def test_folds_follow_the_seed() -> None:
    classes = ["a", "b"] * 20
    same, other = trainings.folds_of(classes, 4, 0), trainings.folds_of(classes, 4, 1)
    np.testing.assert_array_equal(trainings.folds_of(classes, 4, 0), same)
    assert (same != other).any()


@pytest.mark.parametrize("count", [1, 5])
def test_impossible_folds_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"at least 2 and at most the 4 texts, got {count}"):
        trainings.folds_of(["a"] * 4, count, 0)


def test_mean_and_deviation() -> None:
    rows = [{"name": "x", "nll": value} for value in (1.0, 2.0, 6.0)]
    assert trainings.means(rows) == {"nll": 3.0}
    assert trainings.deviations(rows) == {"nll": pytest.approx(7**0.5)}  # sqrt((4 + 1 + 9) / 2)
    assert trainings.deviations(rows[:1]) == {"nll": 0.0}


def test_baselines_are_scored_on_the_test_texts() -> None:
    """The commonest class is the training texts', and TF-IDF learns a word apiece."""
    train = LabelledTexts(["GOOD day", "good", "good it"] * 3 + ["bad", "bad it"] * 3, (), "train")
    train = LabelledTexts(train.texts, [("p",)] * 9 + [("n",)] * 6, "train")
    test = LabelledTexts(["bad day", "Bad", "good"], [("n",), ("n",), ("p",)], "test")
    found = trainings.baselines_of(LabelledData(lowercase=True), train, test)
    assert found[0] == {
        "name": "commonest class",
        "accuracy": pytest.approx(1 / 3),
        "f1_macro": pytest.approx(0.25),  # of p 2 * 1/3 * 1 / (4/3), of n 0
    }
    if len(found) > 1:  # scikit-learn is here
        assert found[1]["accuracy"] == 1.0


def test_reference_arrays() -> None:
    """Numbers by frequency, the unknown left out, cut and filled up after the end."""
    train = LabelledTexts(["b <i>a</i> b", "A c b d e"], [("no",), ("yes",)], "train")
    held_out = LabelledTexts(["a new b c c b"], [("yes",)], "validation")
    config = LabelledData(lowercase=True, strip_html=True)
    parts = {"train": train, "validation": held_out}
    arrays, sizes = keras_reference.arrays_of(config, parts)
    assert sizes == {"train": 2, "vocabulary": 6, "length": 4}
    assert arrays["train_tokens"].tolist() == [[1, 2, 1, 0], [2, 3, 1, 4]]
    assert arrays["validation_tokens"].tolist() == [[2, 1, 3, 3]]
    assert arrays["train_labels"].tolist() == [0, 1]
    three = LabelledTexts(["a", "b", "c"], [("x",), ("y",), ("z",)], "train")
    with pytest.raises(UserError, match="two classes, got x, y, z"):
        keras_reference.arrays_of(config, {"train": three})


def test_a_reference_run_is_shown() -> None:
    epochs = [{"seconds": 2.0, "validation_accuracy": a} for a in (0.5, 0.875, 0.75)]
    run = {"seed": 3, "epochs": epochs, "seconds": 6.0, "test_accuracy": 0.8125}
    sizes = {"train": 20_000, "vocabulary": 70_000, "length": 130}
    content = {"runs": [run], "sizes": sizes, "masked": False, "command": "the command"}
    found = report.page({"a.json": {"kind": "keras_reference", "machine": {}, **content}}, [])
    for expected in ("0.8750", "0.8125", "without a mask", "70,000", "the command"):
        assert expected in found


@pytest.mark.slow
@pytest.mark.peers("keras", "tensorflow")
def test_the_reference_trains(tmp_path: Path) -> None:
    texts = ["good " * 6, "bad " * 6] * 128
    part = LabelledTexts(texts, [("p",), ("n",)] * 128, "part")
    parts = dict.fromkeys(("train", "validation", "test"), part)
    arrays, sizes = keras_reference.arrays_of(LabelledData(), parts)
    np.savez(tmp_path / "arrays.npz", **arrays)
    from benchmarks.peers.keras_imdb import KerasReference

    keras = KerasReference(str(tmp_path / "arrays.npz"), sizes["vocabulary"])
    epochs = [keras.epoch() for _ in range(3)]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    best = max(epoch["validation_accuracy"] for epoch in epochs)
    assert keras.best_accuracy("test") == best


def test_targets_are_shown_with_what_was_measured() -> None:
    spread = {"lower": 1.0, "upper": 2.0, "minimum": 1.0, "maximum": 2.0, "count": 3}
    row = {
        **{
            "suite": classifier_sections.TRAINING,
            "case": "c",
            "final": True,
            "examples_per_second": 1e3,
        },
        **{"tokens_per_second": 1e5, "flops_per_second": 1e9, "seconds": {"median": 1.5, **spread}},
        "shape": {"examples": 8, "tokens": 80, "padded": 90, "batches": 2},
    }
    rows = [
        {**row, "contestant": "jaxgen", "group": "jaxgen"},
        {**row, "contestant": "torch packed 1t", "group": "torch packed"},
    ]
    entry = {"suite": classifier_sections.TRAINING, "case": "c", "faster": "jaxgen"}
    names = {"torch packed 1t": 1.6, classifier_sections.FASTER_TORCH: 1.05}
    ratios = [
        {**entry, "slower": name, "times": {"median": times, **spread}}
        for name, times in names.items()
    ]
    lines = classifier_sections.classifiers({"rows": rows, "ratios": ratios}).splitlines()
    (packed,) = [line for line in lines if "torch packed 1t" in line and "reached" in line]
    assert "1.5 |  1.6 [1, 2]" in packed
    (both,) = [line for line in lines if classifier_sections.FASTER_TORCH in line]
    assert "missed" in both


CONFIG = """\
task = "classifier"
[data]
files = ["{path}"]
seed = 1
validation_fraction = 0.2
test_fraction = 0.2
[tokenizer]
kind = "word"
[model]
embedding_size = 4
hidden_size = 4
[training]
batch_size = 8
devices = 1
"""
OPTIONS = ["--training.epochs", "1", "--training.steps-per-dispatch", "2"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Sixty sentences in one file, two thirds of one class."""
    rows = [f"this is good {n};p\nso very good {n};p\na bad one {n};n\n" for n in range(20)]
    (tmp_path / "texts.txt").write_text("".join(rows))
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.format(path=tmp_path / "texts.txt"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--seeds", "2", "--split", "test"], ["--folds", "3"]])
def test_trainings_are_measured_and_recorded(
    how: list[str], config: Path, tmp_path: Path, capsys: Any
) -> None:
    out, runs = tmp_path / "small_texts.json", tmp_path / "runs"
    arguments = [str(config), *how, "--out", str(out), "--runs", str(runs), "--", *OPTIONS]
    assert trainings.main(arguments) == 0
    found = results.read(out)
    folds = "--folds" in how
    assert [run["name"] for run in found["runs"]] == (
        ["fold 0", "fold 1", "fold 2"] if folds else ["seed 0", "seed 1"]
    )
    values = [run["accuracy"] for run in found["runs"]]
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert found["deviation"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    assert found["baselines"][0]["accuracy"] == pytest.approx(2 / 3, abs=0.05)
    assert (found["baselines"][-1]["name"] == "all seeds as one") is not folds
    assert str(tmp_path) not in json.dumps(found)
    assert "Small texts" in report.page({out.name: found}, [])
    if folds:
        parts = [read_texts(runs / f"test-{fold}.jsonl") for fold in range(3)]
        assert Counter(row for part in parts for row in part) == Counter(
            tuple(line.split(";")) for line in (tmp_path / "texts.txt").read_text().splitlines()
        )
        for fold, part in enumerate(parts):
            assert not set(part) & set(read_texts(runs / f"train-{fold}.jsonl"))


def read_texts(path: Path) -> list[tuple[str, str]]:
    rows = map(json.loads, path.read_text().splitlines())
    return [(row["text"], row["label"]) for row in rows]


def test_bad_input_is_one_line(config: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "a.json"
    assert trainings.main([str(config), "--folds", "1", "--out", str(out)]) == 2
    assert "`folds` must be at least 2" in capsys.readouterr().err
    options = ["--seeds", "2", "--split", "test", "--out", str(out)]
    assert trainings.main([str(config), *options, "--", "--data.test-fraction", "0"]) == 2
    assert "hold out no test texts" in capsys.readouterr().err
    assert not out.exists()


def test_a_keras_run_is_driven_epoch_by_epoch(monkeypatch: Any, capsys: Any) -> None:
    """The test texts are asked for only with `--test`, and after the last epoch."""
    calls: list[str] = []

    class Recorded:
        def __init__(self, target: str, **options: Any):
            assert options["masked"]

        def __enter__(self) -> "Recorded":
            return self

        def __exit__(self, *_: object) -> None: ...

        def call(self, method: str, **arguments: Any) -> Any:
            calls.append(method)
            if method == "best_accuracy":
                return 0.5
            return {"seconds": 2.0, "validation_accuracy": 0.25}

    monkeypatch.setattr(keras_reference, "Worker", Recorded)
    args = Namespace(keras_python="python", masked=True, epochs=2, test=False)
    run = keras_reference.run_keras(Path("a.npz"), {"vocabulary": 5}, 7, args)
    assert calls == ["epoch", "epoch"]
    assert (run["seed"], run["seconds"]) == (7, 4.0)
    args.test = True
    assert keras_reference.run_keras(Path("a.npz"), {"vocabulary": 5}, 7, args)["test_accuracy"]
    assert calls[2:] == ["epoch", "epoch", "best_accuracy"]

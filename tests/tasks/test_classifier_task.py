"""A classifier from settings to figures: trained, resumed, begun from another run, exported."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen.config import ClassifierExperiment, LanguageModelExperiment
from jaxgen.config.toml import parse_toml, to_toml
from jaxgen.errors import UserError
from jaxgen.experiment import describe, evaluate, export, load, train
from jaxgen.tasks.classifier import CLASSIFIER, Classes
from jaxgen.training.trainable import Trainable

TINY_MODEL = {
    **{"hidden_size": 4, "embedding_size": 4, "dropout": 0.0},
    **{"ngrams": 2, "ngram_buckets": 64},
}
TINY_TRAINING = {"batch_size": 8, "epochs": 2, "devices": 1, "steps_per_dispatch": 2}


def write_reviews(folder: Path, *, third: bool = False, rows: int = 60) -> Path:
    """Good, bad (and plain) reviews of two lengths, which one word tells apart."""
    words = {"pos": "good", "neg": "bad"} | ({"none": "plain"} if third else {})
    labels = list(words)
    path = folder / "reviews.tsv"
    lines = ["text\tlabel"]
    for n in range(rows):
        label = labels[n % len(labels)]
        lines.append(f"{'the film was ' * (1 + n % 2)}{words[label]} {n % 5}\t{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(files: Path, **sections: dict[str, Any]) -> ClassifierExperiment:
    given: dict[str, Any] = {
        "data": {"files": (files,), "buckets": 2, **sections.pop("data", {})},
        "model": TINY_MODEL | sections.pop("model", {}),
        "training": TINY_TRAINING | sections.pop("training", {}),
    }
    return ClassifierExperiment(**given, **sections)


def built(experiment: ClassifierExperiment, tmp_path: Path) -> tuple[Trainable, dict[str, str]]:
    data = CLASSIFIER.open_data(experiment)
    files = dict(CLASSIFIER.fit_files(experiment, data, None))
    return CLASSIFIER.build(experiment, files, data, tmp_path, None), files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run; do not write into it."""
    folder = tmp_path_factory.mktemp("classifier")
    experiment = settings(
        write_reviews(folder), optimizer={"learning_rate": 0.05}, training={"epochs": 6}
    )
    train(experiment, out=folder / "run")
    return folder / "run"


def test_a_run_is_trained_measured_and_described(run: Path) -> None:
    figures = evaluate(run)
    assert (figures["examples"], figures["split"]) == (6, "test")
    assert figures["accuracy"] == 1.0
    assert set(figures["per_class"]) == {"neg", "pos"}
    assert figures["chosen_on_validation"].keys() >= {"temperature", "threshold", "ece"}
    facts = describe(run)
    assert facts["labels"] == "neg, pos"
    assert facts["training_texts"] == {"neg": 24, "pos": 24}
    json.dumps(figures)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_f1_macro" in row for row in rows)
    assert any("examples_per_second" in row for row in rows)


def test_pictures_go_into_a_directory_that_is_made(run: Path, tmp_path: Path) -> None:
    figures = evaluate(run, plots=tmp_path / "new" / "pictures")
    assert sorted(Path(path).name for path in figures["plots"]) == [
        "calibration.png",
        "confusion.png",
        "roc.png",
    ]
    assert all(Path(path).stat().st_size for path in figures["plots"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="`plots` must be a directory"):
        evaluate(run, plots=tmp_path / "file")


def test_a_loaded_run_and_its_export_predict_alike(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "export")
    texts = ["the film was good 1", "the film was the film was bad 2"]
    first, second = (load(path).predict(texts) for path in (run, tmp_path / "export"))
    assert [found.label for found in first] == ["pos", "neg"]
    assert [found.probabilities for found in first] == [found.probabilities for found in second]
    card = (tmp_path / "export" / "README.md").read_text()
    assert "text-classification" in card
    assert "neg, pos" in card


def test_other_files_are_measured_though_they_hold_one_class_only(
    run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.tsv"
    other.write_text("text\tlabel\nthe film was good 1\tpos\n")
    figures = evaluate(run, files=[other])
    assert (figures["examples"], figures["split"]) == (1, None)
    other.write_text("text\tlabel\nthe film was good 1\tmixed\n")
    with pytest.raises(UserError, match="a label that the training data do not have: mixed"):
        evaluate(run, files=[other])
    with pytest.raises(UserError, match="trained on the training texts"):
        evaluate(run, split="train", baselines=True)


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    files = write_reviews(tmp_path)
    whole = settings(files, training={"max_steps": 9})
    train(whole, out=tmp_path / "whole")
    train(whole.updated(training={"max_steps": 5}), out=tmp_path / "cut")
    train(whole, out=tmp_path / "cut", resume=True)
    ends = [load(tmp_path / name, "last").params for name in ("whole", "cut")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_seeds_train_together(tmp_path: Path) -> None:
    experiment = settings(write_reviews(tmp_path), training={"max_steps": 4})
    results = train(experiment, out=tmp_path / "seeds", seeds=2)
    assert [result.steps for result in results] == [4, 4]
    alone = train(experiment, out=tmp_path / "alone")
    assert alone.best == pytest.approx(results[0].best, abs=1e-6)


@pytest.mark.slow
def test_it_begins_with_a_language_model(tmp_path: Path) -> None:
    files = write_reviews(tmp_path)
    lm = LanguageModelExperiment(
        data={"files": (files,), "lowercase": True},
        tokenizer={"kind": "word"},
        model={"hidden_size": 4, "embedding_size": 4},
        training={"batch_size": 2, "sequence_length": 8, "max_steps": 2, "devices": 1},
        samples={"temperatures": ()},
    )
    train(lm, out=tmp_path / "lm")
    begun = settings(
        files,
        model={"pretrained": tmp_path / "lm", "bidirectional": False},
        optimizer={"learning_rate": 0.1, "layer_decay": 0.5, "unfreeze_epochs": 1.0},
        training={"max_steps": 1},
    )
    train(begun, out=tmp_path / "begun")
    there, here = (load(tmp_path / name, "last") for name in ("lm", "begun"))
    assert here.tokenizer.fingerprint == there.tokenizer.fingerprint
    # Only what follows the layers has joined at the first step.
    for name in ("embedding", "lstm"):
        jax.tree.map(np.testing.assert_array_equal, here.params[name], there.params[name])
    assert here.params["ngram_kernel"].any()
    wider = begun.updated(model={"hidden_size": 5})
    with pytest.raises(UserError, match="lstm/layer_0"):
        train(wider, out=tmp_path / "wider")
    other = ClassifierExperiment(**(begun.model_dump() | {"tokenizer": {"kind": "char"}}))
    with pytest.raises(UserError, match="brings its own tokenizer, word"):
        train(other, out=tmp_path / "other")
    with pytest.raises(UserError, match="must be a run or an export of task language_model"):
        train(begun.updated(model={"pretrained": tmp_path / "begun"}), out=tmp_path / "self")


def test_counted_log_odds_stay_as_they_are(tmp_path: Path) -> None:
    """Whatever decays weights."""
    experiment = settings(
        write_reviews(tmp_path, third=True),
        model={"ngrams": 1},
        optimizer={"learning_rate": 0.05, "name": "adamw", "weight_decay": 0.5},
        training={"averaging": "ema", "max_steps": 4},
    )
    counted = built(experiment, tmp_path)[0].pretrained["ngram_log_odds"]
    assert counted.shape == (64, 3)
    train(experiment, out=tmp_path / "run")
    trained = load(tmp_path / "run", "last")
    np.testing.assert_allclose(trained.params["ngram_log_odds"], counted, rtol=1e-6)
    assert trained.params["ngram_kernel"].any()


def test_padding_that_is_read_fills_every_row_to_the_mean_length(tmp_path: Path) -> None:
    files = write_reviews(tmp_path)
    model = {"masking": False, "pooling": ("last",), "initialization": "keras"}
    experiment = settings(files, data={"max_length": "mean"}, model=model)
    trainable, files_of_run = built(experiment, tmp_path)
    # Texts of 5 and of 8 words in turns.
    assert Classes.of(files_of_run).max_length == 6
    (shape,) = trainable.batches.shapes
    assert shape.tokens.shape == (8, 6)
    batch = trainable.batches.read(0, 0, 1)
    assert set(batch.lengths.ravel().tolist()) == {6}
    assert (batch.tokens[..., -1] == batch.tokens.max()).any()  # <pad> is the last id
    params = jax.jit(trainable.init_state)(jax.random.key(0)).params
    assert np.abs(params["embedding"]).max() <= 0.05  # as Keras draws it


def test_rare_classes_weigh_more(tmp_path: Path) -> None:
    path = tmp_path / "rare.tsv"
    lines = [f"the film {n}\t{'neg' if n % 4 else 'pos'}" for n in range(40)]
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n")
    experiment = settings(
        path,
        data={"validation_fraction": 0.0, "test_fraction": 0.0},
        training={"class_weights": "balanced"},
    )
    from jaxgen.tasks.classifier import class_weights

    files = CLASSIFIER.fit_files(experiment, CLASSIFIER.open_data(experiment), None)
    weights = class_weights(experiment, Classes.of(files))
    np.testing.assert_allclose(np.asarray(weights), [40 / (2 * 30), 40 / (2 * 10)], rtol=1e-6)


@pytest.mark.slow
def test_several_labels_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tags.jsonl"
    rows = [
        {
            "text": f"{'good ' * (n % 2)}{'short ' * (n % 3 == 0)}film {n % 7}",
            "label": ["praise"] * (n % 2) + ["length"] * (n % 3 == 0),
        }
        for n in range(48)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    experiment = settings(
        path,
        data={"multi_label": True},
        model={"ngrams": 0},  # at this rate they learn the numbers by heart
        optimizer={"learning_rate": 0.05},
        training={"epochs": 8, "objective": "f1_macro"},
    )
    train(experiment, out=tmp_path / "run")
    figures = evaluate(tmp_path / "run")
    assert figures["per_class"].keys() == {"length", "praise"}
    assert figures["label_accuracy"] > 0.8
    assert load(tmp_path / "run").predict("good short film 1").labels


def test_settings_survive_their_file() -> None:
    experiment = ClassifierExperiment(
        model={"pooling": ("attention",)}, tokenizer={"vocab_size": None}
    )
    assert parse_toml(to_toml(experiment), "kept") == experiment
    with pytest.raises(ValueError, match=r"needs `model\.embedding_size`"):
        ClassifierExperiment(model={"embedding_size": 0}, training={"adversarial": "virtual"})
    with pytest.raises(ValueError, match="each once"):
        ClassifierExperiment(model={"pooling": ("mean", "mean")})
    for name, value in {"ngrams": -1, "ngram_buckets": 0}.items():
        with pytest.raises(ValueError, match=rf"model\.{name}"):
            ClassifierExperiment(model={name: value})


def test_generating_with_a_classifier_names_the_right_command(run: Path) -> None:
    from jaxgen.saved import check_command

    with pytest.raises(UserError, match="use `jaxgen predict"):
        check_command(run, "generate")
    assert isinstance(jaxgen.load(run).predict("good").probability, float)

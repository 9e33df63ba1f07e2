"""Training, loading, measuring and exporting whole runs, against plain loops over the model."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import TEXT, write_config

import jaxgen
from jaxgen.config.toml import read_toml
from jaxgen.errors import UserError
from jaxgen.experiment import describe, evaluate, export, load, train
from jaxgen.tasks import TASKS
from jaxgen.tasks.language_model import EVALUATION_ROWS
from jaxgen.training.runs import Run

# The second part held out: TextFiles cuts at characters.
VALIDATION = TEXT[round(0.8 * len(TEXT)) : round(0.9 * len(TEXT))]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "tiny"
    assert train(config, out=out).reason == "finished"
    return out


def nll_of_rows(model: jaxgen.TextModel, rows: np.ndarray) -> np.ndarray:
    """Nll of every token but the first of each row, [B, T-1], by a plain loop over the steps."""
    carry = model.initial_carry(model.params, len(rows))
    nll = []
    for now, following in zip(rows.T[:-1], rows.T[1:], strict=True):
        carry, logits = model.step_fn(model.params, carry, jnp.asarray(now, jnp.int32))
        scores = jax.nn.log_softmax(logits)
        nll.append(-np.asarray(scores)[np.arange(len(rows)), following])
    return np.stack(nll, axis=1)


def test_ten_lines_of_python(run: Path) -> None:
    lm = jaxgen.load(run)
    text = lm.generate("1 and ", max_new_tokens=12, temperature=0.5, key=0)
    assert len(text) == 12
    assert text == lm.generate("1 and ", max_new_tokens=12, temperature=0.5, key=0)
    assert lm.config.model.hidden_size == 8
    assert lm.tokenizer.kind == "char"


def test_run_directory(run: Path, config: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"config.toml", "tokenizer.json", "metrics.jsonl", "run.json", "checkpoints"} <= names
    assert read_toml(run / "config.toml") == read_toml(config)
    samples = [row["samples"] for row in Run.open(run).read_metrics() if "samples" in row]
    assert len(samples) == 2
    assert samples[0][0][0] == "temperature 0.5"


def test_exact_evaluation_is_a_plain_loop(run: Path) -> None:
    figures = evaluate(run, split="validation")
    ids = load(run).tokenizer.encode(VALIDATION)
    row = -(-(len(ids) - 1) // EVALUATION_ROWS)
    total = 0.0
    for start in range(0, len(ids) - 1, row):
        total += nll_of_rows(load(run), ids[None, start : start + row + 1]).sum()
    assert figures["tokens"] == len(ids) - 1
    np.testing.assert_allclose(figures["nll"], total / (len(ids) - 1), rtol=1e-5)
    np.testing.assert_allclose(figures["bpc"], figures["nll"] / np.log(2))
    best = [row["validation_nll"] for row in Run.open(run).read_metrics() if "samples" in row]
    np.testing.assert_allclose(min(best), figures["nll"], rtol=1e-6)


def test_windows_evaluation_is_a_plain_loop(run: Path) -> None:
    figures = evaluate(run, split="validation", protocol="windows")
    ids = load(run).tokenizer.encode(VALIDATION)
    windows = np.stack([ids[start : start + 61] for start in range(0, len(ids) - 60, 3)])
    assert figures["tokens"] == len(windows)
    expected = nll_of_rows(load(run), windows)[:, -1].mean()
    np.testing.assert_allclose(figures["nll"], expected, rtol=1e-5)


def test_evaluation_of_other_text(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("3 and 4 make 7. " * 4)
    assert evaluate(run, files=[other])["tokens"] == 63
    other.write_text("3 and 4")
    with pytest.raises(UserError, match="more than 60"):
        evaluate(run, files=[other], protocol="windows")


def test_export_is_the_same_model(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model")
    for checkpoint in (run, tmp_path / "model"):
        lm = load(checkpoint)
        assert lm.generate("2 and", key=3, max_new_tokens=9) == load(run).generate(
            "2 and", key=3, max_new_tokens=9
        )
    facts = describe(tmp_path / "model")
    assert facts["kind"] == "export"
    assert facts["parameters"] == describe(run)["parameters"]


def test_describe(run: Path) -> None:
    facts = describe(run)
    vocab = facts["vocab_size"]
    assert vocab == len(set(TEXT)) + 1
    assert facts["parameters"] == 4 * 8 * (vocab + 8 + 1) + 8 * vocab + vocab
    assert facts["steps"] == 4
    assert facts["settings"]["model.hidden_size"] == 8
    json.dumps(facts, default=str)


def test_resuming_changes_nothing(config: Path, run: Path, tmp_path: Path) -> None:
    experiment = read_toml(config)
    short = experiment.model_copy(
        update={"training": experiment.training.model_copy(update={"max_steps": 2})}
    )
    train(short, out=tmp_path)
    train(experiment, out=tmp_path, resume=True)
    whole, parts = (Run.open(path).load_params("last") for path in (run, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    model = experiment.model.model_copy(update={"hidden_size": 9})
    other = experiment.model_copy(update={"model": model})
    with pytest.raises(UserError, match=r"`model.hidden_size` is 8 .* got 9"):
        train(other, out=tmp_path, resume=True)


def test_settings_that_may_change_exist(config: Path) -> None:
    for section in read_toml(config).sections().values():
        assert section.changeable_on_resume <= set(type(section).model_fields)


def test_an_existing_run_is_kept(run: Path, config: Path) -> None:
    with pytest.raises(UserError, match=r"already holds a run; .*--resume.*--force.*--out"):
        train(config, out=run)


@pytest.mark.slow
def test_overwriting_starts_anew(config: Path, tmp_path: Path) -> None:
    first = train(config, out=tmp_path)
    again = train(config, out=tmp_path, overwrite=True)
    assert (first.steps, again.steps) == (4, 4)
    assert first.best == again.best


@pytest.mark.filterwarnings("ignore::jaxgen.data.tokenizers.UnknownTokenWarning")
@pytest.mark.parametrize("kind", ["word", pytest.param("byte", marks=pytest.mark.slow)])
def test_other_tokenizers(kind: str, config: Path, tmp_path: Path) -> None:
    experiment = read_toml(config)
    tokenizer = experiment.tokenizer.model_copy(update={"kind": kind})
    train(experiment.model_copy(update={"tokenizer": tokenizer}), out=tmp_path)
    figures = evaluate(tmp_path)
    assert ("bpc" in figures) == (kind == "byte")
    assert isinstance(load(tmp_path).generate("1 and 2", max_new_tokens=4), str)


@pytest.mark.slow
def test_integers_train_as_text_does(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    notes = tmp_path / "notes.jsonl"
    notes.write_text("\n".join(json.dumps({"notes": [60, 62, 64 + i % 3] * 4}) for i in range(40)))
    experiment = read_toml(config)
    data = experiment.data.model_copy(
        update={"files": (notes,), "column": "notes", "reset_documents": True}
    )
    tokenizer = experiment.tokenizer.model_copy(update={"kind": "integer"})
    train(
        experiment.model_copy(update={"data": data, "tokenizer": tokenizer}), out=tmp_path / "run"
    )
    made = load(tmp_path / "run").generate([60, 62], max_new_tokens=6, temperature=1.0)
    assert set(made.split()) <= {"60", "62", "64", "65", "66", "<unk>"}


def test_another_corpus_under_a_resumed_run(tmp_path: Path) -> None:
    """Refused, until it is accepted once; then the best checkpoint is found anew."""
    experiment = read_toml(write_config(tmp_path))
    out, corpus = tmp_path / "run", tmp_path / "corpus.txt"
    train(experiment.updated(training={"max_steps": 2}), out=out)
    moved = tmp_path / "moved.txt"
    corpus.rename(moved)
    longer = experiment.updated(data={"files": (moved,)}, training={"max_steps": 4})
    train(longer, out=out, resume=True)  # the same text elsewhere is no change
    moved.write_text(moved.read_text().replace("make 7", "make 8"))
    again = longer.updated(training={"max_steps": 6})
    before = Run.open(out).index
    with pytest.raises(UserError, match=r"the train data are not those .* --data.changed accept"):
        train(again, out=out, resume=True)
    assert Run.open(out).index == before
    train(again.updated(data={"changed": "accept"}), out=out, resume=True)
    run = Run.open(out)
    assert len(run.index["last"]["progress"]["validation"]) == 1
    assert run.index["best"]["step"] == 6
    assert read_toml(out / "config.toml").data.changed == "refuse"
    train(again.updated(training={"max_steps": 8}), out=out, resume=True)


def test_evaluation_options_of_another_task(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no option `sharpness`; it has `protocol`"):
        evaluate(run, sharpness=0.7)
    other = dataclasses.replace(TASKS["language_model"], evaluate_options=("threshold",))
    monkeypatch.setitem(TASKS, "classifier", other)
    message = r"\(--threshold\) is for task classifier, and this model is of task language_model"
    with pytest.raises(UserError, match=message):
        evaluate(run, threshold=0.7)
    with pytest.raises(UserError, match=r"`split` names a part of the model's own corpus"):
        evaluate(run, split="test", files=["x.txt"])


def test_memory_is_asked_for_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(nbytes: int) -> None:
        asked.append(nbytes)
        raise UserError("too large")

    monkeypatch.setattr("jaxgen.start.check_memory", refuse)
    experiment = read_toml(write_config(tmp_path))
    with pytest.raises(UserError, match="too large"):
        train(experiment, out=tmp_path / "one")
    with pytest.raises(UserError, match="too large"):
        train(experiment, out=tmp_path / "two", seeds=2)
    assert asked[0] > 4 * 4 * 8 * 8
    assert asked[1] == 2 * asked[0]
    assert not (tmp_path / "one" / "run.json").exists()

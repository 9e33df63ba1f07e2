"""A conditional language model from settings to text: trained, resumed, measured, exported."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.cli import main
from jaxgen.config import ConditionalExperiment
from jaxgen.config.toml import parse_toml
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import UserError
from jaxgen.experiment import describe, evaluate, export, load, train
from jaxgen.ops.clusters import Clusters
from jaxgen.tasks.conditional import CONDITIONAL, encode
from jaxgen.tasks.task import tokenizer_of
from jaxgen.training.trainable import Trainable

TINY_MODEL = {"hidden_size": 8, "embedding_size": 4, "condition": "input"}
TINY_TRAINING = {"batch_size": 8, "epochs": 2, "devices": 1, "steps_per_dispatch": 2}
WORDS = {"bad": "dull", "good": "fun"}


def write_lines(folder: Path, rows: int = 60) -> Path:
    """Lines of `text;label` that one word tells apart."""
    path = folder / "lines.txt"
    names = list(WORDS)
    lines = [
        f"{'the film was ' * (1 + n % 2)}{WORDS[names[n % 2]]};{names[n % 2]}" for n in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(files: Path, **sections: dict[str, Any]) -> ConditionalExperiment:
    given: dict[str, Any] = {
        "data": {"files": (files,), "buckets": 2, **sections.pop("data", {})},
        "model": TINY_MODEL | sections.pop("model", {}),
        "training": TINY_TRAINING | sections.pop("training", {}),
        "samples": {"guidance": ()} | sections.pop("samples", {}),
    }
    return ConditionalExperiment(**given, **sections)


def built(experiment: ConditionalExperiment, folder: Path) -> tuple[Trainable, dict[str, str]]:
    data = CONDITIONAL.open_data(experiment)
    files = dict(CONDITIONAL.fit_files(experiment, data, None))
    return CONDITIONAL.build(experiment, files, data, folder, None), files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run; do not write into it."""
    folder = tmp_path_factory.mktemp("conditional")
    experiment = settings(
        write_lines(folder),
        optimizer={"learning_rate": 0.05},
        training={"epochs": 8},
        samples={"guidance": (1.0, 3.0), "max_new_tokens": 8},
    )
    train(experiment, out=folder / "run")
    return folder / "run"


def test_a_run_writes_under_its_labels(run: Path) -> None:
    lm = load(run)
    assert lm.labels == ("bad", "good")
    for name, word in WORDS.items():
        texts = lm.generate([""] * 20, label=name, guidance=3.0, key=1, max_new_tokens=12)
        assert sum(text.endswith(word) for text in texts) >= 18
        assert all(text == text.strip() for text in texts)


def test_the_command_writes_under_labels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(run), "--max-new-tokens", "12", "--label"]
    assert main([*command, "all", "--guidance", "3", "--n", "10", "--json", "--report"]) == 0
    result = json.loads(capsys.readouterr().out)
    outputs, copies = result["outputs"], result["report"]["longest_copies"]
    assert max(copies) >= 4  # the film was fun
    assert [(x["label"], x["guidance"]) for x in outputs] == [("bad", 3)] * 10 + [("good", 3)] * 10
    hits = sum(output["text"].endswith(WORDS[output["label"]]) for output in outputs)
    assert hits >= 18
    assert main([*command, "god", "--stream"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "must be one of bad, good, got 'god', did you mean `good`?" in printed.err


def test_a_run_is_measured_and_described(run: Path) -> None:
    figures = evaluate(run)
    assert (figures["texts"], figures["split"]) == (6, "test")
    assert figures["tokens"] == figures["tokens_null"] > 6
    assert figures["perplexity"] == pytest.approx(math.exp(figures["nll"]))
    assert figures["nll"] < figures["nll_null"]  # the label says what the last word is
    facts = describe(run)
    assert facts["labels"] == "bad, good"
    assert facts["training_texts"] == {"bad": 24, "good": 24}
    samples = [row for row in (run / "metrics.jsonl").read_text().splitlines() if "samples" in row]
    assert "good, guidance 3" in samples[-1]


def test_what_evaluate_says_is_what_score_says(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("the film was fun;good\nthe film was dull;bad\nthe fun was dull;good\n")
    figures, lm = evaluate(run, files=[other]), load(run)
    end = lm.tokenizer.eos_id
    texts = [line.rsplit(";") for line in other.read_text().splitlines()]
    total = 0.0
    for text, label in texts:
        total -= float(lm.score(text, label=label).sum())
        ends = lm.sample(text, label=label, temperature=0, max_new_tokens=1, forced_tokens=[end])
        total -= ends.logprobs[0]
    count = sum(len(text.split()) + 1 for text, _ in texts)
    assert figures["tokens"] == count
    assert figures["nll"] == pytest.approx(total / count, rel=1e-5)


def test_a_text_is_framed_by_its_ends_and_a_long_one_has_none(tmp_path: Path) -> None:
    files = built(settings(write_lines(tmp_path)), tmp_path)[1]
    tokenizer = Tokenizer.from_text(files["tokenizer.json"])
    end, ids = tokenizer.eos_id, list(tokenizer.encode("the film was fun"))
    rows = encode(tokenizer, 4, ["the film\nwas fun", "the film was fun the film", ""])
    assert [list(rows.row(place)) for place in range(3)] == [
        [end, *ids, end],
        [end, *ids, ids[0]],
        [end, end],
    ]


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = settings(write_lines(tmp_path), training={"max_steps": 9})
    train(whole, out=tmp_path / "whole")
    train(whole.updated(training={"max_steps": 5}), out=tmp_path / "cut")
    train(whole, out=tmp_path / "cut", resume=True)
    ends = [load(tmp_path / name, "last").params for name in ("whole", "cut")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_seeds_train_together(tmp_path: Path) -> None:
    experiment = settings(write_lines(tmp_path), training={"max_steps": 4})
    results = train(experiment, out=tmp_path / "seeds", seeds=2)
    alone = train(experiment, out=tmp_path / "alone")
    assert alone.best == pytest.approx(results[0].best, abs=1e-6)


@pytest.mark.slow
def test_an_export_writes_the_same_text(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "export")
    first, second = (load(path) for path in (run, tmp_path / "export"))
    options: dict[str, Any] = {"label": "good", "guidance": 2.0, "max_new_tokens": 8}
    assert first.generate("the", **options) == second.generate("the", **options)
    assert "bad, good" in (tmp_path / "export" / "README.md").read_text()


def test_several_labels_a_text_are_refused() -> None:
    text = 'task = "conditional_language_model"\n[data]\nmulti_label = true\n'
    with pytest.raises(UserError, match=r"`data.multi_label` must be off.*write each text once"):
        parse_toml(text)


def test_an_adaptive_output_counts_the_tokens_of_the_texts(tmp_path: Path) -> None:
    model = {"output": "adaptive", "cutoffs": (4,)}
    experiment = settings(write_lines(tmp_path), model=model)
    trainable, files = built(experiment, tmp_path)
    clusters = Clusters.from_text(files["clusters.json"])
    tokenizer = tokenizer_of(files)
    most = {tokenizer.eos_id, *tokenizer.encode("the film was")}
    assert set(clusters.members(0).tolist()) == most
    shapes = CONDITIONAL.init_shapes(experiment, files)
    assert shapes["output"]["tail_0_kernel"].shape == (2, tokenizer.vocab_size - 4)
    assert trainable.evaluation is not None

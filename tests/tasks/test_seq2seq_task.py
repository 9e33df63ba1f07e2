"""An encoder-decoder from settings to translations: trained, resumed, measured, exported."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.cli import main
from jaxgen.config import LanguageModelExperiment, Seq2SeqConfig, Seq2SeqExperiment
from jaxgen.config.toml import parse_toml
from jaxgen.data.pairs import PairCorpus, Pairs, load_pairs
from jaxgen.errors import UserError
from jaxgen.experiment import describe, evaluate, export, load, train
from jaxgen.models.seq2seq import Seq2Seq
from jaxgen.ops.clusters import Clusters
from jaxgen.tasks.seq2seq import SEQ2SEQ

ADAPTIVE = {"output": "adaptive", "tail_divisor": 2.0}
WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "acht": "eight"}


def write_pairs(folder: Path) -> Path:
    """Numbers in two languages, one to three of them, with a tab between; each line once."""
    names = list(WORDS)
    rows = [[a] for a in names] + [[a, b] for a in names for b in names]
    rows += [[a, b, c] for a in names for b in names for c in names]
    lines = [" ".join(row) + "\t" + " ".join(WORDS[word] for word in row) for row in rows]
    path = folder / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(files: Path, **sections: dict[str, Any]) -> Seq2SeqExperiment:
    given: dict[str, Any] = {
        "data": {"files": (files,), "source_column": "0", "target_column": "1", "buckets": 2},
        "tokenizer": {"kind": "word"},
        "model": {"hidden_size": 16, "embedding_size": 8, "dropout": 0.0},
        "training": {"batch_tokens": 64, "epochs": 2, "devices": 1, "steps_per_dispatch": 2},
        "translation": {"samples": 0},
    }
    for name, section in sections.items():
        given[name] = given.get(name, {}) | section
    return Seq2SeqExperiment(**given)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run; do not write into it."""
    folder = tmp_path_factory.mktemp("seq2seq")
    experiment = settings(
        write_pairs(folder),
        optimizer={"learning_rate": 0.03},
        training={"epochs": 12, "batch_tokens": 128},
        translation={"samples": 1},
    )
    train(experiment, out=folder / "run")
    return folder / "run"


def test_a_run_translates(run: Path) -> None:
    translator = load(run)
    sources = ["eins", "drei zwei eins", "zwei zwei"]
    assert translator.translate(sources, beam_size=2) == ["one", "three two one", "two two"]
    assert translator.translate("drei") == "three"


@pytest.fixture(scope="module")
def figures(run: Path) -> dict[str, Any]:
    return evaluate(run)


def test_a_run_is_measured_and_described(run: Path, figures: dict[str, Any]) -> None:
    assert (figures["pairs"], figures["split"]) == (16, "test")
    assert figures["token_accuracy"] > 0.9
    assert figures["exact_match"] > 0.7
    assert figures["nearest_pair"]["exact_match"] < figures["exact_match"]
    facts = describe(run)
    assert (facts["source_vocab_size"], facts["vocab_size"]) == (9, 9)
    assert "one" in (run / "metrics.jsonl").read_text()  # a sample


def test_other_files_are_measured_as_a_part_is(
    run: Path, figures: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = _part(run, "test")
    names = [str(tmp_path / name) for name in ("a.de", "a.en")]
    Path(names[0]).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(pairs.sources).encode())
    Path(names[1]).write_text("\n".join(pairs.targets) + "\n")
    options = ["--source-files", names[0], "--target-files", names[1], "--beam-size", "4"]
    options += ["--baselines", "--bleu-tokenize", "char", "--json"]
    assert main(["evaluate", str(run), *options]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["split"], shown["text"]) == (None, ", ".join(names))
    for one, own in ((shown, figures), (shown["nearest_pair"], figures["nearest_pair"])):
        same = own.keys() - {"split", "text", "bleu", "bleu_signature", "nearest_pair"}
        assert {name: one[name] for name in same} == {name: own[name] for name in same}
        if "bleu" in own:
            assert "tok:none" in own["bleu_signature"]
            assert "tok:char" in one["bleu_signature"]


def test_pairs_apart_have_copies_beside_them_too(run: Path, figures: dict[str, Any]) -> None:
    pairs = _part(run, "test")
    corpus = PairCorpus(_part(run, "train"), test=pairs, apart={"others": pairs})
    apart = SEQ2SEQ.evaluate(load(run), corpus, {"split": "test"})["others"]
    assert apart == {name: figures[name] for name in apart}
    assert set(apart) >= {"pairs", "exact_match", "nearest_pair"}


def test_every_size_of_the_module_is_a_setting() -> None:
    own = {field.name for field in dataclasses.fields(Seq2Seq)} - {"parent", "name"}
    elsewhere = {"pretrained", "pretrained_side", "output", "cutoffs"}
    settings = set(Seq2SeqConfig.model_fields) - elsewhere
    assert own - settings == {"source_vocab_size", "target_vocab_size", "clusters"}
    assert settings <= own


def test_what_evaluate_says_is_what_score_says(run: Path) -> None:
    figures, translator = evaluate(run, split="validation"), load(run)
    pairs = _part(run, "validation")
    scores = translator.score(pairs.sources, pairs.targets)
    mean = sum(float(np.sum(score)) for score in scores) / sum(map(len, scores))
    assert figures["nll"] == pytest.approx(-mean, rel=1e-5)


def _part(run: Path, name: str) -> Pairs:
    return getattr(load_pairs(load(run).config.data), name)


def test_commands_translate_and_name_the_right_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(run, tmp_path / "export")
    texts, settings = ["drei zwei eins", "eins"], load(run).config.translation
    options = {"beam_size": settings.beam_size, "length_penalty": settings.length_penalty}
    wanted = load(run).translate(texts, **options)
    # An ensemble of a model and its copy says what the model says.
    for ensemble in ([], ["--ensemble", str(tmp_path / "export")]):
        capsys.readouterr()
        assert main(["translate", str(run), *texts, *ensemble]) == 0
        assert capsys.readouterr().out.splitlines() == wanted
    for command in ("predict", "generate"):
        assert main([command, str(run), *["eins"] * (command == "predict")]) == 2
        assert f"use `jaxgen translate {run}`" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, ADAPTIVE], ids=["full", "adaptive"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    whole = settings(write_pairs(tmp_path), model=model, training={"max_steps": 9, "epochs": 4})
    train(whole, out=tmp_path / "whole")
    train(whole.updated(training={"max_steps": 5}), out=tmp_path / "cut")
    train(whole, out=tmp_path / "cut", resume=True)
    ends = [load(tmp_path / name, "last").params for name in ("whole", "cut")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_an_adaptive_run_translates_scores_and_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One vocabulary and one embedding for both sides and the output, with label smoothing."""
    experiment = settings(
        write_pairs(tmp_path),
        tokenizer={"shared": True},
        model={**ADAPTIVE, "cutoffs": (4, 8), "tied": True, "shared_embedding": True},
        optimizer={"learning_rate": 0.03},
        training={"label_smoothing": 0.1, "batch_tokens": 128, "epochs": 4},
    )
    run = tmp_path / "run"
    train(experiment, out=run)
    clusters = Clusters.from_text((run / "clusters.json").read_text())
    translator, pairs = load(run), _part(run, "train")
    assert translator.tokenizer.eos_id in clusters.members(0)
    counts = Counter(word for text in pairs.targets for word in text.split())
    often = translator.tokenizer.encode(max(counts, key=lambda word: counts[word]))
    assert often[0] in clusters.members(0)
    assert not {*translator.tokenizer.encode("eins zwei")} & {*clusters.members(0)}
    assert describe(run)["output"] == "adaptive, cut-offs 4 8"
    test_what_evaluate_says_is_what_score_says(run)
    for options in ({"n_best": 3}, {"mbr": 4}, {"beam_size": 1, "attention": True}):
        (best, *_) = translator.translate("eins zwei", **{"n_best": 1, **options})
        if "mbr" not in options:
            score = np.sum(translator.score("eins zwei", best.text))
            np.testing.assert_allclose(np.sum(best.token_scores), score, rtol=1e-4)
    capsys.readouterr()
    for wide, note in (("1", ""), ("2", "note: --beam-size needs the scores of all tokens")):
        assert main(["translate", str(run), "eins", "--beam-size", wide]) == 0
        assert capsys.readouterr().err.startswith(note)


@pytest.mark.slow
def test_seeds_train_together(tmp_path: Path) -> None:
    experiment = settings(write_pairs(tmp_path), training={"max_steps": 4})
    results = train(experiment, out=tmp_path / "seeds", seeds=2)
    alone = train(experiment, out=tmp_path / "alone")
    assert alone.best == pytest.approx(results[0].best, abs=1e-6)
    together = evaluate(tmp_path / "seeds", ensemble=True)
    each = [evaluate(tmp_path / "seeds" / f"seed-{seed}")["nll"] for seed in range(2)]
    assert together["nll"] < sum(each) / 2  # the logarithm of a mean is above the mean logarithm


@pytest.mark.slow
def test_an_export_translates_alike(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "export")
    first, second = (load(path).translate("eins zwei") for path in (run, tmp_path / "export"))
    assert first == second
    assert "9 target tokens" in (tmp_path / "export" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "tied", "output"),
    [
        *(("encoder", False, {}), ("decoder", False, {}), ("encoder", True, {})),
        *(("decoder", True, {}), ("decoder", False, ADAPTIVE)),
    ],
)
def test_it_begins_with_a_language_model(
    tmp_path: Path, side: str, tied: bool, output: dict[str, Any]
) -> None:
    text = tmp_path / "text.csv"
    text.write_text("text\n" + "\n".join(f"one two three {word}" for word in WORDS.values()) + "\n")
    lm = LanguageModelExperiment(
        data={"files": (text,), "validation_fraction": 0.0, "test_fraction": 0.0},
        tokenizer={"kind": "word"},
        model={"hidden_size": 16, "embedding_size": 8, "tied": tied, **output},
        training={"batch_size": 2, "sequence_length": 4, "max_steps": 2, "devices": 1},
        samples={"temperatures": ()},
    )
    train(lm, out=tmp_path / "lm")
    model = {"pretrained": tmp_path / "lm", "pretrained_side": side, "bidirectional": False}
    model |= output
    if tied:  # its last layer is as large as its embedding
        model |= {f"{side}_last_size": 8, "tied": side == "decoder"}
    begun = settings(
        write_pairs(tmp_path),
        model=model,
        optimizer={"learning_rate": 1e-9},
        training={"max_steps": 1},
    )
    train(begun, out=tmp_path / "run")
    before, after = (load(tmp_path / name, "last").params for name in ("lm", "run"))
    names = {"embedding": "source_embedding", "lstm": "encoder"}
    if side == "decoder":
        names |= {"embedding": "embedding", "lstm": "decoder"}
        names |= {name: name for name in before if name.startswith("output")}
        if output:
            other = begun.updated(model={"cutoffs": (2, 3)})
            with pytest.raises(UserError, match="must be those of the pretrained model"):
                train(other, out=tmp_path / "other")
            full = begun.updated(model={"output": "full", "cutoffs": ()})
            with pytest.raises(UserError, match="has `output/head_bias`, which this model has not"):
                train(full, out=tmp_path / "full")
    for name, new in names.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after[new], before[name]
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\ntied = true\nembedding_size = 0\n", "`model.tied` shares an embedding"),
        ("[model]\nshared_embedding = true\n", "needs one vocabulary for both sides"),
        (
            '[model]\ninput_feeding = true\nattention = "none"\n',
            "`model.input_feeding` feeds what was attended to",
        ),
    ],
)
def test_settings_that_do_not_go_together(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_toml(f'task = "seq2seq"\n{text}')

"""A text GAN from settings to figures: trained, resumed, compared, exported, over seeds."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_text_gan import settings, write_lines

from jaxgen.cli import main
from jaxgen.config import TextGanExperiment
from jaxgen.errors import UserError
from jaxgen.evaluation import pictures
from jaxgen.experiment import describe, evaluate, export, load, train
from jaxgen.training.runs import Run

pytestmark = pytest.mark.slow


def texts_of(folder: Path, **sections: dict[str, Any]) -> TextGanExperiment:
    """Few steps of a tiny GAN of a file's texts."""
    data = {"files": (write_lines(folder, 80),), "max_length": 4}
    held_out = {"validation_fraction": 0.2, "test_fraction": 0.2}
    adversarial = {"steps": 3, "discriminator_pretrain_steps": 2} | sections.pop("adversarial", {})
    training = {"evaluate_every": 6} | sections.pop("training", {})
    return settings(
        data=data | held_out | sections.pop("data", {}),
        adversarial=adversarial,
        training=training,
        **sections,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run; do not write into it."""
    folder = tmp_path_factory.mktemp("gan")
    train(texts_of(folder, samples={"shown": 1}), out=folder / "run")
    return folder / "run"


def test_a_run_writes(run: Path) -> None:
    lm = load(run)
    texts = lm.generate("", n=4, temperature=1.0, max_new_tokens=5, key=0)
    assert texts == lm.generate("", n=4, temperature=1.0, max_new_tokens=5, key=0)
    assert len(texts) == 4
    facts = describe(run)
    assert facts["steps"] == facts["steps"] == 12 + 2 + 2 * 3
    assert {"generator_parameters", "discriminator_parameters", "best_step"} <= facts.keys()


def test_the_best_checkpoint_is_an_adversarial_one(run: Path) -> None:
    entry = Run.open(run).checkpoint("best")
    assert entry is not None
    assert entry["step"] > 14
    rows = Run.open(run).read_metrics()
    assert any("discriminator_loss" in row for row in rows)
    assert any("generator_loss" in row for row in rows)
    objective = [row["step"] for row in rows if "validation_bleu_f1" in row]
    assert objective
    assert min(objective) > 14


def test_what_maximum_likelihood_learned_is_kept(run: Path, tmp_path: Path) -> None:
    alone = texts_of(tmp_path, adversarial={"steps": 0, "discriminator_pretrain_steps": 0})
    train(alone, out=tmp_path / "run")
    mle = Run.open(run).load_params("last")
    alone_params = Run.open(tmp_path / "run").load_params("last")
    jax.tree.map(np.testing.assert_array_equal, mle["mle"], alone_params["generator"])
    assert int(mle["adversarial_steps"]) == 3
    assert int(alone_params["adversarial_steps"]) == 0
    assert not np.array_equal(mle["generator"]["output_bias"], mle["mle"]["output_bias"])


def test_from_scratch_keeps_both_apart(tmp_path: Path) -> None:
    experiment = texts_of(tmp_path, adversarial={"from_scratch": True}, training={"max_steps": 12})
    train(experiment, out=tmp_path / "run")
    params = Run.open(tmp_path / "run").load_params("last")
    fresh = texts_of(tmp_path, adversarial={"from_scratch": True}, training={"max_steps": 1})
    train(fresh, out=tmp_path / "fresh")
    first = Run.open(tmp_path / "fresh").load_params("last")
    jax.tree.map(np.testing.assert_array_equal, params["generator"], first["generator"])
    assert not np.array_equal(params["mle"]["output_bias"], first["mle"]["output_bias"])


def test_resuming_changes_nothing(run: Path, tmp_path: Path) -> None:
    experiment = texts_of(tmp_path, samples={"shown": 1}, training={"max_steps": 15})
    train(experiment, out=tmp_path / "run")
    longer = experiment.updated(training={"max_steps": None})
    train(longer, out=tmp_path / "run", resume=True)
    for which in ("last", "best"):
        whole, parts = (Run.open(path).load_checkpoint(which) for path in (run, tmp_path / "run"))
        jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_evaluation_has_all_rows(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = tmp_path / "curve.png"
    options = ["--samples", "12", "--temperatures", "0.8", "--curve", str(curve)]
    assert main(["evaluate", str(run), "--json", *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"gan", "mle", "train", "mle_best", "adversarial_steps"} <= figures.keys()
    assert figures["adversarial_steps"] in (1, 2, 3)
    assert [row["temperature"] for row in figures["mle_sweep"]] == [0.8, 1.0]
    assert figures["mle"] == figures["mle_sweep"][1]
    for name in ("bleu_2", "self_bleu_5", "distinct_2", "nll_test", "nll_gen", "fed", "lm", "rlm"):
        assert name in figures["gan"], name
    assert curve.stat().st_size > 1000
    assert main(["evaluate", str(run), "--samples", "12", "--skip-judges"]) == 0
    table = capsys.readouterr().out
    assert "training texts" in table
    assert "fed" not in table
    monkeypatch.setattr(pictures, "can_draw", lambda: False)
    assert main(["evaluate", str(run), "--curve", str(curve)]) == 2
    assert "`curve` needs matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 3}, "`samples` must be at least 10, got 3"),
        ({"temperatures": (0.0,)}, "`temperatures` must be above 0, got 0.0"),
        ({"protocol": "exact"}, "`protocol`"),
    ],
)
def test_bad_options(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(run, **options)


def test_an_export_is_measured_as_the_run_is(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "export")
    options: dict[str, Any] = {"samples": 12, "skip_judges": True, "temperatures": (1.0,)}
    figures = [evaluate(path, **options) for path in (run, tmp_path / "export")]
    assert figures[0]["gan"] == figures[1]["gan"]
    assert figures[0]["adversarial_steps"] == figures[1]["adversarial_steps"]


def test_seeds_give_means_with_deviations(tmp_path: Path) -> None:
    experiment = texts_of(
        tmp_path,
        model={"noise_size": 2},
        adversarial={"estimator": "gumbel", "loss": "relativistic", "entropy_bonus": 0.01},
    )
    train(experiment, out=tmp_path / "runs", seeds=2)
    options: dict[str, Any] = {"samples": 12, "skip_judges": True, "temperatures": (0.7,)}
    both = evaluate(tmp_path / "runs", **options)
    each = [evaluate(tmp_path / "runs" / f"seed-{n}", **options) for n in (0, 1)]
    values = [figures["gan"]["nll_test"] for figures in each]
    assert both["gan"]["seeds"] == 2
    assert both["gan"]["nll_test"] == pytest.approx(np.mean(values))
    assert both["gan"]["deviation"]["nll_test"] == pytest.approx(np.std(values, ddof=1))
    lm = load(tmp_path / "runs" / "seed-0")
    assert len(set(lm.generate("", n=3, temperature=0.0, key=1, max_new_tokens=4))) >= 1
    noise = np.asarray(lm._request("", {"key": 1}, 3).condition.noise)
    assert np.unique(noise, axis=0).shape == (3, 2)
    np.testing.assert_array_equal(noise, lm._request("", {"key": 1}, 3).condition.noise)


def test_an_oracle_with_roll_outs(tmp_path: Path) -> None:
    experiment = settings(
        data={
            "embedded": "oracle",
            "oracle_vocab_size": 20,
            "oracle_seed": 3,
            "examples": 32,
            "max_length": 5,
        },
        model={"discriminator": "cnn", "filter_widths": [1, 2], "filters": [4, 4]},
        adversarial={
            "estimator": "rollouts",
            "rollouts": 2,
            "steps": 2,
            "discriminator_pretrain_steps": 1,
        },
        training={"evaluate_every": 10},
    )
    result = train(experiment, out=tmp_path / "run")
    assert result.objective.name == "nll_balanced"
    figures = evaluate(tmp_path / "run", samples=20, temperatures=(1.0,))
    assert figures["verdict"]["quality"] == "nll_oracle"
    assert {"nll_oracle", "nll_test"} <= figures["gan"].keys()
    assert "nll_oracle" in figures["train"]
    text = load(tmp_path / "run").generate("", temperature=1.0, max_new_tokens=5)
    assert [0 <= int(token) < 20 for token in text.split()] == [True] * 5
    with pytest.raises(UserError, match="which are no files; leave `files` out"):
        evaluate(tmp_path / "run", files=[tmp_path / "lines.txt"])


def test_labels_reach_both_models(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = ["so dull,bad" if n % 2 else f"so fun {n % 3},good" for n in range(60)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    experiment = settings(
        data={"files": (path,), "label_column": "label", "max_length": 6},
        adversarial={"steps": 1, "discriminator_pretrain_steps": 1},
        training={"epochs": 1},
    )
    train(experiment, out=tmp_path / "run")
    lm = load(tmp_path / "run")
    assert lm.labels == ("bad", "good")
    assert len(lm.generate(["", ""], label=["bad", "good"], max_new_tokens=4)) == 2
    params = Run.open(tmp_path / "run").load_params()
    assert params["discriminator"]["scores"]["label_kernel"].shape[0] == 3


def test_a_collapse_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So high a rate breaks the generator at once."""
    experiment = texts_of(
        tmp_path,
        generator_optimizer={"learning_rate": 5.0},
        training={"evaluate_every": 2, "epochs": 1},
        adversarial={"steps": 8},
    )
    train(experiment, out=tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("the generator collapses; the best checkpoint is kept") == 1
    assert Run.open(tmp_path / "run").checkpoint("best") is not None

"""Ensembles of labelled language models, with labels, guidance and an expression at once."""

import json
import re
from pathlib import Path

import pytest
from test_conditional_task import settings, write_lines

import jaxgen
from jaxgen.cli import main
from jaxgen.experiment import evaluate, export, load, train
from jaxgen.tasks.conditional import CONDITIONAL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one run; do not write into them."""
    folder = tmp_path_factory.mktemp("labelled")
    experiment = settings(write_lines(folder), training={"epochs": 3})
    train(experiment, out=folder / "seeds", seeds=2)
    return folder / "seeds"


def test_labels_guidance_and_expressions_go_together(
    seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expression = "the film was (fun|dull)"
    command = ["generate", str(seeds), "--ensemble", str(seeds), "--regex", expression]
    steered = [*command, "--label", "all", "--guidance", "0", "2", "--n", "3", "--json"]
    assert main(steered) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert len(outputs) == 2 * 2 * 3
    assert all(re.fullmatch(expression, output["text"]) for output in outputs)
    assert all(output["finished"] for output in outputs)
    # What they are likely is the ensemble's own, guided.
    held = jaxgen.matching(jaxgen.load_ensemble(seeds), expression)
    sample = held.sample("", label="good", guidance=2.0)
    own = held.score(sample.text, label="good", guidance=2.0)
    assert sample.logprobs is not None
    assert sample.logprobs[:-1] == pytest.approx(own.tolist(), abs=1e-4)  # the end aside


def test_the_figures_of_an_ensemble(seeds: Path, tmp_path: Path) -> None:
    figures = evaluate(seeds, ensemble=True)
    each = [evaluate(seeds / name) for name in ("seed-0", "seed-1")]
    for name in ("nll", "nll_null"):
        assert figures[name] < sum(one[name] for one in each) / 2  # log is concave
    # The same model twice is that model.
    export(seeds / "seed-0", tmp_path / "copy")
    lm = load(seeds / "seed-0")
    twice = jaxgen.load_ensemble([seeds / "seed-0", tmp_path / "copy"])
    data = CONDITIONAL.open_data(lm.config)
    found = CONDITIONAL.evaluate(twice, data, {"split": "test"})
    for name in ("tokens", "nll", "nll_null"):
        assert found[name] == pytest.approx(each[0][name], rel=1e-5)

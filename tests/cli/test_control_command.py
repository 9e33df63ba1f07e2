"""`jaxgen evaluate RUN --control CLASSIFIER --judge LM`: runs opened, handed over and refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_classifier import tiny_classifier

from jaxgen.exports import write_export
from jaxgen.generation.text import TextModel
from jaxgen.prediction.classifier import Classifier
from jaxgen.tasks import TASKS
from jaxgen.tasks.classifier import Classes
from jaxgen.tasks.conditional_control import CONTROL_MODELS, CONTROL_OPTIONS

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a classifier."""
    model = tiny_classifier()
    files = {
        "tokenizer.json": model.tokenizer.backend.to_str(),
        "classes.json": Classes(model.labels, model.max_length, (1, 1)).to_text(),
    }
    settings = model.config.model_dump(mode="json", exclude_defaults=True)
    config = {"model_type": "jaxgen_classifier"}
    config |= {"experiment": {"task": "classifier", **settings}}
    path = tmp_path_factory.mktemp("export") / "classifier"
    write_export(path, model.params, files, config, "", overwrite=False)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Language models take the options of control; what each evaluation was asked."""
    calls: list[Mapping[str, Any]] = []

    def evaluate(lm: Any, data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(options)
        return {"asked": len(calls)}

    task = replace(
        TASKS["language_model"],
        evaluate=evaluate,
        evaluate_options=CONTROL_OPTIONS,
        evaluates_with=CONTROL_MODELS,
    )
    monkeypatch.setitem(TASKS, "language_model", task)
    return calls


def test_both_models_are_opened(
    run: Path, classifier: Path, asked: list[Mapping[str, Any]], say: Say
) -> None:
    code, out, err = say(
        *("evaluate", run, "--control", classifier, "--judge", run, "--curve", "c.png"),
        *("--samples", 10, "--strengths", 0, 1.5, 2, "--top-p", 0.9, "--seed", 3, "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["asked"] == 1
    options = dict(asked[0])
    assert isinstance(options.pop("control"), Classifier)
    assert isinstance(options.pop("judge"), TextModel)
    assert options == {
        **{"split": "test", "curve": Path("c.png"), "samples": 10, "strengths": (0.0, 1.5, 2.0)},
        **{"top_p": 0.9, "seed": 3},
    }


def test_models_of_other_tasks_are_refused(
    run: Path, classifier: Path, asked: list[Mapping[str, Any]], tmp_path: Path, fail: Fail
) -> None:
    message = fail("evaluate", run, "--control", run, "--judge", run)
    assert "`control` must be a run or an export of task classifier, and" in message
    assert "is of task language_model; name another" in message
    message = fail("evaluate", run, "--control", classifier, "--judge", classifier)
    assert "`judge` must be a run or an export of task language_model, and" in message
    message = fail("evaluate", run, "--control", tmp_path / "no", "--judge", run)
    assert "`control` cannot be read: " in message
    assert asked == []


def test_control_is_for_models_of_labels(run: Path, classifier: Path, fail: Fail) -> None:
    for options in (("--control", run, "--judge", run), ("--curve", "c.png"), ("--samples", 3)):
        message = fail("evaluate", run, *options)
        assert f"`{options[0][2:]}`" in message
        assert "language_model" in message
    assert "`control`" in fail("evaluate", classifier, "--control", classifier, "--judge", run)

"""Training over HTTP: one at a time, watched, cancelled, and served when it is done."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.http_server import call, running

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from jaxgen.serving import training
from jaxgen.serving.app import create_app
from jaxgen.serving.classifying import ClassifierService
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.options import ServeOptions
from tests.tiny_classifier import tiny_classifier

CONFIG = {"task": "classifier", "model": {"hidden_size": 4}, "training": {"max_steps": 8}}
# In the place of `jaxgen train`: says what it is told by the name of the run, and waits to be told.
TRAINING = """
import pathlib, signal, sys, time
name = pathlib.Path(sys.argv[-1]).name
assert 'hidden_size = 4' in pathlib.Path(sys.argv[-3]).read_text()
def stop(number, frame):
    print("interrupted after 4 steps", file=sys.stderr, flush=True)
    sys.exit(130)
if not name.startswith("stubborn"):
    signal.signal(signal.SIGTERM, stop)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("0%|   | 1/9\\r9%|  | 2/9\\rstep 2/8  epoch 0.25  nll 1.5000  accuracy 0.4000  9 examples/s",
      file=sys.stderr, flush=True)
if name.startswith("bad"):
    sys.exit(print("error: no file at reviews.csv", file=sys.stderr) or 2)
while not pathlib.Path(sys.argv[-1] + ".end").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "jaxgen_train.py").write_text(TRAINING)
    monkeypatch.setattr(training, "COMMAND", (sys.executable, str(tmp_path / "jaxgen_train.py")))
    monkeypatch.setattr(training, "PATIENCE", 0.2)

    def load(name: str, path: Path, options: ServeOptions) -> ServedModel:
        model = tiny_classifier()
        return ServedModel(name, "classifier", model, engine=ClassifierService(model))

    monkeypatch.setattr(training, "load_model", load)
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    options = ServeOptions(allow_training=True, training_runs=folder)
    with running(create_app(Models(), options)) as address:
        yield address


def begin(address: str, name: str, config: Any = CONFIG) -> tuple[int, Any]:
    return call(address, "/v1/training-jobs", {"name": name, "config": config})


def wait_for(address: str, job: str, meets: Callable[[Any], bool]) -> Any:
    for _ in range(1000):
        _, found = call(address, f"/v1/training-jobs/{job}")
        if meets(found):
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def test_a_training_is_watched_and_its_model_served(address: str, folder: Path) -> None:
    status, job = begin(address, "reviews")
    assert status == 202
    assert (job["name"], job["task"], job["status"]) == ("reviews", "classifier", "running")
    found = wait_for(address, job["id"], lambda job: job["step"] > 0)
    assert (found["step"], found["total_steps"], found["epoch"]) == (2, 8, 0.25)
    assert found["figures"] == {"nll": 1.5, "accuracy": 0.4}
    assert found["log"][-1].startswith("step 2/8")
    asked = {"model": "reviews", "input": "good"}
    status, problem = call(address, "/v1/classify", asked)
    assert (status, "not trained yet" in problem["detail"]) == (409, True)
    status, problem = begin(address, "another")
    assert (status, job["id"] in problem["detail"]) == (409, True)
    (folder / "reviews.end").touch()
    found = wait_for(address, job["id"], lambda job: job["finished"])
    assert found["status"] == "succeeded"
    status, answer = call(address, "/v1/classify", asked)
    assert (status, answer["data"][0]["index"]) == (200, 0)
    _, listed = call(address, "/v1/training-jobs")
    assert [one["id"] for one in listed["data"]] == [job["id"]]
    status, problem = begin(address, "reviews")
    assert (status, problem["field"]) == (409, "name")
    status, problem = call(address, f"/v1/training-jobs/{job['id']}/cancel", {})
    assert (status, "has ended" in problem["detail"]) == (409, True)


@pytest.mark.parametrize("name", ["gentle", "stubborn"])
def test_a_training_is_cancelled(address: str, name: str) -> None:
    _, job = begin(address, name)
    wait_for(address, job["id"], lambda job: job["step"] > 0)
    status, _ = call(address, f"/v1/training-jobs/{job['id']}/cancel", method="POST")
    assert status == 200
    found = wait_for(address, job["id"], lambda job: job["finished"])
    assert found["status"] == "cancelled"
    status, problem = call(address, "/v1/classify", {"model": name, "input": "good"})
    assert status == problem["status"] == 404


def test_a_training_that_fails_says_why(address: str) -> None:
    _, job = begin(address, "bad")
    found = wait_for(address, job["id"], lambda job: job["finished"])
    assert (found["status"], found["error"]) == ("failed", "error: no file at reviews.csv")
    assert begin(address, "bad-again")[0] == 202


def test_the_server_takes_its_training_with_it(folder: Path) -> None:
    options = ServeOptions(allow_training=True, training_runs=folder)
    app = create_app(Models(), options)
    with running(app) as address:
        _, job = begin(address, "reviews")
        wait_for(address, job["id"], lambda job: job["step"] > 0)
    (ended,) = app.state.training.jobs.values()
    assert ended.status == "cancelled"
    assert ended.process.returncode == 130


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"config": CONFIG}, 422, "name", "required"),
        ({"name": "../up", "config": CONFIG}, 422, "name", "pattern"),
        ({"name": "a", "config": {"task": "poetry"}}, 422, "config", "`task` must be one of"),
        ({"name": "a", "config": {"modle": {}}}, 422, "config", "did you mean `model`"),
        ({"name": "a", "config": "[model"}, 422, "config", "not TOML"),
        ({"name": "a", "config": {"training": {"batch_size": 0}}}, 422, "config", "at least 1"),
        ({"name": "taken", "config": CONFIG}, 409, "name", "is that of a run"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    address: str, folder: Path, body: Any, status: int, field: str, says: str
) -> None:
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken" / "notes.txt").write_text("somebody else's")
    answer, problem = call(address, "/v1/training-jobs", body)
    assert (answer, problem["field"]) == (status, field)
    assert says in json.dumps(problem)


def test_a_job_that_is_not_there(address: str) -> None:
    assert call(address, "/v1/training-jobs/train-0")[0] == 404
    assert call(address, "/v1/training-jobs/train-0/cancel", method="POST")[0] == 404


def test_nothing_is_trained_unless_allowed(folder: Path) -> None:
    with running(create_app(Models(), ServeOptions(training_runs=folder))) as address:
        status, problem = begin(address, "reviews")
        assert (status, "--allow-training" in problem["detail"]) == (403, True)
        assert call(address, "/v1/training-jobs")[1]["data"] == []


@pytest.mark.slow
def test_a_real_training_becomes_a_model(tmp_path: Path) -> None:
    options = ServeOptions(allow_training=True, training_runs=tmp_path)
    config = """
        task = "classifier"
        [tokenizer]
        kind = "word"
        [model]
        embedding_size = 4
        hidden_size = 4
        [training]
        max_steps = 4
        evaluate_every = 2
        devices = 1
    """
    with running(create_app(Models(), options)) as address:
        _, job = begin(address, "sentiment", config)
        for _ in range(600):
            _, found = call(address, f"/v1/training-jobs/{job['id']}")
            if found["finished"]:
                break
            time.sleep(0.1)
        assert found["status"] == "succeeded", found
        assert found["step"] == 4
        asked = {"model": "sentiment", "input": "a wonderful film"}
        status, answer = call(address, "/v1/classify", asked)
        assert status == 200
        assert sum(answer["data"][0]["probabilities"].values()) == pytest.approx(1)

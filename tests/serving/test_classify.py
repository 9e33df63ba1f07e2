"""`POST /v1/classify` answers as `Classifier.predict` and `explain` do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serving.http_server import call, running
from tests.tiny_classifier import WORDS, tiny_classifier

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from jaxgen.prediction.classifier import Classifier
from jaxgen.prediction.predictions import Prediction
from jaxgen.serving.app import create_app
from jaxgen.serving.classifying import ClassifierService
from jaxgen.serving.models import Models, ServedModel

TEXTS = [" ".join(WORDS[n % 7 : n % 7 + 1 + n % 9]) for n in range(40)]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return tiny_classifier()


@pytest.fixture(scope="module")
def address(classifier: Classifier) -> Iterator[str]:
    models = Models()
    for name, model in (
        ("tiny", classifier),
        ("three", tiny_classifier(("joy", "fear", "anger"))),
        ("several", tiny_classifier(("joy", "fear", "anger"), multi_label=True)),
    ):
        models.add(ServedModel(name, "classifier", model, engine=ClassifierService(model)))
    with running(create_app(models)) as address:
        yield address


def same(shown: dict[str, Any], wanted: Prediction) -> bool:
    return (
        shown["label"] == wanted.label
        and tuple(shown["labels"]) == wanted.labels
        and shown["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-6)
        and shown["probability"] == pytest.approx(wanted.probability, abs=1e-6)
    )


def test_one_text_and_several(address: str, classifier: Classifier) -> None:
    status, found = call(address, "/v1/classify", {"model": "tiny", "input": "good a b"})
    assert status == 200
    assert (found["object"], found["model"], found["threshold"]) == ("list", "tiny", 0.5)
    assert found["warnings"] == []
    assert same(found["data"][0], classifier.predict("good a b"))
    assert "explanation" not in found["data"][0]
    status, found = call(address, "/v1/classify", {"model": "tiny", "input": TEXTS})
    assert [one["index"] for one in found["data"]] == list(range(40))
    for shown, wanted in zip(found["data"], classifier.predict(TEXTS), strict=True):
        assert same(shown, wanted)


def test_many_clients_at_once_get_their_own_answers(address: str, classifier: Classifier) -> None:
    wanted = classifier.predict(TEXTS)
    with ThreadPoolExecutor(8) as clients:
        bodies = [{"model": "tiny", "input": text} for text in TEXTS]
        found = list(clients.map(lambda body: call(address, "/v1/classify", body), bodies))
    for (status, shown), prediction in zip(found, wanted, strict=True):
        assert status == 200
        assert same(shown["data"][0], prediction)


@pytest.mark.parametrize("threshold", [0.0, 0.7, 1.0])
def test_the_threshold_decides(address: str, classifier: Classifier, threshold: float) -> None:
    body = {"model": "tiny", "input": TEXTS, "threshold": threshold, "temperature": 2.0}
    _, found = call(address, "/v1/classify", body)
    wanted = classifier.predict(TEXTS, threshold=threshold, temperature=2.0)
    assert found["threshold"] == threshold
    assert all(map(same, found["data"], wanted))


def test_several_labels_at_once(address: str) -> None:
    body = {"model": "several", "input": "good a b", "threshold": 0.7}
    _, found = call(address, "/v1/classify", body)
    (one,) = found["data"]
    assert one["labels"] == [name for name, p in one["probabilities"].items() if p >= 0.7]


@pytest.mark.parametrize("label", [None, "negative"])
def test_the_words_that_decided(address: str, classifier: Classifier, label: str | None) -> None:
    text = "good  a b\ndull"
    body = {"model": "tiny", "input": text, "explain": True, "label": label}
    _, found = call(address, "/v1/classify", body)
    wanted = classifier.explain(text, label=label)
    shown = found["data"][0]["explanation"]
    assert shown["label"] == wanted.label
    assert [text[word["start"] : word["stop"]] for word in shown["words"]] == list(wanted.words)
    assert [word["word"] for word in shown["words"]] == list(wanted.words)
    weights = [word["weight"] for word in shown["words"]]
    assert weights == pytest.approx(wanted.weights.tolist(), abs=1e-5)


def test_what_the_model_cannot_read_is_answered_and_counted(address: str) -> None:
    _, found = call(address, "/v1/classify", {"model": "tiny", "input": ["zzz", "good", ""]})
    assert len(found["data"]) == 3
    (warning,) = found["warnings"]
    assert warning.startswith("2 of 3 texts have no token that the model knows")


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"input": "a"}, 422, "model", "required"),
        ({"model": "tinny", "input": "a"}, 404, "model", "did you mean `tiny`"),
        ({"model": "tiny", "input": []}, 422, "input", "1 to 2048 texts, got 0 texts"),
        ({"model": "tiny", "input": 3}, 422, "input", "type int"),
        ({"model": "tiny", "input": ["a", None]}, 422, "input", "type NoneType"),
        ({"model": "tiny", "input": "a", "threshold": 1.5}, 422, "threshold", "1.5"),
        ({"model": "three", "input": "a", "threshold": 0.7}, 422, "threshold", "two classes"),
        ({"model": "tiny", "input": "a", "temperature": 0}, 422, "temperature", "greater than 0"),
        ({"model": "tiny", "input": "a", "label": "joy"}, 422, "label", "negative, positive"),
        ({"model": "tiny", "input": "a", "treshold": 0.7}, 422, "treshold", "no field `treshold`"),
        ({"model": "tiny", "input": ["a"] * 33, "explain": True}, 422, "explain", "at most 32"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    address: str, body: Any, status: int, field: str, says: str
) -> None:
    answer, problem = call(address, "/v1/classify", body)
    assert answer == problem["status"] == status
    assert problem["field"].startswith(field)
    assert says in problem["detail"]


def test_too_many_texts_are_refused(classifier: Classifier) -> None:
    models = Models()
    engine = ClassifierService(classifier, queue=3)
    models.add(ServedModel("small", "classifier", classifier, engine=engine))
    with running(create_app(models)) as other:
        status, problem = call(other, "/v1/classify", {"model": "small", "input": ["a"] * 4})
    assert (status, "at most 3 may" in problem["detail"]) == (429, True)


def test_the_openapi_document_describes_it(address: str) -> None:
    _, document = call(address, "/openapi.json")
    endpoint = document["paths"]["/v1/classify"]["post"]
    schema = document["components"]["schemas"]["ClassifyRequest"]
    assert schema["examples"][0]["threshold"] == 0.7
    assert "ClassifyResponse" in str(endpoint["responses"]["200"])


def test_every_shape_is_compiled_before_the_first_text() -> None:
    model = tiny_classifier(max_length=9, names=("a", "b", "c", "d", "e"))
    service = ClassifierService(model)
    service.warm_up()
    compiled = model.apply._cache_size()  # type: ignore[attr-defined]
    rows = ["a " * n for n in (1, 8, 9, 30)]
    for texts in (rows[:1], rows[1:2], rows[2:], rows * 30):
        service.run(None, texts)
    assert model.apply._cache_size() == compiled  # type: ignore[attr-defined]

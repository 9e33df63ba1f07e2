"""`POST /v1/translate` answers as `Translator.translate` does, whoever else is served."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import jaxgen
from tests.serving.http_server import call, running
from tests.tiny_translator import PAIRS, write_export_of

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from jaxgen.generation.translator import Translator
from jaxgen.serving.app import create_app
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.translating import TranslatorService, _Source

SOURCES = [source for source, _ in PAIRS[:12]]


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    folder = tmp_path_factory.mktemp("translator")
    found: Translator = jaxgen.load(write_export_of(folder, attention="general"))
    return found


@pytest.fixture(scope="module")
def address(translator: Translator) -> Iterator[str]:
    models = Models()
    engine = TranslatorService(translator)
    models.add(ServedModel("letters", "seq2seq", translator, engine=engine))
    with running(create_app(models)) as address:
        yield address


def test_texts_are_translated_as_offline(address: str, translator: Translator) -> None:
    body = {"model": "letters", "input": SOURCES}
    status, found = call(address, "/v1/translate", body)
    assert status == 200
    wanted = translator.translate(SOURCES, beam_size=2, n_best=1)
    assert [one["text"] for one in found["data"]] == [best[0].text for best in wanted]
    assert found["data"][3]["index"] == 3
    assert "attention" not in found["data"][0]["translations"][0]


def test_the_best_with_their_attention(address: str, translator: Translator) -> None:
    body = {"model": "letters", "input": "a u", "n_best": 2, "attention": True}
    _, found = call(address, "/v1/translate", body)
    (one,) = found["data"]
    wanted = translator.translate("a u", n_best=2, beam_size=2, attention=True)
    assert one["source_tokens"] == ["a", "u"]
    assert len(one["translations"]) == len(wanted)
    for shown, best in zip(one["translations"], wanted, strict=True):
        assert shown["text"] == best.text
        assert shown["score"] == pytest.approx(best.score, abs=1e-5)
        assert shown["token_logprobs"] == pytest.approx(list(best.token_scores), abs=1e-5)
        assert shown["tokens"] == translator.tokenizer.names(best.tokens)
        np.testing.assert_allclose(shown["attention"], best.attention, atol=1e-4)
        np.testing.assert_allclose(np.sum(shown["attention"], axis=1), 1.0, atol=1e-3)


def test_the_prefix_begins_each_translation(address: str, translator: Translator) -> None:
    body = {"model": "letters", "input": "a u", "prefix": "u", "beam_size": 2}
    _, found = call(address, "/v1/translate", body)
    assert found["data"][0]["text"] == translator.translate("a u", prefix="u", beam_size=2)
    assert found["data"][0]["text"].startswith("u")


def test_clients_with_other_options_do_not_disturb_each_other(
    address: str, translator: Translator
) -> None:
    widths = [1, 2] * 2
    bodies = [
        {"model": "letters", "input": text, "beam_size": width}
        for text, width in zip(SOURCES[:4], widths, strict=True)
    ]
    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda body: call(address, "/v1/translate", body)[1], bodies))
    for text, width, shown in zip(SOURCES[:4], widths, found, strict=True):
        assert shown["data"][0]["text"] == translator.translate(text, beam_size=width)


def test_what_cannot_be_read_is_answered_and_counted(address: str) -> None:
    _, found = call(address, "/v1/translate", {"model": "letters", "input": ["a !", ""]})
    assert found["data"][1]["text"] == ""
    assert "'!' (1x)" in found["warnings"][0]
    _, found = call(address, "/v1/translate", {"model": "letters", "input": "a " * 20})
    assert "longer than 6 tokens" in found["warnings"][0]


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"model": "other", "input": "a"}, 404, "model", "there are letters"),
        ({"model": "letters", "input": 3}, 422, "input", "type int"),
        ({"model": "letters", "input": ["a"] * 257}, 422, "input", "got 257 texts"),
        ({"model": "letters", "input": "a", "beam_size": 0}, 422, "beam_size", "greater than"),
        ({"model": "letters", "input": "a", "beam_size": 99}, 422, "beam_size", "less than"),
        ({"model": "letters", "input": "a", "beam_size": 2, "n_best": 3}, 422, "n_best", "[1, "),
        ({"model": "letters", "input": "a", "prefix": "zzz"}, 422, None, "the prefix 'zzz'"),
        ({"model": "letters", "input": ["a"] * 33, "attention": True}, 422, "attention", "most 32"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    address: str, body: Any, status: int, field: str | None, says: str
) -> None:
    answer, problem = call(address, "/v1/translate", body)
    assert answer == status
    assert problem.get("field") == field
    assert says in problem["detail"]


def test_a_classifiers_request_is_sent_to_the_right_place(address: str) -> None:
    status, problem = call(address, "/v1/classify", {"model": "letters", "input": "a"})
    assert status == 422
    assert "POST /v1/translate" in problem["detail"]


def test_few_programs_serve_any_number_of_texts(translator: Translator) -> None:
    from jaxgen.generation.beam import _search

    service = TranslatorService(translator)
    service.warm_up()
    wanted = translator.translate(SOURCES, beam_size=2, n_best=1)
    compiled = _search._cache_size()
    settings = tuple(sorted(service._options({}).items()))
    for count in (1, 2, 5, 12):
        rows = [_Source(ids, "") for ids in translator.reader().read(SOURCES[:count])]
        found = service.run(settings, rows)
        assert [best[0].text for best in found] == [best[0].text for best in wanted[:count]]
    assert _search._cache_size() == compiled

"""What every endpoint shares: strict bodies, keys, problem documents, health and metrics."""

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("fastapi")
from asgi_client import Answer, ask, send
from fake_engine import FakeEngine, fake_models, make_tokenizer

from jaxgen.errors import UserError
from jaxgen.serving.app import create_app
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.options import ServeOptions

PATH = "/v1/completions"
BODY = {"model": "demo", "prompt": "a"}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(make_tokenizer())


@pytest.fixture
def app(engine: FakeEngine) -> Any:
    return create_app(fake_models(engine), ServeOptions(max_body_bytes=1000))


def problem(answer: Answer, status: int) -> Any:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert {"type", "title", "status", "detail", "error"} <= found.keys()
    assert "Traceback" not in found["detail"]
    return found


# Bodies


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "must be JSON"),
        (b"hello", 400, "must be JSON"),
        (b'{"model": "demo", "temperature": NaN}', 400, "must be JSON"),
        (b'{"model": "demo", "temperature": -Infinity}', 400, "must be JSON"),
        (b'{"model": "demo", "temperature": 1e999}', 422, "finite"),
        (b'{"model": "demo", "prompt": "\\ud800"}', 400, "must be JSON"),
        (b'{"model": "demo", "prompt": "\xff"}', 400, "must be UTF-8, and byte 29 is not"),
        (b"[" * 900, 400, "recursion limit"),
        (b'{"a":' * 190, 400, "must be JSON"),
        (b"[1]", 422, "dictionary"),
        (b"null", 422, ""),
        (b"", 422, "required"),
        (b"x" * 1001, 413, "at most 1000 bytes"),
    ],
)
def test_bad_bodies(app: Any, engine: FakeEngine, body: bytes, status: int, says: str) -> None:
    assert says in problem(ask(app, PATH, body), status)["detail"]
    assert engine.submitted == []


def test_a_long_body_is_refused_by_its_declared_length(app: Any) -> None:
    """And the rest of 10 MB is never read."""
    answer = ask(app, PATH, b"{}", headers={"Content-Length": str(10_000_000)})
    assert "at most 1000 bytes" in problem(answer, 413)["detail"]


def test_a_body_of_another_type_is_refused(app: Any) -> None:
    """What a page of another site can send without asking is none of JSON's types."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = ask(app, PATH, BODY, headers={"Content-Type": kind})
        assert "Content-Type: application/json" in problem(answer, 415)["detail"]
    assert ask(app, PATH, BODY, headers={"Content-Type": "application/json; x=y"}).status == 200


def test_a_body_that_never_ends_is_given_up(engine: FakeEngine) -> None:
    app = create_app(fake_models(engine), ServeOptions(request_timeout=0.01))
    answer = ask(app, PATH, BODY, unfinished=True)
    assert "longer than 0.01 seconds" in problem(answer, 408)["detail"]


def test_no_other_site_may_read_answers(app: Any) -> None:
    answer = ask(app, PATH, BODY, headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    problem(ask(app, PATH, method="OPTIONS", headers=asked), 405)


def test_paths_and_methods_that_are_not_there(app: Any) -> None:
    problem(ask(app, "/v2/completions", BODY), 404)
    assert ask(app, PATH).headers["allow"] == "POST"
    problem(ask(app, PATH), 405)


# Our own faults


def test_a_fault_tells_neither_client_nor_log_what_was_asked(
    app: Any, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "abcabc"
    engine.fault = KeyError(secret)
    answer = ask(app, PATH, {"model": "demo", "prompt": secret})
    assert problem(answer, 500)["detail"] == "the server failed; its log says where"
    assert "KeyError in the service" in caplog.text
    assert "fake_engine.py" in caplog.text
    assert secret not in caplog.text + answer.body.decode()
    counted = 'jaxgen_requests_total{method="POST",path="/v1/completions",status="500"} 1.0'
    assert counted in ask(app, "/metrics").body.decode()


# Keys


def test_without_the_key_nobody_gets_in(engine: FakeEngine) -> None:
    app = create_app(fake_models(engine), ServeOptions(api_key="sesame"))
    for path, body in ((PATH, BODY), ("/v1/models", None), ("/metrics", None), ("/nowhere", None)):
        for given in ({}, {"Authorization": "Bearer sesam"}, {"Authorization": "sesame"}):
            answer = ask(app, path, body, headers=given)
            problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert ask(app, path, body, headers={"Authorization": "Bearer sesame"}).status != 401
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert ask(app, path).status == 200
    assert len(engine.submitted) == 1


def test_the_key_is_compared_in_constant_time(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)))
    app = create_app(fake_models(engine), ServeOptions(api_key="sesame"))
    assert ask(app, PATH, BODY, headers={"Authorization": "Bearer x"}).status == 401
    assert compared == [(b"Bearer x", b"Bearer sesame")]


# Models, tokens, health, metrics


def test_models_are_listed(app: Any) -> None:
    card = {
        **{"id": "demo", "object": "model", "created": 1, "owned_by": "jaxgen"},
        **{"task": "language_model", "ready": True, "endpoint": "POST /v1/completions"},
        **{"labels": [], "vocab_size": 12, "fingerprint": "f" * 16},
    }
    assert ask(app, "/v1/models").json() == {"object": "list", "data": [card]}
    assert ask(app, "/v1/models/demo").json() == card
    assert problem(ask(app, "/v1/models/dmo"), 404)["models"] == ["demo"]


def test_tokens_are_shown(app: Any) -> None:
    found = ask(app, "/tokenize", {"model": "demo", "prompt": "ab?"}).json()
    assert (found["count"], found["tokens"], found["texts"]) == (
        3,
        [0, 1, 11],
        ["a", "b", "\ufffd"],
    )
    assert "(1x)" in found["warnings"][0]
    assert problem(ask(app, "/tokenize", {"model": "demo", "promt": ""}), 422)["field"] == "promt"


def test_health_and_readiness(app: Any, engine: FakeEngine) -> None:
    assert ask(app, "/healthz").json()["status"] == "ok"
    assert ask(app, "/readyz").json() == {"status": "ready", "models": {"demo": True}}
    engine.ready = False
    assert problem(ask(app, "/readyz"), 503)["models"] == {"demo": False}
    assert ask(app, "/healthz").status == 200  # it compiles, and is well
    engine.failure = RuntimeError("out of memory")
    assert "demo" in problem(ask(app, "/healthz"), 503)["detail"]
    engine.ready, engine.failure = True, None
    app.state.service.stopping = True
    assert ask(app, "/healthz").status == 200
    assert "stopping" in problem(ask(app, "/readyz"), 503)["detail"]


def test_metrics_count_requests_by_pattern(app: Any) -> None:
    ask(app, PATH, BODY)
    ask(app, PATH, b"{")
    ask(app, "/v1/models/demo")
    ask(app, "/made/up/1")
    ask(app, "/made/up/2", method="BREW")
    answer = ask(app, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    counted = [line for line in lines if line.startswith("jaxgen_requests_total")]
    assert sorted(counted) == [
        'jaxgen_requests_total{method="GET",path="/v1/models/{name:path}",status="200"} 1.0',
        'jaxgen_requests_total{method="GET",path="other",status="404"} 1.0',
        'jaxgen_requests_total{method="POST",path="/v1/completions",status="200"} 1.0',
        'jaxgen_requests_total{method="POST",path="/v1/completions",status="400"} 1.0',
        'jaxgen_requests_total{method="other",path="other",status="404"} 1.0',
    ]
    assert "jaxgen_requests_in_flight 1.0" in lines  # this one
    for name, value in (("slots", 4), ("waiting", 2), ("generated_tokens_total", 30)):
        assert f'jaxgen_{name}{{model="demo"}} {value}.0' in lines
    assert 'jaxgen_texts_total{model="demo",outcome="length"} 5.0' in lines
    times = 'jaxgen_time_to_first_token_seconds_bucket{le="0.01",model="demo"}'
    assert f"{times} 2.0" in lines
    assert 'jaxgen_time_to_first_token_seconds_count{model="demo"} 3.0' in lines


# The OpenAPI document


def test_every_endpoint_is_documented(app: Any) -> None:
    document = ask(app, "/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            assert about["summary"], path
            assert about["description"], path
            assert "application/problem+json" in about["responses"]["422"]["content"]
            if "requestBody" in about and "chat" not in path:
                (content,) = about["requestBody"]["content"].values()
                name = content["schema"]["$ref"].rpartition("/")[2]
                assert document["components"]["schemas"][name]["examples"], (method, path)
    assert "HTTPValidationError" not in json.dumps(document)
    assert "ProblemDocument" in document["components"]["schemas"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.peers("schemathesis")
def test_no_request_that_schemathesis_makes_up_is_our_fault(app: Any) -> None:
    import schemathesis

    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():
        operation = found.ok()

        @schema.include(path=operation.path, method=operation.method).parametrize()
        def unused(case: Any) -> None: ...

        from hypothesis import given, settings

        @settings(max_examples=25, deadline=None, database=None)
        @given(case=operation.as_strategy())
        def asked(case: Any) -> None:
            assert case.call().status_code < 500

        asked()


# Requests that end early


def test_clients_that_leave_at_any_moment_leave_nothing_behind(
    app: Any, engine: FakeEngine
) -> None:
    """Streamed or not, before and after the first event, with one text or several."""

    async def leave_all() -> None:
        for count in range(40):
            body = {**BODY, "stream": count % 2 == 0, "n": 1 + count % 3, "max_tokens": 40}
            await send(app, PATH, body, leave=lambda sent, most=count // 4: len(sent) > most)
            assert engine.open == []

    asyncio.run(asyncio.wait_for(leave_all(), 20))
    assert ask(app, PATH, BODY).status == 200


# What operators get wrong


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_tokens": 0}, "`max_tokens` must be at least 1, got 0"),
        ({"queue": 0}, "`queue` must be at least 1"),
        ({"grace": float("nan")}, "`grace` must be a number of seconds"),
        ({"request_timeout": 0.0}, "`request_timeout` must be a number of seconds, above 0"),
        ({"api_key": " "}, "`api_key` must not be empty"),
        ({"session_key": b"short"}, "`session_key` must have at least 16 bytes, got 5"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", "\\(")):
        ServeOptions(**options)


def test_keys_are_not_shown() -> None:
    shown = repr(ServeOptions(api_key="sesame", session_key=b"0123456789abcdef"))
    assert "sesame" not in shown
    assert "0123" not in shown


def test_two_models_of_one_name() -> None:
    models = Models()
    models.add(ServedModel("a", "classifier", None))
    with pytest.raises(UserError, match="two models have the name a"):
        models.add(ServedModel("a", "classifier", None))
    models.add(ServedModel("a", "seq2seq", None), replace=True)
    assert [served.task for served in models] == ["seq2seq"]

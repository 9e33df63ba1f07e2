"""`POST /v1/completions` keeps OpenAI's contract to the letter, and says what is wrong."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi")
from asgi_client import Answer, ask, send
from fake_engine import FakeEngine, fake_models, make_tokenizer

from jaxgen.errors import UserError
from jaxgen.serving.app import create_app
from jaxgen.serving.options import ServeOptions
from jaxgen.serving.requests import StoppedError

PATH = "/v1/completions"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(make_tokenizer())


@pytest.fixture
def app(engine: FakeEngine) -> Any:
    return create_app(fake_models(engine), ServeOptions(session_key=b"k" * 32))


def complete(app: Any, **fields: Any) -> Answer:
    return ask(app, PATH, {"model": "demo", **fields})


def choices(app: Any, **fields: Any) -> list[dict[str, Any]]:
    answer = complete(app, **fields)
    assert answer.status == 200, answer.body
    return answer.json()["choices"]


def texts(app: Any, **fields: Any) -> list[str]:
    return [choice["text"] for choice in choices(app, **fields)]


def test_the_answer_is_openais_object(app: Any) -> None:
    found = complete(app, prompt="ab", max_tokens=3, seed=5).json()
    assert found.pop("id").startswith("cmpl-")
    assert found.pop("created") > 1_700_000_000
    assert found == {
        "object": "text_completion",
        "model": "demo",
        "system_fingerprint": "f" * 16,
        "choices": [{"text": "cde", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
        "seed": 5,
        "warnings": [],
    }


def test_defaults_are_openais(app: Any, engine: FakeEngine) -> None:
    assert texts(app, prompt="ab") == ["cdefghijkabcdefg"]  # 16 tokens
    (asked,) = engine.submitted
    assert asked.options == {"temperature": 1.0}
    assert (asked.stop, asked.num_logprobs, asked.after, asked.return_state) == ((), None, None, 0)
    nothing = ("prompt", "max_tokens", "n", "stop", "temperature", "top_p", "logprobs", "stream")
    assert texts(app, **dict.fromkeys(nothing)) == ["abcdefghijkabcde"]
    assert engine.submitted[1].prompt == ()
    assert engine.submitted[0].seed != engine.submitted[1].seed  # drawn


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("ab", ["cd"]),
        (["ab", "f"], ["cd", "hi"]),  # the second has row 1
        ([0, 1], ["cd"]),
        ([[0, 1], [5]], ["cd", "hi"]),
        ("", ["ab"]),
        (["", ""], ["ab", "bc"]),
    ],
)
def test_every_form_of_prompt(app: Any, prompt: Any, wanted: list[str]) -> None:
    assert texts(app, prompt=prompt, max_tokens=2) == wanted


def test_n_texts_a_prompt_have_the_rows_of_generate(app: Any, engine: FakeEngine) -> None:
    found = choices(app, prompt=["a", "b"], n=2, max_tokens=1, seed=3)
    assert [choice["index"] for choice in found] == [0, 1, 2, 3]
    assert [choice["text"] for choice in found] == ["b", "c", "e", "f"]
    assert [(asked.seed, asked.row) for asked in engine.submitted] == [(3, r) for r in range(4)]
    assert complete(app, prompt="a", seed=-1).json()["seed"] == 2**32 - 1  # as generate takes it
    assert complete(app, prompt="a", seed=2**40 + 7).json()["seed"] == 7


def test_best_of_keeps_the_likeliest_per_token(app: Any, engine: FakeEngine) -> None:
    """A text that ends early has the higher mean here; all that were written are counted."""
    answer = complete(app, prompt="a", best_of=3, n=2, max_tokens=4, stop="de").json()
    # rows write bcde, cdef, defg; the stop leaves bc, c and nothing
    assert [choice["text"] for choice in answer["choices"]] == ["c", "bc"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert {asked.num_logprobs for asked in engine.submitted} == {0}


def test_stop_ends_a_text_and_is_not_in_it(app: Any) -> None:
    (choice,) = choices(app, prompt="a", stop=["ef", "zz"], max_tokens=9)
    assert (choice["text"], choice["finish_reason"]) == ("bcd", "stop")
    assert texts(app, prompt="a", stop="ef") == ["bcd"]


def test_logprobs_hold_the_sampled_token_besides_the_likeliest(app: Any) -> None:
    (choice,) = choices(app, prompt="ab", max_tokens=2, logprobs=2)
    assert choice["logprobs"] == {
        "tokens": ["c", "d"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [
            {"c": -0.1, "d": -1.1, "e": -2.1},
            {"d": -0.2, "e": -1.2, "f": -2.2},
        ],
        "text_offset": [2, 3],  # from the prompt's start
    }
    (choice,) = choices(app, prompt="ab", max_tokens=1, logprobs=0)
    assert choice["logprobs"]["top_logprobs"] == [{"c": -0.1}]


def test_echo_gives_the_prompt_back_with_its_logprobs_the_first_null(app: Any) -> None:
    (choice,) = choices(app, prompt="abd", max_tokens=1, echo=True, logprobs=1)
    assert choice["text"] == "abde"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "d", "e"],
        "token_logprobs": [None, -2.0, -3.0, -0.1],
        "top_logprobs": [
            None,
            {"b": -2.0, "c": -3.0},
            {"d": -3.0, "e": -4.0},
            {"e": -0.1, "f": -1.1},
        ],
        "text_offset": [0, 1, 2, 3],
    }
    (choice,) = choices(app, prompt=[0, 1], max_tokens=0, echo=True)
    assert (choice["text"], choice["logprobs"], choice["finish_reason"]) == ("ab", None, "length")


@pytest.mark.parametrize("fields", [{}, {"logprobs": 1, "echo": True}, {"n": 2, "stop": "h"}])
def test_a_stream_says_the_same_bit_by_bit(app: Any, fields: dict[str, Any]) -> None:
    asked = {"prompt": ["ab", "c"], "max_tokens": 5, "seed": 1, **fields}
    whole = choices(app, **asked)
    answer = complete(app, **asked, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = answer.events()
    assert last == "[DONE]"
    assert {event["object"] for event in events} == {"text_completion"}
    assert len({event["id"] for event in events}) == 1
    assert all("usage" not in event for event in events)
    assert len(events) > len(whole)
    for choice in whole:
        own = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert [piece["finish_reason"] for piece in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        if choice["logprobs"] is not None:
            for name, values in choice["logprobs"].items():
                assert [v for piece in own for v in piece["logprobs"][name]] == values


def test_usage_comes_as_one_more_chunk_without_choices(app: Any) -> None:
    options = {"include_usage": True}
    answer = complete(app, prompt="ab", max_tokens=3, stream=True, stream_options=options)
    *events, usage, last = answer.events()
    assert last == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert all(event["usage"] is None for event in events)


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (UserError("the model's logits must be numbers"), 422, "the model's logits"),
        (StoppedError("it stopped"), 503, "ask again"),
        (KeyError("a user's text"), 500, "the server failed"),
    ],
)
def test_a_fault_in_mid_stream_is_an_event(
    app: Any, engine: FakeEngine, caplog: Any, fault: Exception, code: int, message: str
) -> None:
    engine.fault = fault
    answer = complete(app, prompt="ab", stream=True)
    *_, event, last = answer.events()
    assert (answer.status, last) == (200, "[DONE]")
    assert event["error"]["code"] == code
    assert message in event["error"]["message"]
    assert "a user's text" not in answer.body.decode() + caplog.text
    assert engine.open == []


def test_jaxgens_own_options_reach_the_sampler(app: Any, engine: FakeEngine) -> None:
    own = {
        **{"top_k": 5, "min_p": 0.1, "typical_p": 0.9, "top_p": 0.8, "temperature": 0.0},
        **{"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25},
        **{"label": "joy", "guidance": 2.0, "no_repeat_ngram": 3, "min_new_tokens": 2},
        **{"banned_tokens": [3], "allow_special": True},
    }
    complete(app, prompt="a", **own)
    assert engine.submitted[0].options == own


def test_unknown_characters_are_counted(app: Any) -> None:
    found = complete(app, prompt="a?b??", max_tokens=1).json()
    assert found["choices"][0]["text"]
    (warning,) = found["warnings"]
    assert "'?' U+003F (3x)" in warning
    events = complete(app, prompt="a?", max_tokens=4, stream=True).events()
    assert "(1x)" in events[0]["warnings"][0]
    assert "warnings" not in events[1]


def test_sessions_are_read_once_and_continued(app: Any, engine: FakeEngine) -> None:
    read = ask(app, "/v1/sessions", {"model": "demo", "prompt": "abc"})
    assert read.status == 200
    handle = read.json()["session"]
    assert read.json()["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
    assert (engine.submitted[0].max_new_tokens, engine.submitted[0].return_state) == (0, True)
    found = choices(app, session=handle, prompt="d", n=2, return_session=True)
    after = engine.submitted[1].after
    assert after is not None
    assert (after.token.tolist(), after.carry[0].tolist()) == ([2], [[1.0, 1.0]])  # c
    assert engine.submitted[2].after is not None  # a fork
    again = choices(app, session=found[1]["session"], echo=True, logprobs=0, prompt="a")
    assert again[0]["logprobs"]["token_logprobs"][0] == -1.0  # something stands before it
    events = complete(app, prompt="a", stream=True, return_session=True).events()
    assert "session" in events[-2]["choices"][0]
    assert "session" not in events[0]["choices"][0]
    longer = ask(app, "/v1/sessions", {"model": "demo", "prompt": "b", "session": handle})
    assert longer.status == 200
    assert engine.open == []


def test_a_changed_or_foreign_handle_is_refused(app: Any, engine: FakeEngine) -> None:
    handle = ask(app, "/v1/sessions", {"model": "demo", "prompt": "abc"}).json()["session"]
    other = create_app(fake_models(engine), ServeOptions(session_key=b"o" * 32))
    same = create_app(fake_models(engine), ServeOptions(session_key=b"k" * 32))
    assert complete(same, session=handle).status == 200
    for place in (0, len(handle) // 2, len(handle) - 3):
        letter = "A" if handle[place] != "A" else "B"
        changed = handle[:place] + letter + handle[place + 1 :]
        assert refused(app, session=changed)["field"] == "session"
    assert "session key" in refused(other, session=handle)["detail"]
    for bad in ("", "é", "abc", "?" * 40):
        assert refused(app, session=bad)["field"] == "session"
    next(iter(same.state.service.models)).fingerprint = "e" * 16
    assert "another model" in refused(same, session=handle)["detail"]


def refused(app: Any, status: int = 422, **fields: Any) -> Any:
    answer = complete(app, **fields)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == problem["error"]["code"] == status
    assert problem["error"]["param"] == problem.get("field")
    return problem


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", [], "`prompt` must be a text"),
        ("prompt", [[]], "`prompt` must be a text"),
        ("prompt", ["a", 1], "`prompt` must be a text"),
        ("prompt", {"a": 1}, "`prompt` must be a text"),
        ("prompt", [1.5], "`prompt` must be a text"),
        ("prompt", [99], "[0, 12), got 99"),
        ("prompt", [-1], "[0, 12), got -1"),
        ("prompt", "a" * 101, "at most 100 tokens, got 101"),
        ("max_tokens", -1, "greater than or equal to 0, got -1"),
        ("max_tokens", 51, "at most 50 here, got 51"),
        ("max_tokens", 1.5, "integer"),
        ("max_tokens", "5", "integer"),
        ("n", 0, "greater than or equal to 1"),
        ("n", 9, "at most 8 texts here, got 9"),
        ("stop", ["a"] * 5, "`stop` must hold at most 4 texts, got 5"),
        ("stop", "", "none of them empty"),
        ("seed", 2**63, "less than"),
        ("temperature", -0.1, "greater than or equal to 0"),
        ("temperature", "hot", "valid number"),
        ("top_p", 0, "greater than 0"),
        ("top_p", 1.3, "less than or equal to 1"),
        ("logprobs", 6, "less than or equal to 5"),
        ("stream", "yes", "boolean"),
        ("tempreature", 1, "there is no field `tempreature`"),
        ("suffix", "end", "`suffix` is not supported"),
        ("logit_bias", {"1": 2}, "`logit_bias` is not supported"),
        ("stream_options", {"include_usage": True}, "`stream_options` is for `stream`"),
    ],
)
def test_bad_fields_are_named(engine: FakeEngine, field: str, value: Any, says: str) -> None:
    options = ServeOptions(max_prompt_tokens=100, max_tokens=50, max_choices=8)
    problem = refused(create_app(fake_models(engine), options), **{field: value})
    assert problem["field"] == field
    assert says in problem["detail"]
    assert engine.submitted == []


def test_fields_that_do_not_go_together_are_named(app: Any) -> None:
    assert refused(app, best_of=1, n=2)["field"] == "best_of"
    assert refused(app, best_of=2, stream=True)["field"] == "best_of"
    assert refused(app, best_of=200)["field"] == "best_of"


def test_models_that_are_not_there(app: Any, engine: FakeEngine) -> None:
    problem = refused(app, 404, model="dmo")
    assert problem["models"] == ["demo"]
    assert "did you mean `demo`?" in problem["detail"]
    served = next(iter(app.state.service.models))
    served.model = None
    assert "not trained yet" in refused(app, 409)["detail"]
    served.model, served.task = object(), "classifier"
    assert "POST /v1/classify" in refused(app)["detail"]


def test_a_full_queue_says_when_to_come_back(engine: FakeEngine) -> None:
    """The texts of a request that were queued before the queue was full are taken out again."""
    engine.room = 2
    app = create_app(fake_models(engine))
    answer = complete(app, prompt="a", n=3)
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    assert "2 texts wait" in answer.json()["detail"]
    assert engine.open == []
    assert complete(app, prompt="a", n=2).status == 200


def test_chat_is_refused_with_the_way_out(app: Any) -> None:
    answer = ask(app, "/v1/chat/completions", {"model": "demo", "messages": []})
    assert answer.status == 404
    assert "no chat template" in answer.json()["detail"]
    assert "POST /v1/completions" in answer.json()["detail"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 3}, {"n": 3, "stream": True}])
def test_a_client_that_leaves_frees_its_texts(
    app: Any, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    async def leave() -> None:
        engine.gate.clear()  # nothing comes
        body = {"model": "demo", "prompt": "a", **fields}
        await send(app, PATH, body, leave=lambda sent: True)
        assert engine.open == []

    asyncio.run(asyncio.wait_for(leave(), 5))


def test_a_client_that_leaves_in_mid_stream(app: Any, engine: FakeEngine) -> None:
    async def leave() -> None:
        body = {"model": "demo", "prompt": "a", "max_tokens": 4000, "stream": True}
        answer = await send(app, PATH, body, leave=lambda sent: len(sent) > 4)
        assert 0 < len(answer.body) < 10_000
        assert engine.open == []

    asyncio.run(asyncio.wait_for(leave(), 5))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_given_up(engine: FakeEngine, stream: bool) -> None:
    app = create_app(fake_models(engine), ServeOptions(request_timeout=0.01))
    engine.gate.clear()
    answer = complete(app, prompt="a", stream=stream)
    error = answer.events()[-2]["error"] if stream else answer.json()["error"]
    assert error["code"] == 504
    assert answer.status == (200 if stream else 504)
    assert engine.open == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_stops_refuses_what_it_cannot_finish(
    app: Any, engine: FakeEngine, stream: bool
) -> None:
    async def stop() -> Answer:
        engine.gate.clear()
        body = {"model": "demo", "prompt": "a", "stream": stream}
        asked = asyncio.ensure_future(send(app, PATH, body))
        while not engine.open:
            await asyncio.sleep(0)
        app.state.service.stopping = True
        assert (await send(app, PATH, body)).status == 503  # nothing new begins
        app.state.service.give_up()
        return await asked

    answer = asyncio.run(asyncio.wait_for(stop(), 5))
    error = answer.events()[-2]["error"] if stream else answer.json()["error"]
    assert error["code"] == 503
    assert engine.open == []

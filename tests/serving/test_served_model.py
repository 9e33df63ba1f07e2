"""A model behind the service writes and scores as it does without, for OpenAI's own client too."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from asgi_client import ask, send
from generation.text_models import make_model
from http_server import running

from jaxgen.generation.text import TextModel
from jaxgen.serving.app import create_app
from jaxgen.serving.engine import EngineOptions, TextEngine
from jaxgen.serving.handles import model_fingerprint
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.options import ServeOptions

PATH = "/v1/completions"
PROMPT = "hello there"


@pytest.fixture(scope="module")
def lm() -> TextModel:
    return make_model()


@pytest.fixture(scope="module")
def app(lm: TextModel) -> Any:
    # Programs are compiled when first asked for: those of the tests of engines.
    engine = TextEngine(lm, EngineOptions(slots=2, warm_up=False, waiting_requests=10))
    models = Models()
    models.add(
        ServedModel("tiny", "language_model", lm, engine=engine, fingerprint=model_fingerprint(lm))
    )
    return create_app(models, ServeOptions(session_key=b"k" * 32))


@pytest.fixture(scope="module")
def address(app: Any) -> Iterator[str]:
    with running(app) as address:
        (served,) = app.state.service.models
        assert served.engine.wait_ready(600)
        yield address


@pytest.fixture
def openai_client(address: str) -> Any:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def choices(app: Any, **fields: Any) -> list[dict[str, Any]]:
    answer = ask(app, PATH, {"model": "tiny", **fields})
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["choices"]
    return found


@pytest.mark.usefixtures("address")
def test_texts_are_those_of_generate(app: Any, lm: TextModel) -> None:
    prompts = [PROMPT, "", "zebra "]
    found = choices(app, prompt=prompts, n=2, seed=7, max_tokens=20, temperature=0.8, top_k=5)
    wanted = lm.generate(prompts, n=2, key=7, max_new_tokens=20, temperature=0.8, top_k=5)
    assert [choice["text"] for choice in found] == [text for texts in wanted for text in texts]
    found = choices(app, prompt=PROMPT, seed=7, max_tokens=40, stop=["e", "xy"])
    assert found[0]["text"] == lm.generate(PROMPT, key=7, max_new_tokens=40, stop=["e", "xy"])
    ids = lm.tokenizer.encode(PROMPT).tolist()
    assert choices(app, prompt=ids, seed=7) == choices(app, prompt=PROMPT, seed=7)


@pytest.mark.usefixtures("address")
def test_best_of_is_the_likeliest_of_generate(app: Any, lm: TextModel) -> None:
    found = choices(app, prompt=PROMPT, best_of=4, seed=3, max_tokens=8)
    samples = lm.sample(PROMPT, n=4, key=3, max_new_tokens=8)
    means = [np.mean(sample.logprobs) for sample in samples]
    assert found[0]["text"] == samples[int(np.argmax(means))].text


@pytest.mark.usefixtures("address")
def test_an_echoed_prompt_has_the_scores_of_score(app: Any, lm: TextModel) -> None:
    """As lm-eval asks: the context and the continuation, with one token that is not looked at."""
    (choice,) = choices(app, prompt=PROMPT, echo=True, logprobs=1, max_tokens=1, temperature=0)
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    wanted = lm.score(PROMPT[1:], prompt=PROMPT[:1])
    np.testing.assert_allclose(found["token_logprobs"][1:-1], wanted, rtol=1e-4, atol=1e-5)
    assert choice["text"][: len(PROMPT)] == PROMPT
    for token, likeliest in zip(found["tokens"][1:], found["top_logprobs"][1:], strict=True):
        assert token in likeliest


@pytest.mark.usefixtures("address")
def test_a_session_continues_as_if_the_prompt_were_read_again(app: Any, lm: TextModel) -> None:
    handle = ask(app, "/v1/sessions", {"model": "tiny", "prompt": PROMPT}).json()["session"]
    found = choices(app, prompt=" you", session=handle, seed=5, n=2, return_session=True)
    wanted = lm.generate(f"{PROMPT} you", n=2, key=5, max_new_tokens=16)
    assert [choice["text"] for choice in found] == wanted
    (again,) = choices(app, session=found[1]["session"], seed=6)
    assert again["text"] == lm.generate(f"{PROMPT} you{wanted[1]}", key=6, max_new_tokens=16)


def test_openais_client_reads_whole_texts(openai_client: Any, lm: TextModel) -> None:
    assert [model.id for model in openai_client.models.list()] == ["tiny"]
    assert openai_client.models.retrieve("tiny").owned_by == "jaxgen"
    done = openai_client.completions.create(
        model="tiny", prompt=PROMPT, seed=1, logprobs=2, max_tokens=5, n=2, extra_body={"top_k": 4}
    )
    wanted = lm.generate(PROMPT, n=2, key=1, max_new_tokens=5, top_k=4)
    assert [choice.text for choice in done.choices] == wanted
    assert done.usage.completion_tokens == 10
    assert len(done.choices[0].logprobs.top_logprobs) == 5
    assert done.choices[0].finish_reason == "length"


def test_openais_client_reads_streams(openai_client: Any, lm: TextModel) -> None:
    events = list(
        openai_client.completions.create(
            model="tiny",
            prompt=PROMPT,
            seed=1,
            max_tokens=50,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.text for event in events for choice in event.choices)
    assert text == lm.generate(PROMPT, key=1, max_new_tokens=50)
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens == 50
    assert len(events) > 3


def test_openais_client_understands_faults(openai_client: Any, app: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="there is no model `dmo`") as caught:
        openai_client.completions.create(model="dmo", prompt="")
    assert caught.value.param == "model"
    with pytest.raises(openai.UnprocessableEntityError, match="`temperature`"):
        openai_client.completions.create(model="tiny", prompt="", temperature=-1)
    with pytest.raises(openai.NotFoundError, match="no chat template"):
        openai_client.chat.completions.create(model="tiny", messages=[])
    with pytest.raises(openai.RateLimitError, match="too much is waiting"):
        openai_client.completions.create(model="tiny", prompt="", n=20, max_tokens=4000)
    asyncio.run(_idle(app))  # those that were taken before the refusal have left


def test_openais_client_may_leave_a_stream(openai_client: Any, app: Any) -> None:
    with openai_client.completions.create(
        model="tiny", prompt="", max_tokens=4000, stream=True
    ) as stream:
        next(iter(stream))
    asyncio.run(_idle(app))


@pytest.mark.usefixtures("address")
def test_clients_that_leave_free_their_slots(app: Any) -> None:
    """And disturb nobody: who stays gets the text of `generate`."""
    (served,) = app.state.service.models
    wanted = served.model.generate(PROMPT, key=2, max_new_tokens=200)

    async def leave() -> None:
        stays = asyncio.ensure_future(
            send(app, PATH, {"model": "tiny", "prompt": PROMPT, "seed": 2, "max_tokens": 200})
        )
        for count in range(30):
            body = {"model": "tiny", "prompt": "a", "max_tokens": 4000, "stream": count % 2 == 0}
            await send(app, PATH, body, leave=lambda sent, most=count % 3: len(sent) >= most)
        assert (await stays).json()["choices"][0]["text"] == wanted

    asyncio.run(leave())
    asyncio.run(_idle(app))


async def _idle(app: Any) -> None:
    """Wait until nothing is in a slot, for a second."""
    (served,) = app.state.service.models
    for _ in range(100):
        counters = served.engine.metrics()
        if counters.active == counters.waiting == counters.tokens_ahead == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{counters.active} slots and {counters.waiting} requests are left")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.peers("lm_eval", "aiohttp")
def test_lm_eval_gets_the_scores_of_score(address: str, lm: TextModel) -> None:
    """Its `local-completions` sends tokens and reads the log-probabilities of the echo."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    class Client(LocalCompletionsAPI):
        """With our tokenizer in the place of one of the hub."""

        def tok_encode(self, string: str, **unused: Any) -> list[int]:
            return lm.tokenizer.encode(string).tolist()

        @property
        def eot_token_id(self) -> int:
            return int(lm.tokenizer.start_id)

    client = Client(
        base_url=f"{address}/v1/completions",
        model="tiny",
        tokenizer_backend=None,
    )
    client.tokenizer = lm.tokenizer  # only looked at to see that there is one
    client.tokenized_requests = True
    pairs = [("hello", " there"), ("a", "zebra"), ("the cat", " sat")]
    likely = lm.generate("once", temperature=0.0, max_new_tokens=3)
    pairs.append(("once", likely))
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    for (context, text), (found, greedy) in zip(pairs, client.loglikelihood(asked), strict=True):
        scores = lm.score(text, prompt=context)
        np.testing.assert_allclose(found, scores.sum(), rtol=1e-4)
        assert greedy == (text == likely)

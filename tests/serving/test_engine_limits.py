"""An engine's limits: what it refuses, a full queue, being stopped, failing."""

import asyncio

import pytest
from generation.text_models import make_labelled_model, make_model
from generation.toy_models import markov_step
from serving.engines import answer, collect, make_engine, make_generation

from jaxgen.errors import UserError
from jaxgen.generation.text import TextModel
from jaxgen.serving.requests import FullError, StoppedError


@pytest.fixture(scope="module")
def lm():
    return make_model()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 1.3}, r"`top_p` must be in \(0, 1\], got 1.3"),
        ({"heat": 1}, "there is no option `heat`"),
        ({"key": 1}, "there is no option `key`"),
        ({"top_k": 2, "max_top_k": 4}, "there is no option `max_top_k`"),
        ({"temperature": [1, 2]}, "`temperature` must be one value for a text"),
        ({"prompt": (3, 99)}, r"`prompt` must hold token ids in \[0, 28\), got 99"),
        ({"prompt": (-1,)}, r"`prompt` must hold token ids in \[0, 28\), got -1"),
        ({"max_new_tokens": -1}, "`max_new_tokens` must be a whole number of at least 0, got -1"),
        ({"num_logprobs": 6}, r"`num_logprobs` must be in \[0, 5\], got 6"),
        ({"tokens_per_chunk": 0}, "`tokens_per_chunk` must be a whole number of at least 1, got 0"),
        ({"seed": 2**40}, r"a seed `key` must be in"),
        ({"seed": 1.5}, "`seed` must be a whole number"),
        ({"stop": ("",)}, "`stop` must hold strings that are not empty"),
        ({"label": "joy"}, "this model has no labels"),
        ({"guidance": 2.0}, "`guidance` must be left out"),
        ({"top_k": 29}, "`top_k` must be at most the vocabulary"),
        ({"banned_tokens": [28]}, "`banned_tokens` must be in"),
        ({"stop_tokens": list(range(17))}, "`stop_tokens` must hold at most 16 tokens here"),
    ],
)
def test_bad_settings_are_refused_at_once(lm, options, message):
    engine = make_engine(lm)
    with pytest.raises(UserError, match=message):
        engine.check(make_generation(lm, **options))


def test_states_of_other_models_are_refused(lm):
    engine, other = make_engine(lm), make_labelled_model()
    for state in (other.prefill("a"), lm.prefill(["a", "b"])):
        with pytest.raises(UserError, match="`after` must"):
            engine.check(make_generation(lm, "a", after=state))


def test_a_carry_that_rows_share_is_refused(lm):
    model = TextModel(lm.params, None, lm.tokenizer, markov_step, None, lambda *_: 0)
    with pytest.raises(UserError, match="scalars that all rows share cannot be served"):
        make_engine(model)


def test_the_queue_is_bounded_by_requests_and_by_tokens(lm):
    async def run():
        engine = make_engine(lm, slots=1, waiting_requests=1, waiting_tokens=100)
        with pytest.raises(UserError, match="top_p"):
            engine.submit(make_generation(lm, "a", 5, top_p=3))
        big = engine.submit(make_generation(lm, "a", 500))  # alone: always accepted
        with pytest.raises(FullError, match="501 tokens") as full:
            engine.submit(make_generation(lm, "a", 5))
        assert 1 <= full.value.retry_after <= 60
        await big.aclose()
        engine._turn()
        kept = [engine.submit(make_generation(lm, "a", 5)) for _ in range(2)]
        with pytest.raises(FullError, match="2 requests"):
            engine.submit(make_generation(lm, "a", 5))
        counted = engine.metrics()
        assert (counted.waiting, counted.tokens_ahead) == (2, 12)
        assert counted.requests == {"cancelled": 1, "full": 2}
        engine.start()
        assert [len((await collect(one)).tokens) for one in kept] == [5, 5]
        engine.submit(make_generation(lm, "a", 5))
        await engine.stop()
        assert engine.metrics().requests["length"] == 3

    asyncio.run(run())


def test_a_stopped_engine_finishes_or_refuses_what_it_has(lm):
    async def run(grace):
        engine = make_engine(lm, slots=1, waiting_tokens=10**7)
        first = engine.submit(make_generation(lm, "a", 3))
        second = engine.submit(make_generation(lm, "a", 10**6))
        engine.start()
        assert len((await collect(first)).tokens) == 3
        stopping = asyncio.ensure_future(engine.stop(grace))
        await asyncio.sleep(0.02)
        with pytest.raises(StoppedError, match="takes no more requests"):
            engine.submit(make_generation(lm, "a", 3))
        if grace:
            await second.aclose()  # nothing is left then: no need to wait for the grace to end
        else:
            with pytest.raises(StoppedError, match="stopped before"):
                await collect(second)
        await stopping
        assert not engine.ready
        assert engine.failure is None

    asyncio.run(run(0))
    asyncio.run(run(60))


def test_an_engine_that_was_never_started_refuses_what_it_has(lm):
    async def run():
        engine = make_engine(lm)
        waiting = engine.submit(make_generation(lm))
        engine.close()
        with pytest.raises(StoppedError):
            await collect(waiting)

    asyncio.run(run())


def test_a_thread_that_fails_answers_all_with_an_error(lm):
    async def run():
        engine = make_engine(lm, slots=1)
        waiting = [engine.submit(make_generation(lm, "a", 50)) for _ in range(3)]
        lane = next(iter(engine._lanes.values()))
        lane.launch = lambda seconds: 1 / 0
        engine.start()
        found = await asyncio.gather(*map(collect, waiting), return_exceptions=True)
        assert [type(error) for error in found] == [StoppedError] * 3
        assert isinstance(found[0].__cause__, ZeroDivisionError)
        assert isinstance(engine.failure, ZeroDivisionError)
        assert not engine.ready
        with pytest.raises(StoppedError):
            engine.submit(make_generation(lm))
        await engine.stop()

    asyncio.run(run())


@pytest.mark.slow
def test_kinds_of_rare_settings_are_bounded(lm):
    engine = make_engine(lm, rare_kinds=1)
    engine.start()
    answer(engine, make_generation(lm, "a", 3, typical_p=0.9))
    with pytest.raises(UserError, match="1 kinds of rare settings at most"):
        answer(engine, make_generation(lm, "a", 3, no_repeat_ngram=3))
    answer(engine, make_generation(lm, "a", 3, typical_p=0.5))
    engine.close()

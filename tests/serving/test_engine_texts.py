"""An engine's texts are those of `TextModel.generate`, token for token, whatever else runs."""

import asyncio
import itertools
from functools import partial

import jax
import numpy as np
import pytest
from generation.text_models import make_labelled_model, make_model
from generation.toy_models import log_softmax, lstm_carry, lstm_step
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.engines import answer, answers, collect, make_engine, make_generation

from jaxgen.errors import UserError
from jaxgen.generation import carry as carries
from jaxgen.generation.constrained_text import constrained_model
from jaxgen.generation.utf8 import utf8_automaton

LENGTH = 21
PROMPT = "abc"
# Few structures, so that few programs of the reference are compiled; values differ by text.
SETTINGS = (
    {"temperature": 0.8},
    {"temperature": 1.2, "top_k": 5, "top_p": 0.8, "min_p": 0.02},
    {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2},
)


@pytest.fixture(scope="module")
def lm():
    return make_model()


@pytest.fixture(scope="module")
def running(lm):
    engine = make_engine(lm)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(lm):
    """Texts of a prompt by setting, seed and row."""
    found = {}
    for number, options in enumerate(SETTINGS):
        for seed in (0, 1):
            rows = lm.sample(PROMPT, n=3, max_new_tokens=LENGTH, key=seed, **options)
            found |= {(number, seed, row): sample for row, sample in enumerate(rows)}
    return found


def asked(lm, number, seed, row):
    return make_generation(lm, PROMPT, LENGTH, seed=seed, row=row, **SETTINGS[number])


names = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2))
joining = st.lists(
    st.tuples(names, st.integers(0, 3), st.one_of(st.none(), st.integers(0, 2))),
    min_size=1,
    max_size=7,
)


@settings(max_examples=25)
@given(joining)
def test_joins_and_leaves_change_no_text(lm, expected, engine_by_hand, plan):
    """Texts join some turns after each other; some are given up after some turns."""

    async def run():
        engine, waiting = engine_by_hand, []
        for name, pause, patience in plan:
            waiting.append((name, engine.submit(asked(lm, *name)), patience, engine.turns))
            for _ in range(pause):
                engine.turn()
        for _ in range(1000):
            for _, joined, patience, begin in waiting:
                if patience is not None and engine.turns - begin >= patience:
                    await joined.aclose()
            if not engine.busy:
                break
            engine.turn()
        await asyncio.sleep(0)
        for name, joined, patience, _ in waiting:
            if patience is None:
                found = await collect(joined)
                assert (found.text, found.tokens) == expected[name][:2]
        engine.check_empty()

    asyncio.run(run())


class ByHand:
    """An engine whose thread's turns a test takes itself."""

    def __init__(self, lm):
        self.engine = make_engine(lm)
        self.lane = next(iter(self.engine._lanes.values()))
        self.lane.warm_up(False)
        self.turns = 0
        self.submit = self.engine.submit

    @property
    def busy(self):
        return bool(self.engine._accepted or self.engine._events)

    def turn(self):
        if self.busy:
            self.engine._turn()
        self.turns += 1

    def check_empty(self):
        assert self.lane.free == self.lane.size
        assert not self.lane.texts
        assert self.engine.metrics().tokens_ahead == 0


@pytest.fixture(scope="module")
def engine_by_hand(lm):
    return ByHand(lm)


def test_a_text_given_up_frees_its_slot_at_the_next_turn(lm, engine_by_hand):
    async def run():
        engine = engine_by_hand
        slow = [engine.submit(make_generation(lm, "a", 500)) for _ in range(3)]
        engine.turn()
        assert engine.lane.free == 0
        assert engine.engine.metrics().waiting == 1
        await slow[0].aclose()
        await slow[1].aclose()
        engine.turn()
        assert engine.lane.free == 1
        assert [text.answer for text in engine.lane.texts] == [slow[2]]
        await slow[2].aclose()
        await slow[2].aclose()
        engine.turn()
        engine.check_empty()

    asyncio.run(run())


def test_a_dispatch_makes_what_fits_its_time(lm, engine_by_hand, monkeypatch):
    """Steps, and how much is read, follow from what they were measured to take."""

    async def run():
        engine, lane, made = engine_by_hand, engine_by_hand.lane, []
        step, read = lane._step, lane._read
        monkeypatch.setattr(lane, "_step", lambda *a: made.append(a[1]) or step(*a))
        monkeypatch.setattr(lane, "_read", lambda *a: made.append(a[1].shape[1]) or read(*a))
        answer = engine.submit(make_generation(lm, "ab" * 20, 100))
        for seconds, dispatch in (
            (1.0, [16]),  # reads in short pieces what long ones would take long for
            (1.0, [16]),
            (1.0, [16, 1]),  # and always does something
            (0.004, [3]),
            (1e-5, [16]),
        ):
            lane._seconds.update(dict.fromkeys(lane._seconds, seconds))
            lane._seconds["read", 1, 128, None] = seconds
            lane._seconds["step", 1, lane._programs[0]] = seconds
            made.clear()
            engine.turn()
            assert made == dispatch
        await answer.aclose()
        engine.turn()
        engine.check_empty()

    asyncio.run(run())


def test_fewer_texts_run_smaller_programs(lm, monkeypatch):
    """As texts end, others go on in programs of fewer rows, and nothing shows of it."""
    engine, used = make_engine(lm, slots=6), []
    lane = next(iter(engine._lanes.values()))
    step = lane._step
    monkeypatch.setattr(lane, "_step", lambda *a: used.append(len(a[0])) or step(*a))
    lengths = (4, 20, 20, 36, 36, 60)
    engine.start()
    texts = [make_generation(lm, "abc", n, seed=1, row=row) for row, n in enumerate(lengths)]
    found = answers(engine, texts)
    engine.close()
    rows = lm.sample("abc", n=6, max_new_tokens=60, key=1)
    assert [one.tokens for one in found] == [
        row.tokens[:n] for row, n in zip(rows, lengths, strict=True)
    ]
    assert set(used) == {6, 4, 1}


def test_stop_strings_never_show(lm, running):
    free = lm.generate("abc", max_new_tokens=60, key=3)
    for stop in (free[20:23], free[30:31], "never ever"):
        options = {"max_new_tokens": 60, "stop": (stop, "zzzz")}
        found = answer(running, make_generation(lm, "abc", seed=3, tokens_per_chunk=1, **options))
        # Row 0 of a list has the key of a text by itself.
        want = lm.sample("abc", key=3, **options)
        assert (found.text, found.tokens) == (want.text, want.tokens)
        assert found.reason == ("stop" if stop in free else "length")
        shown = list(itertools.accumulate(found.pieces))
        assert not any(stop in text for text in shown)


def test_chunks_are_as_large_as_asked_for(lm, running):
    wanted = lm.generate("abc", max_new_tokens=48)
    for size, most in ((None, 1), (1, 48), (16, 48)):
        found = answer(running, make_generation(lm, "abc", 48, tokens_per_chunk=size))
        assert found.text == wanted
        assert (1 if size is None else 2) <= len(found.pieces) <= most


def test_logprobs_are_those_of_the_model(lm, running):
    generation = make_generation(
        lm, "hello", 6, temperature=0.5, num_logprobs=2, score_prompt=True, tokens_per_chunk=1
    )
    found = answer(running, generation)
    carry, wanted = lstm_carry(1), []
    for token in [*generation.prompt, *found.tokens][:-1]:
        carry, logits = lstm_step(lm.params, carry, np.array([token]))
        wanted.append(log_softmax(logits)[0])
    given, read = np.array(wanted[4:]), np.array(wanted[:4])
    for place, (row, token) in enumerate(zip(given, found.tokens, strict=True)):
        np.testing.assert_allclose(found.logprobs[place], row[token], rtol=1e-5)
        assert list(found.top[place]) == np.argsort(-row)[:2].tolist()
        np.testing.assert_allclose(list(found.top[place].values()), np.sort(-row)[:2] * -1, 1e-5)
    assert found.prompt.logprobs[0] is None
    assert found.prompt.top[0] is None
    scores = [row[token] for row, token in zip(read, generation.prompt[1:], strict=True)]
    np.testing.assert_allclose(found.prompt.logprobs[1:], scores, rtol=1e-5)
    assert list(found.prompt.top[1]) == np.argsort(-read[0])[:2].tolist()


def test_prompts_alone_are_scored_as_score_does(lm, running):
    text = "the quick brown fox jumps" * 7  # several segments
    options = {"score_prompt": True, "max_new_tokens": 0}
    found = answer(running, make_generation(lm, text, **options))
    assert found.tokens == []
    np.testing.assert_allclose(found.prompt.logprobs[1:], lm.score(text[1:], prompt=text[0]), 1e-5)
    again = answer(running, make_generation(lm, text[1:], after=lm.prefill(text[0]), **options))
    np.testing.assert_allclose(again.prompt.logprobs, found.prompt.logprobs[1:], rtol=1e-5)


def test_a_state_continues_the_text(lm, running):
    """Where a text ended by its length, at a stop string, or was never begun."""
    whole = lm.generate("abc", max_new_tokens=20, temperature=0)
    options = {"temperature": 0, "return_state": True}
    for first in (
        make_generation(lm, "abc", 7, **options),
        make_generation(lm, "abc", 20, stop=(whole[9:12],), **options),
        make_generation(lm, "abc", 0, **options),
    ):
        found = answer(running, first)
        rest = whole[len(found.text) :]
        state = lm.prefill("abc" + found.text)
        # Read by other programs, of which only the tests' fast compilation makes the same bits.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found.state, state)
        more = make_generation(lm, "", len(rest), temperature=0, after=found.state)
        forks = answers(running, [more, more, make_generation(lm, "x", 3, after=found.state)])
        assert [fork.text for fork in forks[:2]] == [rest, rest]
        assert forks[2].text == lm.generate("x", max_new_tokens=3, after=state)


def test_many_are_given_up_and_no_slot_is_lost(lm, running):
    rng = np.random.default_rng(0)

    async def one(seed):
        async with running.submit(make_generation(lm, "ab", 200, seed=seed)) as found:
            for _ in range(rng.integers(3)):
                await anext(found)

    async def run():
        await asyncio.gather(*(one(seed) for seed in range(60)))
        found = await collect(running.submit(make_generation(lm, "abc", 9, seed=0)))
        assert found.text == lm.generate("abc", max_new_tokens=9)

    asyncio.run(run())
    lane = next(iter(running._lanes.values()))
    assert lane.free == lane.size
    assert running.metrics().tokens_ahead == 0


def test_a_model_without_numbers_fails_its_text_alone(lm, running):
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), lm.prefill("a").carry)
    state = carries.PromptState(broken, np.array([1], np.int32))
    with pytest.raises(UserError, match="NaN at step 1"):
        answer(running, make_generation(lm, "", after=state))
    assert answer(running, make_generation(lm, "", 5)).text == lm.generate("", max_new_tokens=5)


@pytest.mark.slow
def test_settings_of_rare_kinds_and_lists_are_those_of_generate(lm, running):
    for options in (
        {"typical_p": 0.8, "top_p": 0.9},
        {"no_repeat_ngram": 2, "temperature": 0.3},
        {"stop_tokens": [3, 5], "min_new_tokens": 4, "banned_tokens": [0, 7]},
        {"forced_tokens": [4, -1, 6]},
    ):
        rows = lm.sample("abcabc", n=2, max_new_tokens=30, key=4, **options)
        found = answers(
            running,
            [make_generation(lm, "abcabc", 30, seed=4, row=row, **options) for row in range(2)],
        )
        assert [(one.text, one.tokens) for one in found] == [row[:2] for row in rows]
        assert [one.reason == "stop" for one in found] == [row.finished for row in rows]


@pytest.mark.slow
def test_top_k_of_a_large_vocabulary_is_that_of_generate():
    words = " ".join(f"w{number}" for number in range(2500))
    lm = make_model("word", text=words)
    engine = make_engine(lm, slots=3)
    engine.start()
    asked = [{"top_k": 5}, {"top_k": 20}, {}]
    found = answers(engine, [make_generation(lm, "w1 w2", 12, seed=2, **one) for one in asked])
    assert [one.text for one in found] == [
        lm.generate("w1 w2", max_new_tokens=12, key=2, **one) for one in asked
    ]
    engine.close()
    assert len(engine._lanes) == 3


@pytest.mark.slow
def test_labels_and_guidance_are_those_of_generate():
    lm = make_labelled_model()
    engine = make_engine(lm, slots=3)
    engine.start()
    asked = [{"label": "joy"}, {}, {"label": "joy=0.7,fear=0.3", "guidance": 2.0}]
    found = answers(
        engine, [make_generation(lm, "ab", 20, seed=7, return_state=True, **one) for one in asked]
    )
    for one, options in zip(found, asked, strict=True):
        assert one.text == lm.generate("ab", max_new_tokens=20, key=7, **options)
    more = answer(engine, make_generation(lm, "a", 9, after=found[-1].state))
    after = lm.prefill("ab" + found[-1].text, **asked[-1])
    assert more.text == lm.generate("a", max_new_tokens=9, after=after)
    engine.close()


@pytest.mark.slow
def test_bytes_are_whole_characters():
    plain = make_model("byte", text="aéß漢字")
    lm = constrained_model(plain, utf8_automaton(plain.tokenizer.vocab_size))
    engine = make_engine(lm, slots=3)
    engine.start()
    asked = [make_generation(lm, "aé", 40, seed=seed, tokens_per_chunk=1) for seed in range(4)]
    found = answers(engine, asked)
    for seed, one in enumerate(found):
        assert one.text == lm.generate("aé", max_new_tokens=40, key=seed)
        assert "\ufffd" not in "".join(one.pieces)
    engine.close()


@pytest.mark.slow
def test_nothing_compiles_after_the_warm_up(lm, expected):
    engine = make_engine(lm, slots=2, warm_up=True)
    engine.start()
    assert engine.wait_ready()
    state = lm.prefill("abc")
    compiled, watching = [], True

    def listen(name, seconds, **about):
        if watching and "compile" in name:
            compiled.append((name, about))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        asked_for = [asked(lm, number, 0, row) for number in range(3) for row in range(3)]
        asked_for += [
            make_generation(lm, "", 5, num_logprobs=5, score_prompt=True),
            make_generation(lm, "abc" * 100, 0, score_prompt=True, num_logprobs=1),
            make_generation(lm, "abc" * 50, 40, stop=("q",), return_state=True),
            make_generation(lm, "a", 3, after=state, return_state=True),
            make_generation(lm, "a", 9, stop_tokens=[3, 4, 5], banned_tokens=[6], top_k=3),
        ]
        found = answers(engine, asked_for)
        for first in asked_for:
            answer(engine, first)
    finally:
        watching = False
    engine.close()
    assert [one.tokens for one in found[:3]] == [expected[0, 0, row].tokens for row in range(3)]
    assert compiled == []

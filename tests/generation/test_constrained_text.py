"""Text models held to an automaton, against brute force over all texts."""

import itertools
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from generation.text_models import make_model
from generation.toy_models import log_softmax, lstm_carry, lstm_params, lstm_prefill, lstm_step

from jaxgen.errors import UserError
from jaxgen.generation.automata import make_automaton
from jaxgen.generation.constrained_text import constrained_model
from jaxgen.generation.guidance import Guidance, GuidedInitialCarry, guided
from jaxgen.generation.joined import ensemble_model
from jaxgen.generation.utf8 import utf8_automaton

pytestmark = pytest.mark.slow

LETTERS = "abc."
FAST = jax.jit(lstm_step)
BYTES = make_model("byte", "")
FREE = make_model("char", LETTERS)
ID = {letter: int(FREE.tokenizer.encode(letter)[0]) for letter in LETTERS}


def table(rows):
    """Transitions by letters."""
    found = np.full((len(rows), FREE.tokenizer.vocab_size), -1)
    for state, row in enumerate(rows):
        for letter, after in row.items():
            found[state, ID[letter]] = after
    return found


# (ab)* c, and b alone; nothing follows either.
ROWS = [{"a": 1, "b": 3, "c": 2}, {"b": 4}, {}, {}, {"a": 1, "c": 2}]
DONE = np.array([False, False, True, True, False])
PATTERN = re.compile("(ab)*c|b")
SIZE = FREE.tokenizer.vocab_size
LM = constrained_model(FREE, make_automaton(table(ROWS), DONE, SIZE), SIZE)
# Any letters, then a point that the model ends with; the point is no part of the text.
WORDS = [{"a": 0, "b": 0, "c": 0}]
ENDED = constrained_model(
    FREE, make_automaton(table(WORDS), np.array([True]), ID["."]), end_token=ID["."]
)


def own_logprobs(prompt, text):
    """The model's own log-probabilities of the characters of a text, step by step."""
    carry, found = lstm_carry(1), []
    for place, letter in enumerate((prompt + text)[:-1]):
        carry, logits = FAST(FREE.params, carry, np.array([ID[letter]]))
        if place >= len(prompt) - 1:
            found.append(log_softmax(logits[0])[ID[text[place - len(prompt) + 1]]])
    return found


def test_texts_match_and_end_where_nothing_may_follow():
    for sample in LM.sample("ab", n=40, max_new_tokens=9, key=1):
        assert sample.finished == bool(PATTERN.fullmatch(sample.text))
        assert sample.finished or re.fullmatch("(ab)*a?", sample.text)
        assert FREE.tokenizer.decode(sample.tokens) == sample.text
    assert len({sample.text for sample in LM.sample("ab", n=40, max_new_tokens=9, key=1)}) > 2


def test_log_probabilities_are_the_models_own():
    for sample in (*LM.sample("ab", n=5, max_new_tokens=9), *ENDED.sample("ab", n=5, key=2)):
        text = FREE.tokenizer.decode(sample.tokens)
        np.testing.assert_allclose(sample.logprobs, own_logprobs("ab", text), rtol=0, atol=1e-5)
    for model in (LM, FREE):
        found = model.score("cca", prompt="b")
        np.testing.assert_allclose(found, own_logprobs("b", "cca"), rtol=0, atol=1e-5)


def test_the_likeliest_of_what_is_left_is_chosen():
    text = ""
    while not PATTERN.fullmatch(text) and len(text) < 9:
        legal = [
            letter
            for letter in "abc"
            if PATTERN.fullmatch(text + letter) or re.fullmatch("(ab)*a?", text + letter)
        ]
        text += max(legal, key=lambda letter, text=text: own_logprobs("b", text + letter)[-1])
    assert LM.generate("b", temperature=0.0, max_new_tokens=9) == text


def test_the_end_token_is_no_part_of_the_text():
    samples = ENDED.sample("b", n=20, max_new_tokens=30, key=3, logprobs=False)
    assert any(sample.finished for sample in samples)
    for sample in samples:
        assert set(sample.text) <= set("abc")
        assert sample.finished == (sample.tokens[-1] == ID["."])
        assert len(sample.text) == len(sample.tokens) - sample.finished
    assert "".join(ENDED.stream("b", max_new_tokens=30, key=3)) == ENDED.generate(
        "b", max_new_tokens=30, key=3
    )


def test_a_row_alone_is_the_same_row_in_any_batch_and_in_any_division_into_calls():
    texts = LM.generate(["a", "bc", "", "cab"], n=2, max_new_tokens=9)
    assert LM.generate("a", max_new_tokens=9, n=2) == texts[0]
    long = constrained_model(FREE, make_automaton(table([{"a": 1}, {"b": 0}]), np.ones(2, bool)))
    assert long.generate("c", max_new_tokens=150, stop="ba" * 80) == "ab" * 75  # three chunks
    state = LM.prefill("bc")
    for key in range(3):
        after = LM.generate("", after=state, max_new_tokens=9, key=key)
        assert after == LM.generate("bc", max_new_tokens=9, key=key)


@pytest.mark.parametrize("lm", [LM, ENDED], ids=["without an end", "with one"])
def test_a_beam_finds_the_likeliest_texts_by_the_models_own_probabilities(lm):
    """All texts of at most four tokens, by brute force; the beam is wide enough to miss none."""
    every = {"".join(x) for n in range(1, 5) for x in itertools.product("abc", repeat=n)}
    if lm is LM:
        complete = {text for text in every if PATTERN.fullmatch(text)}
        running = {"abab"}
    else:
        complete = {text + "." for text in {"", *every} if len(text) < 4}
        running = {text for text in every if len(text) == 4}
    scores = {text: sum(own_logprobs("ab", text)) for text in complete | running}
    wanted = sorted(scores, key=scores.__getitem__, reverse=True)
    found = lm.beam_search("ab", num_beams=128, max_new_tokens=4, n=9, length_penalty=0.0)
    wanted = wanted[: len(found)]
    assert len(found) == min(9, len(scores))
    assert [beam.text for beam in found] == [text.rstrip(".") for text in wanted]
    for beam, text in zip(found, wanted, strict=True):
        assert beam.logprob == pytest.approx(scores[text], abs=1e-4)


def test_stop_strings_and_random_searches_are_held_to_it_too():
    stopped = LM.beam_search("b", num_beams=8, n=3, max_new_tokens=8, stop=["ba"])
    assert all(re.fullmatch("(ab)*c|b|a", beam.text) for beam in stopped)
    drawn = LM.beam_search("b", num_beams=3, n=3, max_new_tokens=8, sampled=True)
    assert len({beam.text for beam in drawn}) == len(drawn)
    for beam in drawn:
        assert PATTERN.fullmatch(beam.text) or re.fullmatch("(ab)*a?", beam.text)


def test_ensembles_and_guided_models_are_held_to_it():
    other = replace(FREE, params=lstm_params(jax.random.key(9), SIZE))
    joined = ensemble_model([FREE, other], [2, 1])
    step, read = guided(FREE.step_fn), guided(lstm_prefill)
    start = GuidedInitialCarry(lambda params, size, condition: lstm_carry(size))

    def first(params, batch_size, condition):
        zeros = np.zeros((batch_size, 1), np.int32)
        guidance = Guidance(zeros, zeros[:, 0], np.full((batch_size, 1), 2.0, np.float32))
        return start(params, batch_size, guidance)

    strong = replace(FREE, step_fn=step, prefill_fn=read, initial_carry=first)
    for model in (joined, strong):
        held = constrained_model(model, make_automaton(table(ROWS), DONE, SIZE), SIZE)
        for sample in held.sample("ab", n=8, max_new_tokens=9):
            assert sample.finished == bool(PATTERN.fullmatch(sample.text))
            free = model.score(sample.text, prompt="ab")
            np.testing.assert_allclose(sample.logprobs, free, rtol=0, atol=1e-5)


def test_a_byte_model_writes_whole_characters_even_where_it_is_cut_short():
    lm = constrained_model(BYTES, utf8_automaton())
    broken = 0
    for sample in lm.sample("é", n=24, max_new_tokens=7, key=5):
        data = bytes(sample.tokens)
        assert "\ufffd" not in sample.text
        assert data.decode(errors="ignore") == sample.text
        broken += len(sample.text.encode()) < len(data)
    assert broken  # some were cut within a character
    assert any("\ufffd" in text for text in BYTES.generate("é", n=24, max_new_tokens=7, key=5))
    found = lm.beam_search("é", num_beams=4, n=4, max_new_tokens=5)
    assert not any("\ufffd" in beam.text for beam in found)


def test_other_tokens_of_a_byte_model_come_between_characters():
    automaton = utf8_automaton(258)
    legal = automaton.transitions[:, automaton.classes[256:]] >= 0
    np.testing.assert_array_equal(legal, np.stack([automaton.accepting] * 2, axis=1))
    assert constrained_model(BYTES, utf8_automaton(256)).constraint.end_token is None


def test_an_automaton_of_another_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"over the 256 tokens of the model .* got one over 258"):
        constrained_model(BYTES, utf8_automaton(258))

"""Stop strings on the device: the automaton against plain search, beams against enumeration."""

import itertools
import string

import jax
import numpy as np
import pytest
from generation.text_models import make_model

from jaxgen.config import TokenizerConfig
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.generation.stop_automaton import stop_automaton
from jaxgen.generation.stop_strings import StopStrings

TEXT = "abab aab bca\ncab abc aé bcb ab\n" * 4
TOKENIZERS = {
    kind: build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), [TEXT])
    for kind, size in (("char", None), ("byte", None), ("word", None), ("bpe", 270))
}


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_a_state_knows_when_a_stop_string_is_complete(kind):
    """On random tokens it is complete at the very token where it first stands in the text."""
    tokenizer, rng = TOKENIZERS[kind], np.random.default_rng(0)
    found = 0
    for stops in (("ab",), ("aba", "b c", "bb"), ("é", "\nab"), ("abab", "ab a", "a b")):
        automaton = stop_automaton(tokenizer, stops)
        for _ in range(60):
            tokens = rng.integers(tokenizer.vocab_size, size=30)
            if kind in ("byte", "bpe"):
                tokens = rng.choice([*tokenizer.encode(TEXT), *tokens[:3]], size=30)
            context, rest = tokens[:3], tokens[3:]
            decoder, text = tokenizer.decoder(), StopStrings(stops)
            decoder.push(context)
            state = automaton.table[automaton.start(tokenizer, context), context[-1]]
            for token in rest:
                state = automaton.table[state, token]
                text.push(decoder.push([token]))
                assert (state == len(automaton.table) - 1) == text.found
                if text.found:
                    assert token in automaton.completing
                    found += 1
                    break
    assert found > 20


def test_a_stop_string_that_no_text_holds_needs_no_automaton():
    assert stop_automaton(TOKENIZERS["char"], ("xyz",)) is None


def enumerate_texts(lm, prompt, stop, length):
    """All texts of letters of at most `length` tokens that end with a stop string, or run on."""
    letters = sorted(set(lm.tokenizer.decode(range(lm.tokenizer.vocab_size))) - {"\ufffd"})
    texts = set()
    for word in itertools.product(letters, repeat=length):
        text = "".join(word)
        place = text.find(stop)
        texts.add(text if place < 0 else text[: place + len(stop)])
    texts = sorted(texts)
    scores = lm.score(texts, prompt=prompt)
    return {text: float(score.sum()) for text, score in zip(texts, scores, strict=True)}


@pytest.mark.slow
def test_beams_that_are_wide_enough_find_the_best_texts_that_stop():
    lm = make_model(text="abc")
    stop = lm.generate("c", max_new_tokens=3, temperature=0)[1:]
    wanted = enumerate_texts(lm, "c", stop, 4)
    for penalty in (0.0, 1.0):
        beams = lm.beam_search(
            "c",
            num_beams=81,
            n=12,
            max_new_tokens=4,
            stop=stop,
            length_penalty=penalty,
        )
        ranked = sorted(wanted, key=lambda text: -wanted[text] / len(text) ** penalty)[:12]
        assert [beam.text for beam in beams] == [text.removesuffix(stop) for text in ranked]
        for beam, text in zip(beams, ranked, strict=True):
            np.testing.assert_allclose(
                beam.score, wanted[text] / len(text) ** penalty, rtol=1e-4, atol=1e-5
            )
            assert lm.tokenizer.decode(beam.tokens) == beam.text
            said = lm.score(beam.text, prompt="c").sum() if beam.text else 0.0
            np.testing.assert_allclose(beam.logprob, said, rtol=1e-4, atol=1e-5)
    assert 0 < sum(stop in text for text in ranked) < len(ranked)


def test_sampled_beams_end_at_stop_strings_too():
    lm = make_model(text="abc")
    texts = lm.beam_search(
        ["c", "a"], num_beams=8, n=8, max_new_tokens=6, stop=["ba", "cc"], sampled=True, key=3
    )
    for beams in texts:
        assert len({(beam.text, len(beam.tokens) < 6) for beam in beams}) == len(beams)
        for beam in beams:
            assert "ba" not in beam.text
            assert "cc" not in beam.text
            assert len(beam.tokens) == len(beam.text)
    assert any(len(beam.text) < 5 for beams in texts for beam in beams)


@pytest.mark.slow
def test_beams_obey_bans():
    """Bans and lengths per row; an n-gram of the prompt is not said again."""
    lm = make_model(text="abc")
    ids = {letter: int(lm.tokenizer.encode(letter)[0]) for letter in "abc"}
    for options in ({}, {"sampled": True}):
        texts = lm.beam_search(
            "cab",
            n=4,
            max_new_tokens=5,
            no_repeat_ngram=2,
            banned_tokens=[[ids["c"]], [ids["a"]]],
            **options,
        )
        for beams, banned in zip(texts, "ca", strict=True):
            for beam in beams:
                pairs = [x + y for x, y in itertools.pairwise("cab" + beam.text)]
                assert len(pairs) == len(set(pairs))
                assert banned not in beam.text
                assert "\ufffd" not in beam.text
    stops = {"stop": "a", "stop_tokens": [ids["b"]], "min_new_tokens": 3, "num_beams": 9, "n": 9}
    for beam in lm.beam_search("c", max_new_tokens=4, **stops):
        assert set(beam.text[:2]) == {"c"}
    assert any(len(beam.text) < 4 for beam in lm.beam_search("c", max_new_tokens=4, **stops))
    free = lm.beam_search("c", num_beams=16, n=16, max_new_tokens=2, allow_special=True)
    assert any("\ufffd" in beam.text for beam in free)


def test_options_that_a_search_has_no_use_for_say_why():
    lm = make_model(text=string.ascii_lowercase)
    for options, message in (
        ({"temperature": 0.5}, "`temperature` shapes a random choice"),
        ({"key": 1}, "`key` is for `sampled` texts"),
        ({"sampled": True, "num_groups": 2}, "`num_groups` is not for `sampled` texts"),
        ({"beams": 2}, "there is no option `beams`; there are max_new_tokens"),
        ({"stop": ""}, "`stop` must hold strings that are not empty"),
        ({"n": 5}, "`n` must be in"),
    ):
        with pytest.raises(UserError, match=message):
            lm.beam_search("a", **options)


def test_a_broken_model_finds_no_text():
    lm = make_model(text="abc")
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), lm.params)
    broken = type(lm)(broken, None, lm.tokenizer, lm.step_fn, lm.prefill_fn, lm.initial_carry)
    with pytest.raises(UserError, match="not numbers"):
        broken.beam_search("a", max_new_tokens=2)

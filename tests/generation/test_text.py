"""Strings in, strings out: shapes of answers, buckets, streams, stop strings, states, scores."""

import string
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from generation.text_models import make_model
from generation.toy_models import log_softmax, lstm_carry, lstm_step

from jaxgen.config import TokenizerConfig
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.generation import carry as carries
from jaxgen.generation import programs
from jaxgen.generation.lines import text_before_stop
from jaxgen.generation.requests import make_request
from jaxgen.generation.stop_strings import StopStrings


@pytest.fixture(scope="module")
def lm():
    return make_model()


@pytest.mark.slow
def test_the_shape_of_the_answer_is_that_of_the_question(lm):
    one = lm.generate("abc", max_new_tokens=9)
    assert isinstance(one, str)
    assert len(one) == 9
    assert lm.generate(["abc", "q"], max_new_tokens=9)[0] == one
    two = lm.generate(["abc", "q"], max_new_tokens=9, n=2)
    assert [len(row) for row in two] == [2, 2]
    assert two[0][0] == one
    assert two[0][1] != one
    assert lm.generate("abc", max_new_tokens=9, n=1) == [one]
    grid = lm.generate("abc", max_new_tokens=9, temperature=[1.0, 0.0, 0.0])
    assert grid[0] == one
    assert grid[1] == grid[2]
    assert lm.generate("abc", max_new_tokens=9, key=jax.random.key(0)) == one
    assert lm.generate("abc", max_new_tokens=9, key=1) != one


def test_greedy_text_is_that_of_a_loop(lm):
    carry, text = lstm_carry(1), ""
    for token in lm.tokenizer.encode("hello"):
        carry, logits = lstm_step(lm.params, carry, np.array([token]))
    for _ in range(20):
        token = int(np.argmax(logits))
        text += lm.tokenizer.decode([token])
        carry, logits = lstm_step(lm.params, carry, np.array([token]))
    assert lm.generate("hello", max_new_tokens=20, temperature=0) == text


@pytest.mark.slow
def test_rows_over_devices_are_the_texts_of_one(lm):
    settings = {"temperature": 0.9, "top_p": 0.9, "stop_tokens": [3], "no_repeat_ngram": 4}
    options = {"n": 30, "max_new_tokens": 70, "key": 5, "stop": "zq", **settings}
    assert programs.devices_for(32, lm.params) == jax.local_device_count() == 2
    two = lm.sample("abc", **options)
    bound = replace(lm, params=jax.device_put(lm.params, jax.local_devices()[0]))
    assert programs.devices_for(32, bound.params) == 1
    one = bound.sample("abc", **options)
    assert [sample.tokens for sample in two] == [sample.tokens for sample in one]


def test_a_stream_is_the_text_in_pieces(lm):
    whole = lm.generate("abc", max_new_tokens=50, temperature=0.9, top_p=0.95, key=3)
    for chunk in (1, 7, 64):
        pieces = lm.stream(
            "abc", max_new_tokens=50, chunk=chunk, temperature=0.9, top_p=0.95, key=3
        )
        assert "".join(pieces) == whole
    endless = lm.stream("abc", chunk=16, temperature=0.9, top_p=0.95, key=3)
    assert "".join(next(endless) for _ in range(4))[:50] == whole


@pytest.mark.slow
def test_long_prompts_and_texts_take_several_calls(lm):
    prompt = (string.ascii_lowercase * 50)[:1200]
    by_scan = make_model(prefill_fn=None)
    options = {"max_new_tokens": 600, "temperature": 0.8, "frequency_penalty": 0.01}
    text = lm.generate(prompt, **options)
    assert len(text) == 600
    assert by_scan.generate(prompt, **options)[:40] == text[:40]
    assert lm.generate([prompt, "a"], **options)[0] == text


def test_a_session_compiles_a_handful_of_programs(lm):
    counted = (programs.prefill_prompts, programs.prefill_and_decode, programs.decode_chunk)
    for program in counted:
        program.clear_cache()
    for call in range(100):
        lm.generate(
            "abcdefghijkl" * (1 + call % 3) + "x" * (call % 11),
            max_new_tokens=1 + call % 60,
            key=call,
            temperature=call / 50,
            top_p=1 - call / 200,
        )
    sizes = [program._cache_size() for program in counted]
    assert sizes == [0, 2, 0]  # prompts of up to 16 and 128 tokens


def test_stop_strings_may_straddle_pieces():
    for size in range(1, 8):
        stops = StopStrings(["stop!", "top"])
        text = "no sto, no to; stop! never"
        out = "".join(stops.push(text[i : i + size]) for i in range(0, len(text), size))
        assert out + stops.finish() == "no sto, no to; s"  # `top` is complete before `stop!`
        assert stops.found
    stops = StopStrings("xyz")
    assert [stops.push("ax"), stops.push("y"), stops.push("x")] == ["a", "", "xy"]
    assert stops.finish() == "x"


def test_a_stop_string_ends_the_text_and_the_stream(lm):
    whole = lm.generate("abc", max_new_tokens=200, key=4)
    stop = whole[100:103]
    first = whole[: whole.find(stop)]
    sample = lm.sample("abc", max_new_tokens=200, key=4, stop=stop)
    assert sample.text == first
    assert sample.finished
    assert "".join(lm.stream("abc", key=4, stop=[stop, "never!"])) == first
    two = lm.generate(["abc", "abc"], max_new_tokens=200, key=4, stop=stop)
    assert two[0] == first


def test_tokens_end_where_the_text_ends(lm):
    """Whole tokens before the stop string; the one it begins inside counts where text is in it."""
    for seed in range(3):
        whole = lm.sample("abc", max_new_tokens=200, key=seed)
        for stop in (whole.text[100:103], whole.text[:2], whole.text[150]):
            sample = lm.sample("abc", max_new_tokens=200, key=seed, stop=stop)
            count = whole.text.find(stop)
            assert sample.text == whole.text[:count]
            assert sample.tokens == whole.tokens[:count]
            np.testing.assert_array_equal(sample.logprobs, whole.logprobs[:count])


@pytest.mark.parametrize(
    ("kind", "tokens", "stop", "count"),
    [
        ("bpe", ["the", " cat"], " c", 1),
        ("bpe", ["the", " cat"], "c", 2),
        ("bpe", ["the", " cat"], "the", 0),
        ("bpe", ["the", " cat"], "x", 2),
        ("byte", [*"aé", "b"], "b", 3),
        ("byte", [*"aé", "b"], "é", 1),
        ("word", ["the", "cat", "sat"], " cat", 1),
        ("word", ["the", "cat", "sat"], "cat", 2),
    ],
)
def test_how_many_tokens_hold_the_text(kind, tokens, stop, count):
    config = TokenizerConfig(kind=kind, vocab_size=262 if kind == "bpe" else None)
    tokenizer = build_tokenizer(config, ["the cat sat " * 9])
    text = " ".join(tokens) if kind == "word" else "".join(tokens)
    ids = tokenizer.encode(text)
    if kind == "bpe":
        assert [tokenizer.decode([token]) for token in ids] == tokens
    nothing = np.zeros(0, np.int32)
    said, found = text_before_stop(tokenizer, nothing, ids.tolist(), [stop])
    assert said == text.partition(stop)[0]
    assert found == count


class WithSpecial:
    """A tokenizer with special ids of the test's choice."""

    def __init__(self, tokenizer, ids):
        self.tokenizer, self.special_ids = tokenizer, ids

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_special_tokens_are_not_generated(lm):
    unknown, other = int(lm.tokenizer.unk_id), 3
    plain = replace(lm, tokenizer=WithSpecial(lm.tokenizer, (unknown, other)))
    options = {"max_new_tokens": 120, "n": 8, "temperature": 2.0}
    samples = plain.sample("abc", **options)
    said = {token for sample in samples for token in sample.tokens}
    assert not said & {unknown, other}
    free = plain.sample("abc", allow_special=True, **options)
    assert {unknown, other} <= {token for sample in free for token in sample.tokens}
    own = replace(lm, tokenizer=WithSpecial(lm.tokenizer, ()))
    assert [sample.tokens for sample in free] == [
        sample.tokens for sample in own.sample("abc", **options)
    ]
    ended = plain.sample("abc", stop_tokens=[other], banned_tokens=[5], **options)
    assert any(sample.tokens[-1] == other for sample in ended)
    assert not {unknown, 5} & {token for sample in ended for token in sample.tokens}
    scores = lm.score(samples[0].text, prompt="abc")
    np.testing.assert_allclose(samples[0].logprobs, scores, rtol=1e-4)


def test_tokenizers_without_special_tokens_ban_nothing():
    """So that nothing is added to their loop."""
    byte = build_tokenizer(TokenizerConfig(kind="byte"), [""])
    assert make_request(byte, "a", {}).sampling.banned_tokens is None


def test_a_broken_model_is_an_error_that_names_the_step(lm):
    """After reading `z` the logits are NaN; a text that ended before never gets there."""
    z = int(lm.tokenizer.encode("z")[0])
    embedding = lm.params["embedding"].at[z].set(np.nan)
    broken = replace(lm, params={**lm.params, "embedding": embedding})
    forced = lm.tokenizer.encode("abcz").tolist()
    options = {"max_new_tokens": 200, "forced_tokens": forced}
    for stop in (None, "never!"):
        with pytest.raises(UserError, match="got NaN at step 5 of the text"):
            broken.sample(["q", "r"], stop=stop, **options)
    assert broken.generate(["q", "r"], stop="cz", **options) == ["ab", "ab"]
    stream = broken.stream("q", chunk=2, **options)
    assert [next(stream), next(stream)] == ["ab", "cz"]
    with pytest.raises(UserError, match="got NaN at step 5 of the text"):
        next(stream)


def test_labels_are_checked(lm):
    request = make_request(lm.tokenizer, ["a", "b"], {"label": 2}, num_labels=3)
    assert request.condition.tolist() == [2, 2]
    for label, message in ((3, r"must be in \[0, 3\)"), (-1, "got -1"), (0.5, "got 0.5")):
        with pytest.raises(UserError, match=message):
            make_request(lm.tokenizer, "a", {"label": label}, num_labels=3)
    with pytest.raises(UserError, match="this model has no labels"):
        lm.generate("a", label=0)
    with pytest.raises(UserError, match="`label` is part of the state"):
        make_request(lm.tokenizer, "a", {"label": 1, "after": lm.prefill("a")}, num_labels=3)


def test_streams_never_split_a_character():
    lm = make_model("byte", "한글 emoji 👩‍👩‍👧 é")
    ids = [[b] for b in "글👩é".encode()]
    forced = np.array(ids).ravel().tolist()
    pieces = list(lm.stream("한", max_new_tokens=len(forced), chunk=1, forced_tokens=forced))
    assert pieces == list("글👩é")


def test_a_state_continues_as_the_prompt_would(lm, tmp_path):
    state = lm.prefill("there", after=lm.prefill("hello "))
    wanted = lm.generate("hello there", max_new_tokens=12, key=2)
    assert lm.generate("", after=state, max_new_tokens=12, key=2) == wanted
    forked = lm.generate("", after=carries.fork(state, 3), max_new_tokens=12, key=2)
    assert forked[0] == wanted
    assert lm.generate("", after=state, n=3, max_new_tokens=12, key=2) == forked
    carries.save(tmp_path / "a.npz", state)
    loaded = carries.load(tmp_path / "a.npz", like=lm.prefill("x"))
    assert lm.generate("", after=loaded, max_new_tokens=12, key=2) == wanted
    other = lm.prefill("zzz")
    assert lm.generate("", after=carries.interpolate(state, other, 0.0), key=2)[:12] == wanted
    both = carries.join([state, other])
    half = carries.interpolate(both, carries.take(both, [1, 0]), np.array([0.5, 1.0]))
    np.testing.assert_allclose(
        half.carry[0][0], (state.carry[0][0] + other.carry[0][0]) / 2, rtol=1e-6
    )
    assert half.token.tolist() == [int(other.token[0]), int(state.token[0])]
    with pytest.raises(UserError, match="of another model"):
        carries.load(tmp_path / "a.npz", like=(state.carry,))
    with pytest.raises(UserError, match="no saved state"):
        carries.load(tmp_path / "b.npz", like=state)
    (tmp_path / "c.npz").write_bytes(b"PK no")
    with pytest.raises(UserError, match="is not a saved state"):
        carries.load(tmp_path / "c.npz", like=state)
    with pytest.raises(UserError, match="as many rows"):
        carries.interpolate(state, both, 0.5)


def test_scalars_of_a_carry_are_shared_by_all_rows(tmp_path):
    a = carries.PromptState({"count": np.float32(2), "h": np.ones((1, 2))}, np.array([1]))
    b = carries.PromptState({"count": np.float32(4), "h": np.zeros((1, 2))}, np.array([2]))
    assert carries.fork(a, 3).carry["count"].shape == ()
    assert carries.take(carries.fork(a, 3), [0, 2]).carry["h"].shape == (2, 2)
    assert carries.join([a, a]).carry["count"] == 2
    assert carries.interpolate(a, b, 0.25).carry["count"] == 2.5
    carries.save(tmp_path / "a.npz", a)
    assert carries.load(tmp_path / "a.npz", like=carries.fork(b, 2)).carry["count"] == 2
    for wrong, message in (
        (lambda: carries.join([a, b]), "must agree in the scalars"),
        (lambda: carries.join([]), "at least one state"),
        (lambda: carries.join([a, carries.PromptState((), a.token)]), "of one model"),
        (lambda: carries.interpolate(a, b, np.array([0.5])), "one number where the rows share"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_score_and_perplexity(lm):
    carry, wanted = lstm_carry(1), []
    ids = [lm.tokenizer.start_id, *lm.tokenizer.encode("hello" * 130)]
    step = jax.jit(lstm_step)
    for token, target in pairwise(ids):
        carry, logits = step(lm.params, carry, np.array([token]))
        wanted.append(log_softmax(logits[0])[target])
    scores = lm.score(["hello" * 130, "hell"])
    np.testing.assert_allclose(scores[0], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores[1], wanted[:4], rtol=1e-4, atol=1e-4)
    prompted = make_model(prefill_fn=None).score(" you", prompt="hello" * 130)
    whole = lm.score("hello" * 130 + " you", after=lm.prefill(""))
    np.testing.assert_allclose(whole[:650], scores[0], rtol=1e-4, atol=1e-4)
    assert prompted.shape == (4,)
    sure = lm.score("lo you", prompt="hel")
    np.testing.assert_allclose(sure[-4:], lm.score(" you", prompt="hello"), rtol=1e-4)
    np.testing.assert_allclose(lm.perplexity("hell"), np.exp(-np.mean(wanted[:4])), rtol=1e-4)
    sample = lm.sample("he", max_new_tokens=10, temperature=0.5)
    np.testing.assert_allclose(sample.logprobs, lm.score(sample.text, prompt="he"), rtol=1e-4)


def test_beams(lm):
    greedy = lm.generate("abc", max_new_tokens=6, temperature=0)
    one = lm.beam_search("abc", num_beams=1, max_new_tokens=6)
    assert one.text == greedy
    np.testing.assert_allclose(one.logprob, lm.score(greedy, prompt="abc").sum(), rtol=1e-4)
    many = [lm.beam_search(["abc", "q"], n=n, max_new_tokens=6) for n in range(1, 5)]
    for row in range(2):
        assert [len(beams[row]) for beams in many] == [1, 2, 3, 4]
        assert all(many[3][row][: len(beams[row])] == beams[row] for beams in many)
    assert lm.beam_search(["abc", "q"], max_new_tokens=6) == [beams[0] for beams in many[3]]
    assert many[3][0][0].logprob >= one.logprob
    for beam in many[3][0]:
        each = lm.score(beam.text, prompt="abc")
        np.testing.assert_allclose(beam.token_logprobs, each, rtol=1e-3, atol=1e-5)
    different = lm.beam_search("abc", num_beams=4, n=4, max_new_tokens=3, sampled=True, key=1)
    assert len({beam.text for beam in different}) == 4
    with pytest.raises(UserError, match="`n` must be in"):
        lm.beam_search("abc", n=5)


def test_beams_that_read_alike_are_one():
    """Bytes that are no UTF-8 all read as one character."""
    lm = make_model("byte")
    _, logits = lstm_step(lm.params, lstm_carry(1), lm.tokenizer.encode("a"))
    logprobs = log_softmax(logits[0])
    best: dict[str, float] = {}
    for token in np.argsort(-logprobs)[:8]:
        best.setdefault(lm.tokenizer.decode([token]), logprobs[token])
    assert 1 < len(best) < 8
    found = lm.beam_search("a", num_beams=8, n=8, max_new_tokens=1)
    assert [beam.text for beam in found] == list(best)
    np.testing.assert_allclose([beam.score for beam in found], [*best.values()], rtol=1e-5)
    assert lm.beam_search("a", num_beams=8, n=len(best) - 1, max_new_tokens=1) == found[:-1]


def test_integers_and_words(lm):
    numbers = make_model("integer", [60, 62, 64, 65, 67])
    text = numbers.generate([60, 62], max_new_tokens=3)
    assert len(text.split()) == 3
    assert numbers.generate([[60, 62], [64]], max_new_tokens=3)[0] == text
    words = make_model("word", "the cat sat on the mat")
    assert words.generate("the cat", max_new_tokens=2, forced_tokens=[4, 5]).startswith(" ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "`prompt` must hold at least one text"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
        ({"n": 0}, "`n` must be at least 1, got 0"),
        ({"temprature": 1}, "there is no option `temprature`; there are max_new_tokens"),
        ({"prompt": ["a", "b"], "top_p": [0.1] * 3}, "`top_p` must hold one value or one for each"),
        ({"stop": ""}, "`stop` must hold strings that are not empty"),
        ({"stop": "\udcff"}, "`stop` must hold Unicode text"),
        ({"logprobs": False}, "there is no option `logprobs`"),
        ({"top_k": 10**20}, "`top_k` must be a number or one a row"),
        ({"temperature": 10**400}, "`temperature` must be a number"),
        ({"stop_tokens": [2**40]}, "`stop_tokens` must be whole numbers of 32 bits"),
        ({"top_k": 99}, "`top_k` must be at most the vocabulary"),
    ],
)
def test_bad_questions(lm, options, message):
    with pytest.raises(UserError, match=message):
        lm.generate(**({"prompt": "a"} | options))

"""Texts through a tiny encoder-decoder, against teacher-forced logits; the same in any batch."""

import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.translators import make_translator
from hypothesis import given, settings, strategies

from jaxgen.errors import UserError
from jaxgen.generation.joined import ensemble_translator
from jaxgen.generation.sources import SourceWarning, source_batches

pytestmark = pytest.mark.slow

TRANSLATOR = make_translator()
TEXTS = ("abc", "fed cab", "a", "cab fade", "ffffff", "ab cd ef ab cd ef ab", "dad " * 6)
SEARCH = {"beam_size": 4, "max_new_tokens": 12, "batch_size": 2}


@partial(jax.jit, static_argnums=0)
def read(model, params, source, length, line):
    """Log-probabilities of the tokens after each of a line, by one call of the module."""
    return jax.nn.log_softmax(model.apply({"params": params}, source, length, line)[0])


def logprobs_of(translator, source, tokens):
    """Log-probabilities of at most 23 tokens after <bos>."""
    ids = translator.source_tokenizer.encode(source)
    line = [translator.tokenizer.bos_id, *tokens]
    rows = [
        np.pad(np.array(x, np.int32), (0, n - len(x)))[None] for x, n in ((ids, 24), (line, 21))
    ]
    model, params = translator.step_fn.model, translator.params
    found = read(model, params, jnp.array(rows[0]), jnp.array([len(ids)]), jnp.array(rows[1]))
    return np.asarray(found)[np.arange(len(tokens)), np.asarray(tokens)]


def allowed(translator):
    """Tokens that a translation may hold."""
    size = translator.tokenizer.vocab_size
    return sorted(set(range(size)) - set(translator.tokenizer.special_ids))


# Against references


def test_a_wide_beam_finds_the_best_of_all_texts():
    words = [
        token for token in allowed(TRANSLATOR) if token != (end := TRANSLATOR.tokenizer.eos_id)
    ]
    texts = [[end], *([one, end] for one in words), *map(list, itertools.product(words, repeat=2))]
    sums = {tuple(text): logprobs_of(TRANSLATOR, "fed", text) for text in texts}
    ranked = sorted(texts, key=lambda text: -sums[tuple(text)].mean())
    found = TRANSLATOR.translate("fed", beam_size=64, n_best=5, max_new_tokens=2)
    assert [one.tokens for one in found] == ranked[:5]
    for one in found:
        own = sums[tuple(one.tokens)]
        np.testing.assert_allclose(one.token_scores, own, rtol=0, atol=1e-5)
        assert one.score == pytest.approx(own.mean(), abs=1e-5)
        spoken = [token for token in one.tokens if token != end]
        assert one.text == TRANSLATOR.tokenizer.decode(spoken)


def test_greedy_takes_the_likeliest_token_at_each_step():
    (found,) = TRANSLATOR.translate("fed cab", beam_size=1, n_best=1, max_new_tokens=6)
    choices = allowed(TRANSLATOR)
    tokens: list[int] = []
    for _ in range(len(found.tokens)):
        each = [logprobs_of(TRANSLATOR, "fed cab", [*tokens, choice])[-1] for choice in choices]
        tokens.append(choices[int(np.argmax(each))])
    assert found.tokens == tokens
    assert found.score == pytest.approx(np.mean(found.token_scores), abs=1e-5)
    np.testing.assert_allclose(
        found.token_scores, logprobs_of(TRANSLATOR, "fed cab", tokens), rtol=0, atol=1e-5
    )


def test_score_is_teacher_forced_with_the_end():
    targets = ["uvw", "", "x y"]
    found = TRANSLATOR.score(TEXTS[:3], targets)
    for source, target, own in zip(TEXTS, targets, found, strict=False):
        tokens = [*TRANSLATOR.tokenizer.encode(target), TRANSLATOR.tokenizer.eos_id]
        wanted = logprobs_of(TRANSLATOR, source, tokens)
        np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(TRANSLATOR.score("abc", "uvw"), found[0], rtol=0, atol=1e-5)


def test_attention_is_that_of_each_pair_alone():
    found = TRANSLATOR.translate(TEXTS[:2], n_best=2, attention=True, prefix="u", **SEARCH)
    begin = [TRANSLATOR.tokenizer.bos_id, *TRANSLATOR.tokenizer.encode("u")]
    for text, best in zip(TEXTS, found, strict=False):
        tokens, lengths = TRANSLATOR.encode([text])
        for one in best:
            count = len(one.tokens)
            assert one.attention.shape == (count, lengths[0])
            line = jnp.array([[*begin, *one.tokens, *[0] * (12 - count)]])
            alone = TRANSLATOR.attention_fn(TRANSLATOR.params, tokens, lengths, line)
            wanted = np.asarray(alone)[0, 1 : count + 1, : lengths[0]]
            np.testing.assert_allclose(one.attention, wanted, rtol=0, atol=1e-6)


# The same alone and in any batch


@settings(max_examples=12, deadline=None)
@given(
    rows=strategies.lists(strategies.integers(0, len(TEXTS) - 1), min_size=1, max_size=7),
    n_best=strategies.integers(1, 4),
)
def test_a_text_has_the_same_translations_alone_and_in_any_batch(rows, n_best):
    """The best does not depend on n, and no two are alike."""
    found = TRANSLATOR.translate([TEXTS[row] for row in rows], n_best=n_best, **SEARCH)
    for row, best in zip(rows, found, strict=True):
        alone = TRANSLATOR.translate(TEXTS[row], n_best=4, **SEARCH)
        assert [one.tokens for one in best] == [one.tokens for one in alone[:n_best]]
        scores = [[one.score for one in group] for group in (best, alone[:n_best])]
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
        assert len({one.text for one in alone}) == len(alone)
        assert sorted(scores[0], reverse=True) == scores[0]


def test_texts_come_back_in_their_order_and_windows_change_nothing():
    texts = [*TEXTS, "", "a"]
    whole = TRANSLATOR.translate(texts, **SEARCH)
    read = []
    stream = TRANSLATOR.stream((read.append(x) or x for x in texts), window=2, **SEARCH)
    assert read == []
    assert next(stream) == whole[0]
    assert len(read) == 2
    assert [whole[0], *stream] == whole
    assert whole[texts.index("")] == ""
    assert whole[2] == whole[-1] == TRANSLATOR.translate("a", n_best=1, **SEARCH)[0].text


def test_batches_are_bounded_and_hold_every_source_once():
    sources = [np.zeros(length, np.int32) for length in (0, 1, 17, 40, 16, 33, 3)]
    batches = list(source_batches(sources, longest=40, width=4, batch_size=2))
    assert sorted(place for batch in batches for place in batch.places) == [1, 2, 3, 4, 5, 6]
    assert [batch.tokens.shape for batch in batches] == [(2, 16), (1, 16), (1, 32), (2, 40)]
    (wide, *_) = source_batches(sources[3:4] * 8, longest=40, width=200, batch_size=8)
    assert wide.tokens.shape == (2, 40)


# Ways to decode


def test_a_prefix_begins_the_translation():
    found = TRANSLATOR.translate(TEXTS[:2], prefix=["uv", "z"], n_best=2, **SEARCH)
    for prefix, text, best in zip(["uv", "z"], TEXTS, found, strict=False):
        ids = TRANSLATOR.tokenizer.encode(prefix).tolist()
        for one in best:
            assert one.text.startswith(prefix)
            wanted = logprobs_of(TRANSLATOR, text, [*ids, *one.tokens])[len(ids) :]
            np.testing.assert_allclose(one.token_scores, wanted, rtol=0, atol=1e-5)


def test_random_translations_are_a_function_of_the_key_and_the_place():
    options = {"beam_size": None, "max_new_tokens": 12, "batch_size": 2, "temperature": 1.5}
    found = TRANSLATOR.translate(TEXTS[:3], n_best=4, key=1, **options)
    again = TRANSLATOR.translate(["abc", "fed"], n_best=4, key=jax.random.key(1), **options)
    assert [one.tokens for one in again[0]] == [one.tokens for one in found[0]]
    other = TRANSLATOR.translate(TEXTS[:1], n_best=4, key=2, **options)
    assert {one.text for one in other[0]} != {one.text for one in found[0]}
    for one in found[1]:
        wanted = logprobs_of(TRANSLATOR, TEXTS[1], one.tokens)
        np.testing.assert_allclose(one.token_scores, wanted, rtol=0, atol=1e-5)
    scores = [one.score for one in found[1]]
    assert sorted(scores, reverse=True) == scores


def test_minimum_risk_chooses_among_the_random_translations():
    options = {"max_new_tokens": 12, "batch_size": 2, "temperature": 1.5, "key": 1}
    drawn = TRANSLATOR.translate("abc", beam_size=None, n_best=4, **options)
    longest = max(len(one.text) for one in drawn)
    found = TRANSLATOR.translate(
        "abc", mbr=4, n_best=4, utility=lambda text, other: float(len(text)), **options
    )
    assert {one.text for one in found} == {one.text for one in drawn}
    assert found[0].score == len(found[0].text) == longest
    assert TRANSLATOR.translate("abc", mbr=4, **options) in {one.text for one in drawn}


def test_length_penalties_reorder_and_max_new_tokens_cuts():
    plain, long = (
        TRANSLATOR.translate("fed cab", n_best=1, length_penalty=penalty, **SEARCH)[0]
        for penalty in (0.0, 3.0)
    )
    assert plain.score == pytest.approx(sum(plain.token_scores), abs=1e-5)
    assert len(long.tokens) > len(plain.tokens)
    (short,) = TRANSLATOR.translate("fed cab", n_best=1, beam_size=1, max_new_tokens=2)
    assert len(short.tokens) == 2


def test_coverage_counts_against_places_that_were_not_attended_to():
    options = {"coverage_penalty": 0.3, "length_penalty": 0.5, "attention": True, "n_best": 3}
    for one in TRANSLATOR.translate("fed cab", **options, **SEARCH):
        coverage = np.minimum(one.attention.sum(axis=0), 1)
        wanted = sum(one.token_scores) / len(one.tokens) ** 0.5 + 0.3 * np.log(coverage).sum()
        assert one.score == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("hidden_size", [8, pytest.param(6)])
def test_an_ensemble_is_the_mean_of_the_probabilities(hidden_size):
    """The models are stacked where they have one size."""
    models = [TRANSLATOR, make_translator(seed=1, hidden_size=hidden_size)]
    joined = ensemble_translator(models)
    options = {"n_best": 1, "attention": True, "beam_size": 1, "max_new_tokens": 4}
    (best,) = joined.translate("abc", **options)
    each = [np.exp(logprobs_of(model, "abc", best.tokens)) for model in models]
    np.testing.assert_allclose(best.token_scores, np.log(np.mean(each, axis=0)), rtol=0, atol=1e-5)
    line = jnp.array([[joined.tokenizer.bos_id, *best.tokens]])
    sources = joined.encode(["abc"])
    weights = [model.attention_fn(model.params, *sources, line)[0, :, :3] for model in models]
    np.testing.assert_allclose(best.attention, np.mean(weights, axis=0), rtol=0, atol=1e-6)


def test_translators_that_do_not_fit_together_are_refused():
    assert ensemble_translator([TRANSLATOR, make_translator("none")]).attention_fn is None
    with pytest.raises(UserError, match="one vocabulary"):
        ensemble_translator([TRANSLATOR, make_translator(kind="word")])
    with pytest.raises(UserError, match="at least one model"):
        ensemble_translator([])


# What is cut, unknown, empty or wrong


def test_long_and_unknown_sources_are_counted_and_read_as_far_as_they_are_known():
    text = "abcdef" * 8
    with pytest.warns(SourceWarning, match=r"1 of 2 sources are longer than 40 tokens.*'!' \(2x\)"):
        found = TRANSLATOR.translate([text, "a!!"], **SEARCH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found[0] == TRANSLATOR.translate(text[:40], **SEARCH)
    with pytest.warns(SourceWarning, match="1 in all became <unk>"):
        TRANSLATOR.score(["a"], ["u?"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_best": 5}, r"`n_best` must be in \[1, beam_size = 4\], got 5"),
        ({"n_best": 0}, r"`n_best` must be in \[1, beam_size = 4\], got 0"),
        ({"n_best": 9, "mbr": 8}, r"`n_best` must be in \[1, mbr = 8\], got 9"),
        ({"n_best": 0, "beam_size": None}, "`n_best` must be at least 1, got 0"),
        ({"beam_size": 0}, "`beam_size` must be at least 1, got 0"),
        ({"mbr": 0}, "`mbr` must be at least 1, got 0"),
        ({"mbr": 2, "beam_size": 2}, "`mbr` chooses among random texts, and `beam_size` searches"),
        ({"prefix": "up!"}, r"the prefix 'up!' holds '!', 'p', which the vocabulary"),
        ({"prefix": ["u", "v"]}, "`prefix` must be one text for all, .* got 2 for 1"),
        ({"temperature": 0.5}, "`temperature` shapes a random choice"),
        ({"beam_size": 1, "key": 0}, "`key` shapes a random choice"),
        ({"beam_size": None, "patience": 1.0}, "`patience` is for a search among several"),
        ({"mbr": True, "length_penalty": 1.0}, "`length_penalty` is for a search among several"),
        ({"utility": "bleu"}, "`utility` is for `mbr`"),
        ({"attention": True}, "`attention` is a part of each `Translation`.*`n_best=1`"),
        ({"beam_size": None, "temperature": [1.0, 2.0]}, "`temperature` must be the same for all"),
        ({"beam_size": None, "top_p": 2.0}, r"`top_p` must be in \(0, 1\], got 2.0"),
        ({"length_offset": -1.0}, "`length_offset` must be 0 or more"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"num_beams": 4}, "there is no option `num_beams`; there are beam_size"),
        ({"window": 0}, "`window` must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        TRANSLATOR.stream(["abc"], **options)


def test_models_without_attention_say_so():
    plain = make_translator("none")
    with pytest.raises(UserError, match="`attention` asks for weights, and this model has no"):
        plain.translate("abc", n_best=1, attention=True)
    with pytest.raises(UserError, match="`coverage_penalty` needs a model with attention"):
        plain.translate("abc", coverage_penalty=0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(" "), "the text to translate is empty, got ' '"),
        (lambda t: t.stream("abc"), "`texts` must be several texts"),
        (lambda t: t.encode(["a", ""]), "got an empty one"),
        (lambda t: t.score(["a", ""], ["u", "v"]), "source 2 is empty"),
        (lambda t: t.score(["a"], ["u", "v"]), "one text for each of the 1 sources, got 2"),
        (lambda t: t.score("a", ["u"]), "two texts, or two lists"),
    ],
)
def test_bad_texts_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call(TRANSLATOR)


def test_texts_of_words_and_an_iterable_of_nothing():
    words = make_translator(kind="word")
    assert words.translate([]) == []
    (found,) = words.translate("a b c", n_best=1, prefix="u", **SEARCH)
    assert found.text.split()[0] == "u"
    with pytest.raises(UserError, match=r"the prefix 'u bad' holds 'bad'"):
        words.translate("a", prefix="u bad")

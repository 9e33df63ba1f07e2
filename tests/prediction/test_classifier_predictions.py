"""A trained classifier in use: the same row in any batch, order, bounded memory, decisions."""

import itertools
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from tiny_classifier import (
    WORDS,
    bag_of_words,
    table_of,
    tiny_classifier,
    tiny_settings,
    with_function,
)

from jaxgen.data.labels import LabelSet
from jaxgen.errors import UserError
from jaxgen.models.classifier import TextClassifier
from jaxgen.prediction.batches import BATCH, over_devices, powers_of_two
from jaxgen.prediction.classifier import Classifier, UnreadTextWarning, apply_of
from jaxgen.prediction.predictions import log_odds_of, predictions_of, probabilities_of
from jaxgen.windows import WINDOW, windows

TOPICS = ("art", "money", "sport")


def some_texts(count: int, longest: int = 32, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    return [" ".join(random.choice(WORDS, length)) for length in lengths]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return tiny_classifier(padded_lengths=(8, 32))


@pytest.fixture(scope="module")
def counting() -> Classifier:
    """Its logits say how often a row has each of three words, so that rows can be told apart."""
    table = table_of({"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1)})
    return with_function(bag_of_words, table, TOPICS)


# The same row in any batch


def test_a_row_alone_is_the_same_row_in_any_batch(classifier: Classifier) -> None:
    """To 1e-6: other padded shapes add the same numbers in another order."""
    texts = some_texts(150)
    together = classifier.probabilities(texts)
    assert np.ptp(together[:, 1]) > 0.2  # so that a mixed-up row would be seen
    for index in (0, 1, 40, 149):
        alone = classifier.probabilities([texts[index]])
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-6)
    shuffled = np.random.default_rng(1).permutation(150)
    again = classifier.probabilities([texts[i] for i in shuffled])
    np.testing.assert_allclose(again, together[shuffled], rtol=0, atol=1e-6)


def test_probabilities_are_those_of_the_module(classifier: Classifier) -> None:
    """Rows padded by hand and read by the plain jitted function."""
    texts = some_texts(5)
    tokens, lengths = classifier.encode(texts)
    assert tokens.shape == (5, max(len(text.split()) for text in texts))
    assert lengths.tolist() == [len(text.split()) for text in texts]
    logits = np.asarray(classifier.apply(classifier.params, tokens, lengths))
    np.testing.assert_allclose(classifier.logits(texts), logits, rtol=0, atol=1e-6)
    wanted = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(classifier.probabilities(texts), wanted, rtol=0, atol=1e-6)


def test_devices_share_a_batch(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows divided over two devices, beside all of them on one."""
    texts = some_texts(131)
    tokens, lengths = classifier.encode(texts[:BATCH])
    read = over_devices(classifier.apply, classifier.params)
    assert len(read(tokens, lengths).devices()) == jax.local_device_count() == 2
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    alone = replace(classifier)
    assert len(over_devices(alone.apply, alone.params)(tokens, lengths).devices()) == 1
    for count in (1, 5, 64, 131):
        wanted = alone.probabilities(texts[:count])
        found = classifier.probabilities(texts[:count])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_without_masking_every_row_is_padded_to_the_full_length() -> None:
    seen: list[tuple[int, ...]] = []
    reference = tiny_classifier(masking=False, padded_lengths=(8, 32))

    def spy(params: object, tokens: np.ndarray, lengths: np.ndarray) -> object:
        seen.append(tokens.shape)
        return reference.apply(params, tokens, lengths)

    spied = replace(reference, apply=spy)
    texts = ["good", *some_texts(4, longest=6)]
    found = spied.logits(texts)
    assert set(seen) == {(64, 32)}
    tokens, lengths = reference.encode(texts)
    assert tokens.shape == (5, 32)
    assert tokens[0, 1:].tolist() == [reference.tokenizer.pad_id] * 31
    wanted = reference.apply(reference.params, tokens, lengths)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    spied.predict("good")
    assert seen[-1] == (1, 32)


def test_few_shapes_are_compiled() -> None:
    seen: set[tuple[int, ...]] = set()

    def spy(params: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        seen.add(tokens.shape)
        return np.stack([lengths, lengths * 0], axis=1).astype(np.float32)

    classifier = with_function(spy, max_length=100, padded_lengths=(10, 30, 90))
    for count in (1, 3, 5, 64, 65, 67, 200, 500):
        texts = some_texts(count, longest=120, seed=count)
        lengths = [min(len(text.split()), 100) for text in texts]
        assert classifier.logits(texts)[:, 0].tolist() == lengths
    batched = {(64, length) for length in (10, 30, 90, 100)}
    assert seen <= batched | {(1, length) for length in powers_of_two(100)}
    assert (64, 100) in seen


def test_equal_modules_share_their_programs() -> None:
    one, same, other = (TextClassifier(9, classes, 4) for classes in (2, 2, 3))
    assert apply_of(one) is apply_of(same)
    assert apply_of(one) is not apply_of(other)


@pytest.mark.parametrize(
    ("longest", "lengths"), [(1, (1,)), (8, (8,)), (9, (8, 9)), (100, (8, 16, 32, 64, 100))]
)
def test_powers_of_two(longest: int, lengths: tuple[int, ...]) -> None:
    assert powers_of_two(longest) == lengths


# Order and memory


def counted_texts(count: int) -> tuple[list[str], np.ndarray]:
    """Texts, and how often each has the words a, b and c."""
    random = np.random.default_rng(2)
    counts = random.integers(0, 10, (count, 3))
    return [" ".join("a" * x + "b" * y + "c" * z + "d") for x, y, z in counts], counts


def test_order_is_kept_over_windows(counting: Classifier) -> None:
    texts, counts = counted_texts(300)
    assert (counting.logits(texts) == counts).all()
    found = list(counting.stream(iter(texts), window=70))
    assert [p.label for p in found] == [TOPICS[i] for i in counts.argmax(axis=1)]
    whole = counting.predict(texts)
    assert [p.probabilities for p in found] == [p.probabilities for p in whole]


def test_a_stream_is_read_a_window_at_a_time(counting: Classifier) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield "a b c"[: 1 + number % 5]

    stream = counting.stream(endless(), window=16)
    assert read == 0
    for taken in range(1, 50):
        next(stream)
        assert read == -(-taken // 16) * 16
    assert WINDOW <= 4096


def test_windows_hold_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxgen.windows.WINDOW_CHARACTERS", 10)
    assert list(windows(["a" * 20, "b" * 6, "c" * 6, "d"])) == [
        ["a" * 20],
        ["b" * 6, "c" * 6],
        ["d"],
    ]
    assert list(windows([])) == []


def test_a_slow_source_is_answered_at_once() -> None:
    def slow() -> Iterator[str]:
        for text in "abc":
            time.sleep(0.02)
            yield text

    assert list(windows(slow(), max_wait=0.01)) == [["a"], ["b"], ["c"]]
    assert list(windows(slow(), max_wait=60.0)) == [["a", "b", "c"]]


# Decisions


def test_two_classes_and_the_threshold(classifier: Classifier) -> None:
    texts = some_texts(20)
    positive = classifier.probabilities(texts)[:, 1]
    limit = float(np.median(positive))
    for threshold in (None, limit, 0.0, 1.0):
        found = classifier.predict(texts, threshold=threshold)
        above = positive >= (0.5 if threshold is None else threshold)
        assert [p.label == "positive" for p in found] == above.tolist()
        for prediction, p in zip(found, positive.tolist(), strict=True):
            own = p if prediction.label == "positive" else 1 - p
            assert prediction.probability == pytest.approx(own, abs=1e-12)
            assert prediction.labels == (prediction.label,)
            assert prediction.probabilities[prediction.label] == prediction.probability
            assert list(prediction.probabilities) == ["negative", "positive"]
    strict = replace(classifier, config=tiny_settings(threshold=0.9999))
    assert {p.label for p in strict.predict(texts)} == {"negative"}


def test_several_labels_at_once() -> None:
    labels = LabelSet(TOPICS, multi_label=True)
    probabilities = np.array([[0.9, 0.2, 0.5], [0.1, 0.3, 0.2]])
    first, second = predictions_of(probabilities, labels, 0.5)
    assert (first.label, first.labels, first.probability) == ("art", ("art", "sport"), 0.9)
    assert (second.label, second.labels, second.probability) == ("money", (), 0.3)
    table = np.random.default_rng(0).normal(size=(len(WORDS) + 3, 3)).astype(np.float32)
    classifier = with_function(bag_of_words, table, TOPICS, multi_label=True)
    texts = some_texts(6)
    wanted = jax.nn.sigmoid(classifier.logits(texts))
    np.testing.assert_allclose(classifier.probabilities(texts), wanted, rtol=1e-6)
    assert classifier.predict(texts[0], threshold=0.0).labels == TOPICS
    assert classifier.predict(texts[0], threshold=1.0).labels == ()


def test_the_temperature_divides_the_logits(classifier: Classifier) -> None:
    texts = some_texts(6)
    wanted = jax.nn.softmax(classifier.logits(texts) / 4)
    found = classifier.probabilities(texts, temperature=4.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    as_set = replace(classifier, config=tiny_settings(temperature=4.0))
    np.testing.assert_allclose(as_set.probabilities(texts), wanted, rtol=1e-6)
    assert as_set.predict(texts[0]).probabilities["positive"] == pytest.approx(found[0, 1])


logits = strategies.lists(strategies.floats(-200, 200, width=32), min_size=2, max_size=5)


@settings(max_examples=50, deadline=None)
@given(row=logits, temperature=strategies.floats(0.1, 10), multi_label=strategies.booleans())
def test_probabilities_and_log_odds(
    row: list[float], temperature: float, multi_label: bool
) -> None:
    """Against the definitions in wider floats, and the odds of the probabilities themselves."""
    array = np.array([row], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = probabilities_of(array, multi_label, temperature)
        odds = log_odds_of(array, 1, multi_label, temperature)
    assert ((found >= 0) & (found <= 1)).all()
    if not multi_label:
        assert found.sum() == pytest.approx(1)
    exact = [np.exp(np.longdouble(x) / temperature) for x in array[0]]
    share = exact[1] / (1 + exact[1]) if multi_label else exact[1] / sum(exact)
    assert found[0, 1] == pytest.approx(float(share), abs=1e-9)
    if 1e-3 < share < 1 - 1e-3:
        assert odds[0] == pytest.approx(float(np.log(share / (1 - share))), abs=1e-6)
    assert np.isfinite(odds[0])


# Texts that say nothing, long texts, and bad input


def test_texts_that_say_nothing_are_counted_once(counting: Classifier) -> None:
    texts = ["good", "", "  ", "unheard unseen", "bad a b c d e"]
    with pytest.warns(UnreadTextWarning, match=r"^3 of 5 texts have no token") as caught:
        found = list(counting.stream(texts, window=2))
    assert len(caught) == 1
    assert len(found) == 5
    assert found[1].probabilities == pytest.approx(found[2].probabilities)
    with pytest.warns(UnreadTextWarning, match=r"^the text has no token"):
        counting.predict("unheard")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counting.predict("good unheard")


def test_a_text_of_a_megabyte(classifier: Classifier) -> None:
    text = "good bad " * 120_000
    cut = " ".join(text.split()[:32])
    assert classifier.predict(text).probability == classifier.predict(cut).probability
    end = replace(classifier, config=tiny_settings(keep="end"))
    assert end.predict("good " * 50 + cut) == end.predict(cut)


def test_no_texts(classifier: Classifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.probabilities([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("", {}, "the text to classify is empty, got ''; give one with words"),
        (" \n", {}, "is empty, got"),
        (iter(["a", 5]), {}, "a classifier reads texts, got 5; give a str for each"),
        (iter(["a", None]), {}, "reads texts, got None"),
        ("a\ud800", {}, "half a surrogate pair"),
        ("a", {"threshold": 1.3}, r"`threshold` must be a probability in \[0, 1\], got 1.3; 0.5"),
        ("a", {"threshold": float("nan")}, "`threshold` must be"),
        (
            "a",
            {"temperature": 0.0},
            "`temperature` must be more than 0, got 0.0; 1 changes nothing",
        ),
        ("a", {"temperature": float("inf")}, "`temperature` must be"),
    ],
)
def test_bad_input(classifier: Classifier, texts: object, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier.predict(texts, **options)  # type: ignore[call-overload]


def test_more_bad_input(counting: Classifier) -> None:
    with pytest.raises(UserError, match="tells 3 classes apart and takes the likeliest; leave it"):
        counting.predict("a", threshold=0.5)
    with pytest.raises(UserError, match="`window` must be at least 1, got 0"):
        counting.stream(["a"], window=0)
    for method in (counting.stream, counting.logits, counting.probabilities, counting.encode):
        with pytest.raises(UserError, match=r"`texts` must be several texts, .* got 'good'"):
            method("good")
    with pytest.raises(UserError, match=r"`texts` must be several texts, .* got None"):
        counting.predict(None)  # type: ignore[call-overload]
    broken = replace(counting, params=np.full_like(counting.params, np.nan))
    with pytest.raises(UserError, match="logits must be numbers, got NaN or infinity"):
        broken.predict("a")


def test_apply_is_a_function_to_differentiate(counting: Classifier) -> None:
    """What the text adds to a logit: each token's own entry, as often as it stands there."""
    tokens, lengths = counting.encode(["a b a", "c"])

    def score(params: object) -> jax.Array:
        return counting.apply(params, tokens, lengths)[0, 1]

    gradient = np.asarray(jax.grad(score)(counting.params))
    wanted = np.zeros_like(gradient)
    wanted[counting.tokenizer.encode("a b"), 1] = (2, 1)
    np.testing.assert_array_equal(gradient, wanted)

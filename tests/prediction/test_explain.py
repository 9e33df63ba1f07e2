"""Explanations by occlusion: against a model whose weights are known, and against brute force."""

import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from tiny_classifier import WORDS, bag_of_words, table_of, with_function

from jaxgen.errors import UserError
from jaxgen.prediction.classifier import Classifier, UnreadTextWarning
from jaxgen.prediction.explain import read_part, without, word_spans

TOPICS = ("art", "money", "sport")


@pytest.fixture(scope="module")
def linear() -> Classifier:
    """The logits [0, z] with z a sum over the tokens: what a word does is its own score."""
    table = table_of({"good": (0, 2.0), "bad": (0, -1.5), "fine": (0, 0.25)})
    return with_function(bag_of_words, table, strip_html=True)


def scored(classifier: Classifier, text: str, **options: str) -> dict[str, float]:
    found = classifier.explain(text, **options)
    return dict(zip(found.words, found.weights.tolist(), strict=True))


def test_weights_of_a_linear_model_are_its_own(linear: Classifier) -> None:
    text = "A good  a, <br />fine\tbad <i>good</i> d"
    found = linear.explain(text)
    assert found.words == ("A", "good", "a,", "fine", "bad", "good", "d")
    np.testing.assert_allclose(found.weights, [0, 2, 0, 0.25, -1.5, 2, 0], atol=1e-6)
    assert (found.label, found.prediction) == ("positive", linear.predict(text))
    assert [text[start:stop] for start, stop in found.spans] == list(found.words)


def test_a_label_may_be_chosen_and_the_temperature_counts(linear: Classifier) -> None:
    assert scored(linear, "good a", label="negative") == {"good": -2.0, "a": 0.0}
    weights = linear.explain("good a", temperature=4.0).weights
    np.testing.assert_allclose(weights, [0.5, 0])
    with pytest.raises(UserError, match="`label` must be one of negative, positive, got 'neutral'"):
        linear.explain("good", label="neutral")


@pytest.mark.parametrize("multi_label", [False, True])
def test_weights_are_changes_of_the_log_odds(multi_label: bool) -> None:
    """By brute force: the text typed again without each word, its probabilities and their odds."""
    table = np.random.default_rng(0).normal(size=(len(WORDS) + 3, 3)).astype(np.float32)
    classifier = with_function(bag_of_words, table, TOPICS, multi_label=multi_label)
    words = ["good", "a", "b", "bad", "fine"]

    def log_odds(text: str) -> float:
        p = classifier.probabilities([text])[0, 1]
        return float(np.log(p / (1 - p)))

    whole = log_odds(" ".join(words))
    wanted = [whole - log_odds(" ".join(words[:i] + words[i + 1 :])) for i in range(5)]
    found = classifier.explain(" ".join(words), label="money")
    np.testing.assert_allclose(found.weights, wanted, atol=1e-6)


@pytest.mark.parametrize("keep", ["start", "end", "both"])
def test_of_a_long_text_only_what_is_read_counts(keep: str, linear: Classifier) -> None:
    """8 tokens are read; as a word of them is taken out, the next one takes its place."""
    long = with_function(bag_of_words, linear.params, max_length=8, keep=keep)
    text = " ".join(["bad", *["good"] * 150, "bad", *["good"] * 150, "bad"])
    weights = long.explain(text).weights
    read = {"start": (8, 0), "end": (0, 8), "both": (4, 4)}[keep]
    wanted = np.zeros(303)
    if read[0]:
        wanted[0] = -1.5 - 2.0  # a good one comes instead of the bad
    if read[1]:
        wanted[-1] = -1.5 - 2.0
    np.testing.assert_allclose(weights, wanted, atol=1e-6)


def test_a_text_of_a_megabyte_is_explained(linear: Classifier) -> None:
    found = linear.explain("good bad " * 120_000)
    assert len(found.words) == 240_000
    assert not found.weights[200:].any()
    assert found.weights[:32].any()


def test_a_text_without_words(linear: Classifier) -> None:
    with pytest.warns(UnreadTextWarning):
        found = linear.explain("  <br /> ")
    assert found.words == ()
    assert found.weights.shape == (0,)


def test_words_stand_apart_by_white_space_and_tags() -> None:
    text = "5 < 6 and 7 > 3, <BR/>it<a href='x y'>self</a>"
    words = [text[slice(*span)] for span in word_spans(text, tags=True)]
    assert words == ["5", "<", "6", "and", "7", ">", "3,", "it", "self"]
    assert [text[slice(*span)] for span in word_spans(text)] == text.split()
    assert word_spans("") == []


@settings(max_examples=40, deadline=None)
@given(strategies.lists(strategies.sampled_from(["a", "b  ", "\tc", "d\n", "한"]), max_size=8))
def test_a_word_is_taken_out_and_nothing_else(parts: list[str]) -> None:
    text = " ".join(parts)
    spans = word_spans(text)
    words = text.split()
    assert [text[slice(*span)] for span in spans] == words
    for index, span in enumerate(spans):
        left = without(text, span)
        assert left.split() == words[:index] + words[index + 1 :]
        assert re.sub(r"\s", "", left) == "".join(words[:index] + words[index + 1 :])


@settings(max_examples=40, deadline=None)
@given(
    count=strategies.integers(0, 600),
    max_length=strategies.integers(1, 40),
    keep=strategies.sampled_from(["start", "end", "both"]),
)
def test_the_part_that_is_read(count: int, max_length: int, keep: str) -> None:
    """Its words are those of the text, and what the model reads of it is the same."""
    words = [f"{WORDS[i % len(WORDS)]}{i}" for i in range(count)]
    text = " ".join(words)
    spans = word_spans(text)
    part, kept = read_part(text, spans, lambda piece: len(piece.split()), max_length, keep)
    for index, span in kept.items():
        assert part[slice(*span)] == words[index]
    tail = {"start": 0, "end": max_length, "both": max_length // 2}[keep]

    def read(words: list[str]) -> list[str]:
        if len(words) <= max_length:
            return words
        return words[: max_length - tail] + words[len(words) - tail :]

    assert read(part.split()) == read(words)
    for index in (*kept,)[:: max(len(kept) // 3, 1)]:
        others = words[:index] + words[index + 1 :]
        assert read(without(part, kept[index]).split()) == read(others)
    assert len(kept) <= 2 * (max_length + 64)

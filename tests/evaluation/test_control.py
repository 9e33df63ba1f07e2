"""Figures of control, worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.evaluation.control import (
    Judged,
    TrainingWords,
    distinct_words,
    joint_perplexity,
    label_shares,
    mean_share,
    strengths_that_meet,
    targets_met,
    text_figures,
    unguided_perplexity,
)


def test_shares_of_labels() -> None:
    labels, predicted = np.array([0, 0, 0, 2, 2]), np.array([0, 2, 0, 2, -1])
    assert label_shares(labels, predicted, 3) == [pytest.approx(2 / 3), None, 0.5]
    assert mean_share([0.75, None, 0.25]) == 0.5
    assert mean_share([None, None]) is None


def test_a_text_counts_by_its_tokens() -> None:
    """Tokens of probability 1/2, 1/2 and 1/16: 2^(6/3), where the mean of texts would be 9."""
    texts = [np.log(np.array(p, np.float32)) for p in ([0.5, 0.5], [1 / 16], [])]
    assert joint_perplexity(texts) == pytest.approx(4.0)
    assert joint_perplexity([texts[2]]) is None
    assert joint_perplexity([np.array([-np.inf], np.float32)]) == math.inf


def test_copies_are_counted_in_words_of_one_training_text() -> None:
    training = TrainingWords(["i feel so very happy today", "today  we\nare here", ""])
    texts = [
        "and i feel so sad",  # i feel so
        "very happy today we are",  # not over the end of a text: very happy today
        "today we are here now",
        "nothing of this",
        "",
    ]
    assert training.longest_copies(texts).tolist() == [3, 3, 4, 0, 0]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), max_size=4), st.data())
def test_the_longest_copy_is_that_of_a_search(training: list[str], data: st.DataObject) -> None:
    text = data.draw(st.lists(st.sampled_from("abcd"), max_size=6))
    spans = {
        tuple(words[a:b])
        for words in map(str.split, training)
        for a in range(len(words))
        for b in range(a + 1, len(words) + 1)
    }
    own = [
        b - a
        for a in range(len(text))
        for b in range(a + 1, len(text) + 1)
        if tuple(text[a:b]) in spans
    ]
    found = TrainingWords(training).longest_copies([" ".join(text)])
    assert found.tolist() == [max(own, default=0)]


def test_distinct_words_of_equally_many_texts() -> None:
    texts = ["a b a", "a b c"]
    assert distinct_words(texts, 2, seed=0) == {"distinct_1": 0.5, "distinct_2": 0.75}
    alone = distinct_words(["a b a", "a b a", "a b a"], 1, seed=3)
    assert alone == {"distinct_1": pytest.approx(2 / 3), "distinct_2": 1.0}
    assert distinct_words(["", "a"], 2, seed=0) == {"distinct_1": 1.0, "distinct_2": None}
    many = [str(n) for n in range(100)]
    drawn = [distinct_words([*many, *["0"] * 100], 20, seed)["distinct_1"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_figures_of_some_texts() -> None:
    training = TrainingWords(["a b c d e f g h i j"])
    texts = ["a b c d e f g h i", "a b c d e f g h", "", "x y z"]
    tokens = [np.full(n, -math.log(4), np.float32) for n in (9, 8, 0, 3)]
    labels, predicted = np.array([0, 1, 0, 1]), np.array([0, 1, -1, 0])
    found = text_figures(Judged(texts, labels, predicted, tokens), ("joy", "fear"), training)
    assert found == {
        "texts": 4,
        "accuracy": 0.5,
        "per_label": {"joy": 0.5, "fear": 0.5},
        "perplexity": pytest.approx(4.0, rel=1e-6),
        "copied": 0.25,  # nine words in a row are more than 8, and eight are not
        "longest_copy": 9,
        "mean_words": 5.0,
        "empty": 1,
    }


def row(strength: float, accuracy: float, perplexity: float | None, **other: float) -> dict:
    plain = {"distinct_2": 0.5, "copied": 0.0}
    return {"strength": strength, "accuracy": accuracy, "perplexity": perplexity, **plain, **other}


REAL = {"accuracy": 0.75, "distinct_2": 0.5}


def test_which_strengths_meet_the_targets() -> None:
    """The limits themselves count, but for distinct-2, which must be above half."""
    rows = [
        row(0.0, 0.2, 100.0),
        row(1.0, 0.7, 80.0),
        row(1.5, 0.75, 88.0, copied=0.05),
        row(2.0, 0.8, 88.1),
        row(3.0, 0.9, 70.0, distinct_2=0.25),
        row(4.0, 0.95, 60.0, copied=0.051),
        row(5.0, 0.95, None),
    ]
    figures = {"real": REAL, "strengths": rows}
    assert unguided_perplexity(rows) == 80.0
    missed = {
        x["strength"]: [name for name, met in targets_met(figures, x).items() if not met]
        for x in rows
    }
    assert missed == {
        0.0: ["accuracy", "perplexity"],
        1.0: ["accuracy"],
        1.5: [],
        2.0: ["perplexity"],
        3.0: ["distinct_2"],
        4.0: ["copied"],
        5.0: ["perplexity"],
    }
    assert strengths_that_meet(figures) == [1.5]


def test_what_is_undefined_meets_nothing() -> None:
    rows = [row(0.0, 1.0, None), row(1.0, 1.0, 5.0)]
    assert unguided_perplexity(rows) is None
    real = {"accuracy": None, "distinct_2": None}
    met = targets_met({"real": real, "strengths": rows}, rows[1])
    assert met == {"accuracy": False, "perplexity": False, "distinct_2": False, "copied": True}

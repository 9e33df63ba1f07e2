"""Minimum Bayes risk against the sum over all pairs, and its utilities against sacreBLEU."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.generation.mbr import bleu_of_pairs, chrf_of_pairs, minimum_bayes_risk

TEXTS = [
    "the cat sat on the mat",
    "the cat sat on a mat .",
    "a cat is on the the the mat",
    "the cat sat on the mat",
    "nothing alike",
    "cat",
    "",
]
SOME = st.lists(st.text("ab c", max_size=12), min_size=1, max_size=5)


def grams(items, order):
    return Counter(tuple(items[i : i + order]) for i in range(len(items) - order + 1))


def sentence_chrf(text, reference):
    """Popović (2015), by counters."""
    text, reference = "".join(text.split()), "".join(reference.split())
    precisions, recalls = [], []
    for order in range(1, 7):
        a, b = grams(text, order), grams(reference, order)
        if a and b:
            precisions.append((a & b).total() / a.total())
            recalls.append((a & b).total() / b.total())
    if not sum(precisions, 0):
        return 0.0
    p, r = np.mean(precisions), np.mean(recalls)
    return 100 * 5 * p * r / (4 * p + r)


def sentence_bleu(text, reference):
    """Papineni et al. (2002), smoothed by Chen & Cherry (2014, method 3)."""
    text, reference = text.split(), reference.split()
    logs, missed = [], 0
    for order in range(1, min(4, len(text)) + 1):
        a, b = grams(text, order), grams(reference, order)
        matches = (a & b).total()
        missed += not matches
        logs.append(math.log((matches or 0.5**missed) / a.total()))
    if missed == len(logs):
        return 0.0
    return 100 * math.exp(np.mean(logs) + min(0, 1 - len(reference) / len(text)))


BY_HAND = [(chrf_of_pairs, sentence_chrf), (bleu_of_pairs, sentence_bleu)]


@pytest.mark.parametrize(("of_pairs", "of_one"), BY_HAND)
@settings(max_examples=25)
@given(texts=SOME, references=SOME)
@example(TEXTS, TEXTS[::-1])
def test_pairs_equal_one_by_one(of_pairs, of_one, texts, references):
    wanted = [[of_one(text, reference) for reference in references] for text in texts]
    np.testing.assert_allclose(of_pairs(texts, references), wanted, rtol=1e-9, atol=1e-9)


def test_pairs_equal_sacrebleu():
    metrics = pytest.importorskip("sacrebleu.metrics")
    chrf, bleu = metrics.CHRF(), metrics.BLEU(tokenize="none", effective_order=True)
    for of_pairs, metric in ((chrf_of_pairs, chrf), (bleu_of_pairs, bleu)):
        wanted = [[metric.sentence_score(a, [b]).score for b in TEXTS] for a in TEXTS]
        np.testing.assert_allclose(of_pairs(TEXTS, TEXTS), wanted, rtol=1e-9, atol=1e-9)


def test_long_texts_take_several_blocks():
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdef"), 1500)) for _ in range(3)]
    wanted = [[sentence_chrf(text, reference) for reference in texts] for text in texts]
    np.testing.assert_allclose(chrf_of_pairs(texts, texts), wanted, rtol=1e-9)


@pytest.mark.parametrize(("name", "of_one"), [("chrf", sentence_chrf), ("bleu", sentence_bleu)])
def test_the_risk_is_the_mean_over_all_pairs(name, of_one):
    found = minimum_bayes_risk(TEXTS, name)
    wanted = np.array([np.mean([of_one(a, b) for b in TEXTS]) for a in TEXTS])
    np.testing.assert_allclose(found.utilities, wanted, rtol=1e-9)
    assert found.best == wanted.argmax() == 0
    same = minimum_bayes_risk(TEXTS, of_one)
    np.testing.assert_allclose(same.utilities, wanted, rtol=1e-9)


def test_repetitions_are_weights():
    others, weights = ["a b c", "a d", "x"], [3, 2, 1]
    drawn = [text for text, count in zip(others, weights, strict=True) for _ in range(count)]
    of_drawn = minimum_bayes_risk(["a b", "x", "a d"], references=drawn)
    weighted = minimum_bayes_risk(["a b", "x", "a d"], references=others, weights=weights)
    np.testing.assert_allclose(of_drawn.utilities, weighted.utilities, rtol=1e-12)
    sure = minimum_bayes_risk(["a b", "x", "a d"], references=others, weights=[0, 0, 1])
    assert sure.best == 1
    np.testing.assert_allclose(sure.utilities, [0, 100, 0])


def test_a_function_sees_each_pair_of_different_texts_once():
    seen = []

    def exact(text, reference):
        seen.append((text, reference))
        return float(text == reference)

    found = minimum_bayes_risk(["b", "a", "c", "a"], exact)
    assert found.best == 1
    np.testing.assert_allclose(found.utilities, [0.25, 0.5, 0.25, 0.5])
    assert len(seen) == len(set(seen)) == 9


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "at least one text and one reference, got none"),
        (["a"], {"references": []}, "at least one text and one reference, got none"),
        (["a"], {"utility": "ter"}, "`utility` must be one of chrf, bleu, or a function .*'ter'"),
        (["a", "b"], {"weights": [1]}, "`weights` must be one number for each of the 2 references"),
        (["a", "b"], {"weights": [1, -1]}, "0 or more and not all 0"),
        (["a", "b"], {"weights": [0, 0]}, "0 or more and not all 0"),
    ],
)
def test_bad_input(texts, options, message):
    with pytest.raises(UserError, match=message):
        minimum_bayes_risk(texts, **options)

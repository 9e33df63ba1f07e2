"""The TF-IDF baseline on a corpus of a few words, and the errors that name the way out."""

import sys

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.baselines import tfidf_logistic_regression

TEXTS = ["good fine film", "a good one", "bad dull film", "a bad one", "쓸 것", "쓸 말"]
LABELS = np.array([1, 1, 0, 0, 3, 3])


def test_words_decide():
    found = tfidf_logistic_regression(TEXTS, LABELS, ["good", "BAD bad", "쓸"], 5)
    assert found.shape == (3, 5)
    assert found.argmax(axis=1).tolist() == [1, 0, 3]
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert not found[:, [2, 4]].any()  # no training text has these
    again = tfidf_logistic_regression(TEXTS, LABELS, ["good", "BAD bad", "쓸"])
    assert again.shape == (3, 4)
    np.testing.assert_array_equal(found[:, :4], again)


def test_pairs_of_words_decide():
    texts = ["not good", "good not", "not good at all", "all good not at"]
    found = tfidf_logistic_regression(texts, np.array([0, 1, 0, 1]), ["good not", "not good"])
    assert found.argmax(axis=1).tolist() == [1, 0]


def test_two_classes_equal_the_formula():
    # One word a text: each row is a unit vector, so the regression is one of presence, solved here
    # by symmetry: weights w and -w and no intercept, with C * sigmoid(-w) * 2 texts = w.
    found = tfidf_logistic_regression(["up", "up", "down", "down"], np.array([1, 1, 0, 0]), ["up"])
    odds = np.log(found[0, 1] / found[0, 0])
    assert 10 * 2 * found[0, 0] == pytest.approx(odds, rel=1e-3)


def test_each_label_is_a_regression_of_its_own():
    labels = np.stack([LABELS == 1, LABELS != 3, LABELS >= 0, LABELS > 9], axis=1).astype(float)
    found = tfidf_logistic_regression(TEXTS, labels, ["good", "쓸"])
    assert (found > 0.5).astype(int).tolist() == [[1, 1, 1, 0], [0, 0, 1, 0]]
    assert found[0, 2] == 1  # every training text has it
    assert found[0, 3] == 0
    alone = tfidf_logistic_regression(TEXTS, labels[:, 0].astype(np.int64), ["good", "쓸"])
    np.testing.assert_array_equal(found[:, 0], alone[:, 1])


def test_errors_name_the_way_out(monkeypatch):
    with pytest.raises(UserError, match="at least two classes, got only class 2"):
        tfidf_logistic_regression(["a", "b"], np.array([2, 2]), ["a"])
    with pytest.raises(UserError, match="needs words in the training texts, got 2 texts"):
        tfidf_logistic_regression(["!", "?"], np.array([0, 1]), ["a"])
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(UserError, match=r"install jaxgen\[eval\]"):
        tfidf_logistic_regression(TEXTS, LABELS, ["good"])

"""Copied spans and n-grams against plain string search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.evaluation.memorisation import CorpusIndex, distinct, memorisation

texts = st.text("abc", max_size=40)


def ids(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def longest_common(text, corpus):
    spans = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    return max((len(span) for span in spans if span in corpus), default=0)


@settings(max_examples=60, deadline=None)
@given(texts, st.text("abcd", min_size=1, max_size=60), st.integers(1, 5))
def test_spans_and_ngrams_equal_string_search(text, corpus, n):
    index = CorpusIndex(ids(corpus))
    (copy,) = index.longest_copies([ids(text)])
    assert copy.length == longest_common(text, corpus)
    span = text[copy.start : copy.start + copy.length]
    assert corpus.find(span) == copy.corpus_start
    wanted = [corpus.find(text[i : i + n]) for i in range(len(text) - n + 1)]
    assert index.find(ids(text), n).tolist() == wanted


def test_a_report():
    corpus = "the cat sat on the mat"
    report = memorisation([ids("a cat sat in"), ids("on the mat!")], ids(corpus), ns=(1, 2, 20))
    assert report.longest == 10
    assert [copy.length for copy in report.copies] == [9, 10]
    assert report.novel[1] == 2 / 23  # i and !
    assert np.isnan(report.novel[20])
    assert distinct([ids("abab"), ids("ab")], 2) == 2 / 4


def test_tokens_that_the_corpus_has_not():
    index = CorpusIndex([3, 1, 2])
    assert index.find([3, 1, 900, -5, 2], 1).tolist() == [0, 1, -1, -1, 2]


def test_a_corpus_must_be_a_line_of_tokens():
    with pytest.raises(UserError, match="`corpus` must be token ids in one dimension"):
        CorpusIndex(np.zeros((2, 2)))

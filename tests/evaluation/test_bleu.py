"""BLEU and Self-BLEU beside the definition, worked by hand, and NLTK."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.evaluation.bleu import bleu, bleus, self_bleu, self_bleus, sentence_bleus

TOKENS = st.sampled_from("abc")
TEXTS = st.lists(st.lists(TOKENS, max_size=7), min_size=2, max_size=5)


def grams(text: Sequence[Any], n: int) -> Counter:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def by_definition(hypothesis: Sequence[Any], references: Sequence[Sequence[Any]], n: int) -> float:
    """Papineni et al. (2002) for one text, with 0.1 matches where there are none (method 1)."""
    product = 1.0
    for order in range(1, n + 1):
        counts = grams(hypothesis, order)
        known = [grams(reference, order) for reference in references]
        matches = sum(min(n, max(of[gram] for of in known)) for gram, n in counts.items())
        if order == 1 and matches == 0:
            return 0.0
        product *= (matches or 0.1) / max(sum(counts.values()), 1)
    length = len(hypothesis)
    nearest = min((abs(len(r) - length), len(r)) for r in references)[1]
    penalty = 1.0 if length > nearest else math.exp(1 - nearest / length)
    return penalty * product ** (1 / n)


@settings(max_examples=40)
@given(TEXTS, TEXTS)
def test_equals_the_definition(hypotheses: list, references: list) -> None:
    found = sentence_bleus(hypotheses, references, 4)
    others = sentence_bleus(hypotheses, None, 4)
    for i, text in enumerate(hypotheses):
        rest = hypotheses[:i] + hypotheses[i + 1 :]
        for n in range(1, 5):
            assert found[n - 1, i] == pytest.approx(by_definition(text, references, n))
            assert others[n - 1, i] == pytest.approx(by_definition(text, rest, n))


def test_numbers_worked_by_hand() -> None:
    """Counts are clipped to those of one reference, and the nearer reference sets the length."""
    text, references = ["the"] * 4 + ["cat"], [["the", "cat", "the"], ["a"] * 6 + ["cat"]]
    # Unigrams: `the` twice of four, `cat`; bigrams: `the cat` of four. 3 and 7 tokens are equally
    # near to 5, and the shorter counts: no penalty.
    assert bleu([text], references, 1) == pytest.approx(3 / 5)
    assert bleu([text], references, 2) == pytest.approx(math.sqrt(3 / 5 / 4))
    assert bleu([text], references, 3) == pytest.approx((3 / 5 / 4 * 0.1 / 3) ** (1 / 3))
    short = [["the", "cat"]]
    # One of 3 tokens is nearest: exp(1 - 3 / 2). Without trigrams 0.1 matches of 1.
    assert bleu(short, references, 2) == pytest.approx(math.exp(-0.5))
    assert bleu(short, references, 3) == pytest.approx(math.exp(-0.5) * 0.1 ** (1 / 3))


def test_the_mean_over_texts() -> None:
    """A text that nothing resembles, or without tokens, scores 0."""
    references = [["a", "b", "c"]]
    assert bleu([["a", "b", "c"], ["x", "y"], []], references, 2) == pytest.approx(1 / 3)
    assert bleus([["a", "b", "c"], ["x"]], references, 3) == pytest.approx({1: 0.5, 2: 0.5, 3: 0.5})
    assert bleu([[], []], [[]], 3) == 0.0


def test_self_bleu_leaves_the_text_itself_out() -> None:
    """`a a` has one `a` twice, and of the others the best has it once; equal texts score 1."""
    texts = [["a", "a"], ["a", "b"], ["c", "a"]]
    assert sentence_bleus(texts, None, 1)[0] == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert self_bleu([["a", "b", "c"]] * 3, 3) == pytest.approx(1.0)
    assert self_bleu([["a", "b"], ["c", "d"]], 2) == 0.0
    # Of 3 tokens there is no other text: of 2 and 4, the shorter is nearest to 3.
    lengths = [["a"] * n for n in (2, 3, 4)]
    assert sentence_bleus(lengths, None, 1)[0] == pytest.approx([math.exp(-0.5), 1.0, 3 / 4])


@pytest.mark.parametrize("length", [0, 1])
def test_texts_too_short_for_any_ngram(length: int) -> None:
    texts = [["a"] * length] * 3
    assert self_bleus(texts, 3) == pytest.approx(
        {n: length * 0.1 ** ((n - 1) / n) for n in (1, 2, 3)}
    )


def test_tokens_are_anything_that_a_dict_holds() -> None:
    """Arrays of integers, as one array or of several lengths, numbers beyond 32 bits, objects."""
    rows = np.random.default_rng(0).integers(0, 4, (6, 5))
    names = [[("token", int(t)) for t in row] for row in rows]
    large = [[int(t) << 70 for t in row] for row in rows]
    found = self_bleus(rows.tolist())
    assert found == self_bleus(rows) == self_bleus(list(rows)) == self_bleus(names)
    assert found == self_bleus(large)
    assert bleus([row[:3] for row in rows], rows) == bleus([row[:3] for row in names], names)


def test_many_tokens_have_ngrams_of_their_own() -> None:
    """No two n-grams share a number: permutations of 500 different tokens match in tokens alone."""
    rng = np.random.default_rng(1)
    texts = [rng.permutation(500) for _ in range(8)]
    found = sentence_bleus(texts[:4], texts[4:], 3)
    for i in range(4):
        want = [
            by_definition(texts[i].tolist(), [x.tolist() for x in texts[4:]], n) for n in (1, 3)
        ]
        assert found[[0, 2], i] == pytest.approx(want)


@pytest.mark.peers("nltk")
def test_nltk_says_the_same() -> None:
    from nltk.translate import bleu_score

    smooth = bleu_score.SmoothingFunction().method1
    rng = np.random.default_rng(0)
    for vocabulary in (2, 6, 40):
        texts, references = (
            [rng.integers(vocabulary, size=rng.integers(0, 10)).tolist() for _ in range(12)]
            for _ in range(2)
        )
        found, among = sentence_bleus(texts, references), sentence_bleus(texts, None)
        for i, text in enumerate(texts):
            others = texts[:i] + texts[i + 1 :]
            for n in range(1, 6):
                weights = [1 / n] * n
                want = [
                    bleu_score.sentence_bleu(x, text, weights, smooth) for x in (references, others)
                ]
                assert [found[n - 1, i], among[n - 1, i]] == pytest.approx(want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bleu([], [["a"]], 2), "`hypotheses` must hold at least one text, got none"),
        (lambda: bleu([["a"]], [], 2), "`references` must hold at least one text, got none"),
        (lambda: bleu([["a"]], [["a"]], 0), "`n` must be at least 1 token, got 0"),
        (lambda: bleu(["a b"], [["a"]], 2), "lists of tokens, got 'a b'; divide each first"),
        (lambda: self_bleu([["a"]], 2), "needs at least 2 texts, got 1; generate more"),
        (lambda: self_bleu(np.array([1, 2]), 2), "lists of tokens, got 1; divide each first"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()

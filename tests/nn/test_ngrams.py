"""Hashed n-grams: a dictionary of them in plain Python as the reference."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.ngrams import ngram_log_odds, ngram_scores

K, C, T, ORDER = 37, 2, 6, 3
LENGTHS = (6, 4, 2, 1, 0)
LARGEST = 2**31 - 1  # a token, so that the words overflow

scores_of = jax.jit(ngram_scores, static_argnames="order")


def bucket(ngram: tuple[int, ...], buckets: int) -> int:
    """By the definitions of `ngram_buckets` and of MurmurHash3, with integers that do not wrap."""
    words = 2**32
    first, *rest = ngram
    h = first + 1
    for token in rest:
        h = (h * 0x9E3779B1 % words) ^ (token + 1)
    h = (h ^ h >> 16) * 0x85EBCA6B % words
    h = (h ^ h >> 13) * 0xC2B2AE35 % words
    return (h ^ h >> 16) % buckets


def ngrams_of(row: list[int], order: int) -> Counter:
    return Counter(
        tuple(row[i : i + n]) for n in range(1, order + 1) for i in range(len(row) - n + 1)
    )


def expected_scores(
    table: np.ndarray, log_odds: np.ndarray, rows: list[list[int]], order: int
) -> np.ndarray:
    scores = np.zeros((len(rows), table.shape[1]))
    for row, score in zip(rows, scores, strict=True):
        found = ngrams_of(row, order)
        for ngram, count in found.items():
            place = bucket(ngram, len(table))
            score += count * table[place] * log_odds[place]
        score /= math.sqrt(max(found.total(), 1))
    return scores


@pytest.mark.parametrize("order", [1, ORDER, T + 2])
def test_scores_are_those_of_a_dictionary_of_ngrams(order: int) -> None:
    random = np.random.default_rng(order)
    tables = random.normal(size=(2, K, C)).astype(np.float32)
    tokens = random.integers(0, 5, (len(LENGTHS), T)).astype(np.int32)  # some n-grams occur twice
    tokens[0, 2] = LARGEST
    rows = [row[:n] for row, n in zip(tokens.tolist(), LENGTHS, strict=True)]
    found = scores_of(*tables, tokens.T, jnp.asarray(LENGTHS), order=order)
    np.testing.assert_allclose(found, expected_scores(*tables, rows, order), rtol=1e-5, atol=1e-4)
    beyond = np.where(np.arange(T) < np.array(LENGTHS)[:, None], tokens, LARGEST - tokens)
    longer = np.concatenate([beyond, tokens[:, :3]], axis=1)  # n-grams of other padding, and more
    same = scores_of(*tables, longer.T, jnp.asarray(LENGTHS), order=order)
    np.testing.assert_allclose(same, found, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("several", [False, True])  # labels that are true of a row
def test_log_odds_are_those_of_counted_texts(several: bool) -> None:
    random = np.random.default_rng(several)
    rows = [random.integers(0, 4, n).tolist() for n in random.integers(0, T + 1, 40)]
    labels = random.integers(0, 3, 40)
    is_true = random.random((40, 3)) < 0.3 if several else labels[:, None] == np.arange(3)
    is_true[:, 1] |= several  # a label that every text has
    tokens = np.array([row + [9] * (T - len(row)) for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)
    filled = [np.concatenate([x, np.zeros((8, *x.shape[1:]), np.int32)]) for x in (tokens, lengths)]
    parts = [slice(0, 16), slice(16, 32), slice(32, 48)]
    batches = ((*(x[part] for x in filled), is_true[part]) for part in parts)
    found = ngram_log_odds(batches, ORDER, K)
    usual = math.sqrt(sum(ngrams_of(row, ORDER).total() for row in rows) / len(rows))
    texts = [{bucket(ngram, K) for ngram in ngrams_of(row, ORDER)} for row in rows]
    for k in range(K):
        within = np.array([k in text for text in texts])
        for label, true in enumerate(is_true.T):
            share = true.mean()
            yes, no = (true & within).sum(), (~true & within).sum()
            expected = 0.0
            if yes + no >= 2 and 0 < share < 1:
                odds = (yes + 2 * share) / (no + 2 * (1 - share)) / (share / (1 - share))
                expected = usual * math.log(odds)
            assert found[k, label] == pytest.approx(expected, abs=1e-5)


def test_what_training_never_saw_has_log_odds_of_zero() -> None:
    rare = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [0, 1]])
    is_true = np.array([[True], [False], [False], [False], [False]])
    found = ngram_log_odds([(rare, np.full(5, 2), is_true)], 1, K)
    seen = {bucket((0,), K), bucket((1,), K)}
    assert {int(k) for k in np.flatnonzero(found)} <= seen
    assert found[bucket((0,), K)] == pytest.approx(0)  # all texts have it
    assert found[bucket((1,), K)] < -0.3  # two have it, and none of them the label


def test_ngrams_fall_evenly_into_buckets() -> None:
    """All pairs of 100 tokens in 64 buckets: chi-squared has mean 63 and deviation 11.2."""
    counts = Counter(bucket((a, b), 64) for a in range(100) for b in range(100))
    even = 100 * 100 / 64
    assert sum((counts[k] - even) ** 2 / even for k in range(64)) < 63 + 6 * 11.2

"""Hashed n-grams: a dictionary of them in plain Python as the reference."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.ngrams import SCALE, ngram_scores

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


def expected_scores(table: np.ndarray, rows: list[list[int]], order: int) -> np.ndarray:
    scores = np.zeros((len(rows), table.shape[1]))
    for row, score in zip(rows, scores, strict=True):
        found = Counter(
            tuple(row[i : i + n]) for n in range(1, order + 1) for i in range(len(row) - n + 1)
        )
        for ngram, count in found.items():
            score += count * table[bucket(ngram, len(table))]
        score *= SCALE / math.sqrt(max(found.total(), 1))
    return scores


@pytest.mark.parametrize("order", [1, ORDER, T + 2])
def test_scores_are_those_of_a_dictionary_of_ngrams(order: int) -> None:
    random = np.random.default_rng(order)
    table = random.normal(size=(K, C)).astype(np.float32)
    tokens = random.integers(0, 5, (len(LENGTHS), T)).astype(np.int32)  # some n-grams occur twice
    tokens[0, 2] = LARGEST
    rows = [row[:n] for row, n in zip(tokens.tolist(), LENGTHS, strict=True)]
    found = scores_of(table, tokens.T, jnp.asarray(LENGTHS), order=order)
    np.testing.assert_allclose(found, expected_scores(table, rows, order), rtol=1e-5, atol=1e-4)
    beyond = np.where(np.arange(T) < np.array(LENGTHS)[:, None], tokens, LARGEST - tokens)
    longer = np.concatenate([beyond, tokens[:, :3]], axis=1)  # n-grams of other padding, and more
    same = scores_of(table, longer.T, jnp.asarray(LENGTHS), order=order)
    np.testing.assert_allclose(same, found, rtol=1e-6, atol=1e-5)


def test_ngrams_fall_evenly_into_buckets() -> None:
    """All pairs of 100 tokens in 64 buckets: chi-squared has mean 63 and deviation 11.2."""
    counts = Counter(bucket((a, b), 64) for a in range(100) for b in range(100))
    even = 100 * 100 / 64
    assert sum((counts[k] - even) ** 2 / even for k in range(64)) < 63 + 6 * 11.2

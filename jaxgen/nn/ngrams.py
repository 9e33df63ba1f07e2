"""Hashed n-grams: a linear score of a row's n-grams of tokens, each with a row of one table."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.inputs import real_steps
from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Bool, Float, Int

IsTrue = Bool[np.ndarray, "R C"] | Float[np.ndarray, "R C"]

FEWEST_TEXTS = 2
"""An n-gram of one text alone tells that text, not its label: it has log-odds of zero."""

# The product with an odd number permutes the words of 32 bits: 2**32 / golden ratio, and the two of
# MurmurHash3's finalizer, which spreads each bit over all of them.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


def ngram_scores(
    table: Float[Array, "K C"],
    log_odds: Float[Array, "K C"],
    tokens: Int[Array, "T B"],
    lengths: Int[Array, "B"],
    order: int,
) -> Float[Array, "B C"]:
    """The sum of weight times log-odds of a row's n-grams, by the root of their number.

    Were all n-grams of a row different, their counts would so have one L2 norm, as in TF-IDF.

    Args:
        table: a weight of the n-grams of each bucket for each logit; those of one bucket share it.
        log_odds: see `ngram_log_odds`; no gradient flows to them.
        tokens: time-major, of any values.
        lengths: real tokens of each row; an n-gram with one beyond them counts for nothing.
        order: tokens of the longest n-grams, at least 1.

    Returns:
        float32; zeros for a row of no token.

    Source: the n-grams and hashing of fastText (Joulin et al. 2017), the linear part beside a
    network of Cheng et al. (2016), "Wide & Deep Learning", and the features of Wang & Manning
    (2012), "Baselines and Bigrams".
    """
    buckets, real = ngram_buckets(tokens, lengths, order, len(table))
    rows = lookup(table, buckets) * jax.lax.stop_gradient(log_odds)[buckets]
    rows = jnp.where(real[..., None], rows, 0)
    count = jnp.maximum(real.sum(axis=0), 1).astype(jnp.float32)
    return rows.sum(axis=0) / jnp.sqrt(count)[:, None]


def ngram_log_odds(
    batches: Iterable[tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B"], IsTrue]],
    order: int,
    buckets: int,
) -> Float[np.ndarray, "K C"]:
    """By how much an n-gram raises the log-odds of a label: what naive Bayes would add for it.

    With n texts that hold an n-gram of the bucket, m of them with the label, and a share p of all
    texts with the label, log((m + 2p) / (n - m + 2(1 - p))) - log(p / (1 - p)): of two labels as
    frequent as each other log((m + 1) / (n - m + 1)).

    Args:
        batches: of the training texts: tokens; real tokens of each row; 1 where a label is true
            of a row, else 0, of the first R rows: the others, of no tokens, only fill the batch. As
            few shapes as there can be: each compiles a program.
        order: as in `ngram_scores`.
        buckets: K.

    Returns:
        The log-odds times the root of the mean number of n-grams of a text: texts of usual length
        then have scores as large, and follow Adam as fast, be all long or all short. float32; 0 for
        a bucket of fewer than 2 texts, and for a label of all texts or of none.

    Source: Wang & Manning (2012), but for the smoothing, which leaves what is rare at zero where
    labels are not equally frequent.
    """
    find = jax.jit(partial(ngram_buckets, order=order, buckets=buckets))
    counts: Any = 0.0  # [K, C + 1]: texts with each label, and at last all
    texts: Any = 0.0  # [C + 1], without regard to n-grams
    ngrams = 0
    for tokens, lengths, is_true in batches:
        columns = np.append(is_true, np.ones((len(is_true), 1)), axis=1)
        found, real = (np.asarray(x).T for x in find(tokens.T, lengths))
        ordered = np.sort(np.where(real, found, buckets), axis=1)  # a text counts once
        first = np.diff(ordered, axis=1, prepend=-1) > 0
        rows, at = np.nonzero(first & (ordered < buckets))
        places = ordered[rows, at]
        counted = [np.bincount(places, column[rows], buckets) for column in columns.T]
        counts = counts + np.stack(counted, axis=1)
        texts = texts + columns.sum(axis=0)
        ngrams += real.sum()
    true, total = counts[:, :-1], counts[:, -1:]
    share = texts[:-1] / texts[-1]
    with np.errstate(divide="ignore", invalid="ignore"):  # a label of all texts, or of none
        odds = (true + 2 * share) / (total - true + 2 * (1 - share)) * (1 - share) / share
        found = np.log(odds)
    known = (total >= FEWEST_TEXTS) & (share > 0) & (share < 1)
    return np.where(known, found * np.sqrt(ngrams / texts[-1]), 0).astype(np.float32)


def ngram_buckets(
    tokens: Int[Array, "T B"], lengths: Int[Array, "B"], order: int, buckets: int
) -> tuple[Int[Array, "N B"], Bool[Array, "N B"]]:
    """The bucket of each n-gram, and whether all its tokens are real: first those of one token.

    The hash of a_1 .. a_n, in words of 32 bits: h = a_1 + 1, then h = h * g ^ (a_i + 1) for each
    further token, at last mixed and taken modulo the buckets.
    """
    ids = tokens.astype(jnp.uint32) + jnp.uint32(1)
    hashes, found = ids, [ids]
    for n in range(2, order + 1):
        hashes = (hashes[:-1] * jnp.uint32(_GOLDEN)) ^ ids[n - 1 :]
        found.append(hashes)
    real = [real_steps(len(some), lengths - n) for n, some in enumerate(found)]
    bucket = _mixed(jnp.concatenate(found)) % jnp.uint32(buckets)
    return bucket.astype(jnp.int32), jnp.concatenate(real)


def _mixed(x: Array) -> Array:
    """The finalizer of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(_MIX_1)
    x = (x ^ (x >> 13)) * jnp.uint32(_MIX_2)
    return x ^ (x >> 16)

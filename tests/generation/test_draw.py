"""The draw against sorts, and its frequencies against the probabilities."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.generation.beam_model import log_probabilities
from jaxgen.generation.draw import (
    _block,
    _pick,
    _row_sums,
    draw,
    filter_logits,
    mass_threshold,
    noise,
)
from jaxgen.generation.largest import keep_top_k, top_k
from jaxgen.generation.sampling import SamplingParams

KEY = jax.random.key(3)
draw_rows = jax.jit(draw)
top_of_one = jax.jit(keep_top_k)


@jax.jit
def draw_alone(logits, rows, draws):
    """A row at a time; each argument has an axis of rows, and one of a single row."""
    return jax.lax.map(lambda row: draw(*row)[0], (logits, rows, draws))


def softmax(logits):
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return weights / weights.sum()


def sorted_filter(logits, temperature=1.0, top_k=None, top_p=None, min_p=None, typical_p=None):
    """Probabilities after each filter in turn, by sorting, in float64."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    p = softmax(logits / temperature)

    def cut(keep):
        kept = np.where(keep, p, 0)
        return kept / kept.sum()

    if top_k:
        p = cut(np.argsort(np.argsort(-p, kind="stable")) < top_k)
    if top_p is not None and top_p < 1:
        p = cut(np.array([p[p > x].sum() < top_p for x in p]))
    if min_p is not None:
        p = cut(p >= min_p * p.max())
    if typical_p is not None and typical_p < 1:
        surprise = -np.log(np.where(p > 0, p, 1))
        away = np.where(p > 0, np.abs(surprise - (p * surprise).sum()), np.inf)
        p = cut(np.array([p[away < x].sum() < typical_p for x in away]) & (p > 0))
    return p


SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"top_k": 3},
    {"top_k": 0},
    {"top_p": 0.8},
    {"top_p": 1.0},
    {"top_p": 0.05},
    {"min_p": 0.2},
    {"typical_p": 0.6},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.7, "min_p": 0.05},
    {"top_p": 0.9, "typical_p": 0.7, "temperature": 0.8},
    {"temperature": 0.0, "top_p": 0.9, "top_k": 4},
]


@pytest.mark.parametrize(
    ("options", "size"),
    [*((options, 13) for options in SETTINGS), ({"top_p": 0.8}, 300), ({}, 2)],
    ids=str,
)
def test_filters_and_frequencies_are_those_of_a_sort(options, size):
    """The kept set equals the sort's; frequencies pass a chi-square test.

    With the fixed key the test is deterministic; the bound is that of a false alarm in 1e6 cases.
    """
    logits = jax.random.normal(jax.random.fold_in(KEY, size), (1, size)) * 2
    expected = sorted_filter(logits[0], **options)
    sampling = SamplingParams(**options)
    kept = jax.jit(filter_logits)(logits, sampling.rows(1))
    np.testing.assert_allclose(softmax(kept[0]), expected, rtol=2e-5, atol=1e-7)

    count = 20_000
    keys = jax.random.split(KEY, count)
    draws = jax.tree.map(lambda x: x[0], noise(keys, jnp.zeros((1, count), int), sampling))
    rows = sampling.rows(count)
    many = jnp.broadcast_to(logits, (count, size))
    tokens = draw_rows(many, rows, draws)

    # A row alone draws what it draws among others.
    some = jax.tree.map(lambda x: x[:100, None], (many, rows, draws))
    alone = draw_alone(*some)
    assert alone.tolist() == tokens[:100].tolist()

    seen = np.bincount(np.asarray(tokens), minlength=size)
    assert (seen[expected == 0] == 0).all()
    likely = expected * count >= 5
    observed = np.append(seen[likely], seen[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum()) * count
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    chi2, freedom = ((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1
    # Wilson-Hilferty: 4.75 standard deviations.
    bound = (
        freedom * (1 - 2 / (9 * max(freedom, 1)) + 4.75 * (2 / (9 * max(freedom, 1))) ** 0.5) ** 3
    )
    assert chi2 <= max(bound, 1e-6 * count)


@pytest.mark.slow
def test_min_p_keeps_its_edge_to_half_a_percent():
    """Beside typical-p, which takes min-p by another way, and alone; also of what is drawn."""
    weights = jnp.array([1.0, 0.1005, 0.0995, 0.5])
    for options in ({"min_p": 0.1}, {"min_p": 0.1, "typical_p": 0.999999}):
        sampling = SamplingParams(**options)
        kept = filter_logits(jnp.log(weights)[None], sampling.rows(1))[0]
        assert (np.asarray(kept) > -np.inf).tolist() == [True, True, False, True], options
        keys, steps = jax.random.split(KEY, 64), jnp.zeros((1, 64), int)
        one = jax.tree.map(lambda x: x[0], noise(keys, steps, sampling))
        one = one._replace(uniforms=one.uniforms.at[:, 0].set(jnp.arange(64) / 64))
        rows = jnp.broadcast_to(jnp.log(weights), (64, 4))
        assert set(draw(rows, sampling.rows(64), one).tolist()) == {0, 1, 3}, options


def test_top_p_keeps_ties_together():
    logits = jnp.log(jnp.array([0.4, 0.2, 0.2, 0.2]))
    both = jnp.stack([logits, logits])
    kept = filter_logits(both, SamplingParams(top_p=[0.5, 0.39]).rows(2))
    assert (np.asarray(kept) > -np.inf).tolist() == [[True] * 4, [True, False, False, False]]


def draw_one(logits, uniforms=(0.3, 0.6), **options):
    sampling = SamplingParams(**options)
    one = jax.tree.map(lambda x: x[0], noise(KEY[None], jnp.zeros((1, 1), int), sampling))
    one = one._replace(uniforms=jnp.array([uniforms], jnp.float32))
    return int(draw_rows(logits[None], sampling.rows(1), one)[0])


def test_top_k_and_greedy_take_the_lower_of_equal_tokens():
    logits = jnp.array([0.0, 1.0, 1.0, 1.0])
    kept = filter_logits(logits[None], SamplingParams(top_k=2).rows(1))
    assert (np.asarray(kept) > -np.inf).tolist() == [[False, True, True, False]]
    assert draw_one(logits, temperature=0.0) == 1
    assert draw_one(jnp.tile(logits, 200), temperature=0.0) == 1


def test_a_row_without_an_allowed_token_draws_minus_one():
    assert draw_one(jnp.full(9, -jnp.inf), top_p=0.9) == -1
    assert draw_one(jnp.full(999, -jnp.inf)) == -1


@pytest.mark.parametrize("size", [100, 1001])
def test_banned_tokens_are_never_drawn_whatever_the_uniform(size):
    logits = jnp.where(jnp.arange(size) % 7 == 3, 0.0, -jnp.inf)
    ends = [0.0, 2.0**-24, 0.5, 1 - 2.0**-24, 1.0]
    for uniforms in itertools.product(ends, ends):
        assert draw_one(logits, uniforms) % 7 == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(5000, 8), (4096, 64), (2049, 3)]))
def test_top_k_by_blocks_equals_a_plain_one(seed, shape):
    size, k = shape
    x = np.random.default_rng(seed).integers(0, 50, size).astype(np.float32)
    for got, wanted in zip(top_k(jnp.asarray(x), k), jax.lax.top_k(x, k), strict=True):
        np.testing.assert_array_equal(got, wanted)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([40, 2730]))
def test_exactly_k_are_kept_of_few_rows_and_of_many(seed, size):
    """Ties, both zeros and minus infinity included; of a large vocabulary by blocks."""
    rng = np.random.default_rng(seed)
    logits = rng.choice([-np.inf, -1.5, -0.0, 0.0, 2.0], (9, size), p=[0.3, 0.3, 0.15, 0.15, 0.1])
    logits[:4] = rng.normal(size=(4, size))
    logits = logits.astype(np.float32)
    k = rng.integers(1, 41, 9)
    values, ids, peak = map(
        np.asarray, jax.jit(keep_top_k)(logits, SamplingParams(top_k=k, max_top_k=40).rows(9))
    )
    np.testing.assert_array_equal(peak, logits.max(axis=1))
    for row in range(9):
        best = np.argsort(-(logits[row] + 0.0), kind="stable")[: k[row]]
        wanted = np.where(np.isin(np.arange(size), best), logits[row], -np.inf)
        np.testing.assert_array_equal(values[row], wanted[ids[row]])
        assert set(best) <= set(ids[row])
        alone = SamplingParams(top_k=k[row], max_top_k=40)
        few, same, _ = map(np.asarray, top_of_one(logits[row : row + 1], alone.rows(1)))
        np.testing.assert_array_equal(few[0], wanted[same[0]])
        assert same[0].tolist() == ids[row].tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.01, 1.0))
def test_mass_threshold_equals_a_sort(seed, mass):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-6, 6, 24).astype(np.float32) * 0.37
    weights = rng.integers(0, 5, 24).astype(np.float32)
    target = np.float32(mass * weights.sum())
    wanted = min([s for s in scores if weights[scores > s].sum() < target], default=scores.max())
    rows = (scores[None], weights[None], target[None])
    assert jax.jit(mass_threshold)(*rows) == wanted


@pytest.mark.parametrize(("size", "divides"), [(330, True), (1000, True), (331, False)])
def test_a_pick_inverts_the_masses_exactly_whether_or_not_blocks_divide(size, divides):
    """Of whole weights every value of a fine grid of uniform numbers picks its own unit of mass."""
    assert (_block(size) is not None) == divides
    weights = np.random.default_rng(size).integers(0, 3, size)
    block = _block(size) or 1 << round(math.log2(size) / 2)
    masses = np.add.reduceat(weights, np.arange(0, size, block))
    pick = jax.jit(_pick)
    seen = np.zeros(size)
    for first in np.flatnonzero(masses):
        # The middle of each unit of this block's mass, and of each unit within it.
        place = (masses[:first].sum() + masses[first] / 2) / masses.sum()
        within = (np.arange(masses[first]) + 0.5) / masses[first]
        rows = np.zeros((2 * block, 2), np.float32)
        rows[: len(within)] = np.stack([np.full(len(within), place), within], axis=1)
        many = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), (len(rows), size))
        found = np.asarray(pick(many, jnp.asarray(rows)))[: len(within)]
        seen += np.bincount(found, minlength=size)
    np.testing.assert_array_equal(seen, weights)


@pytest.mark.parametrize("size", [100, 1000, 1009])
def test_sums_of_rows_are_those_of_numpy(size):
    rows = np.random.default_rng(size).random((3, size)).astype(np.float32)
    np.testing.assert_allclose(_row_sums(jnp.asarray(rows)), rows.sum(1, np.float64), rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.0}, {"top_k": 5}, {"top_k": 5, "top_p": 0.9}]
)
def test_one_nan_among_many_logits_is_seen(settings):
    rows = SamplingParams(**settings).rows(3)
    draws = jax.tree.map(
        lambda x: x[0], noise(jax.random.split(KEY, 3), jnp.zeros((1, 3), jnp.int32), rows)
    )
    logits = jax.random.normal(KEY, (3, 2730)).at[1, 17].set(jnp.nan)
    tokens = draw_rows(logits, rows, draws)
    assert (tokens >= 0).tolist() == [True, False, True]
    assert jax.jit(log_probabilities)(logits)[1].tolist() == [False, True, False]

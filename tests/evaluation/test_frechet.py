"""The Fréchet distance beside its formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from jaxgen.errors import UserError
from jaxgen.evaluation.frechet import frechet_distance


def test_of_one_dimension() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2, of -1, 1 and of 2, 8: means 0 and 5, deviations sqrt 2 and 3."""
    first, second = np.array([[-1.0], [1.0]]), np.array([[2.0], [8.0]])
    expected = 25 + (np.sqrt(18) - np.sqrt(2)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_of_diagonal_covariances() -> None:
    """A dimension each: the distances add up."""
    corners = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    deviation = np.sqrt(4 / 3)
    stretched = corners * [3.0, 0.5] + [0.0, 2.0]
    expected = deviation**2 * ((3 - 1) ** 2 + (1 - 0.5) ** 2) + 4
    assert frechet_distance(corners, stretched) == pytest.approx(expected)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(2, 12), st.integers(2, 12), st.integers(0, 2**31))
def test_equals_the_square_root_of_the_product(size: int, n: int, m: int, seed: int) -> None:
    """The trace of (C1 C2)^(1/2) is the sum of the roots of the product's eigenvalues."""
    rng = np.random.default_rng(seed)
    first, second = (
        rng.normal(size=(n, size)),
        rng.normal(1, 2, (m, size)) @ rng.normal(size=(size, size)),
    )
    c1, c2 = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (first, second))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(c1 @ c2).real, 0)).sum()
    means = np.sum((first.mean(0) - second.mean(0)) ** 2)
    expected = means + np.trace(c1) + np.trace(c2) - 2 * roots
    # A root of a rounding error of an eigenvalue is 1e-8 of the largest root.
    scale = 1e-6 * max(np.trace(c1) + np.trace(c2), 1)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6, abs=scale)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6, abs=scale)
    assert frechet_distance(first, first[::-1]) == pytest.approx(0, abs=scale)


def test_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(50, 8)), rng.normal(size=(40, 8)) @ rng.normal(size=(8, 8))
    c1, c2 = (np.cov(x, rowvar=False) for x in (first, second))
    means = np.sum((first.mean(0) - second.mean(0)) ** 2)
    expected = means + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), r"two texts or more.*got \[1, 3\] and \[5, 3\]"),
        (np.zeros((4, 3)), np.zeros((4, 2)), r"got \[4, 3\] and \[4, 2\]"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "finite features, got NaN or inf"),
    ],
)
def test_bad_input(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        frechet_distance(first, second)

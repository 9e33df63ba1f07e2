"""Adversarial losses against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.gan_losses import (
    AdversarialLoss,
    discriminator_loss,
    entropy,
    generator_loss,
)

RANDOM = np.random.default_rng(0)
REAL, FAKE = RANDOM.normal(size=(2, 4, 3)).astype(np.float32) * 2
REAL_WEIGHTS = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
FAKE_WEIGHTS = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]], np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(values[weights > 0].mean())


PAIRS = REAL_WEIGHTS * FAKE_WEIGHTS
EXPECTED: dict[AdversarialLoss, tuple[float, float]] = {
    "non_saturating": (
        mean(-np.log(sigmoid(REAL)), REAL_WEIGHTS) + mean(-np.log(sigmoid(-FAKE)), FAKE_WEIGHTS),
        mean(-np.log(sigmoid(FAKE)), FAKE_WEIGHTS),
    ),
    "hinge": (
        mean(np.maximum(0, 1 - REAL), REAL_WEIGHTS) + mean(np.maximum(0, 1 + FAKE), FAKE_WEIGHTS),
        -mean(FAKE, FAKE_WEIGHTS),
    ),
    "relativistic": (
        mean(-np.log(sigmoid(REAL - FAKE)), PAIRS),
        mean(-np.log(sigmoid(FAKE - REAL)), PAIRS),
    ),
}


@pytest.mark.parametrize("loss", EXPECTED)
def test_losses_are_their_formulas(loss: AdversarialLoss) -> None:
    real = np.where(REAL_WEIGHTS > 0, REAL, np.nan)  # what has no weight may be anything
    scores = (*map(jnp.asarray, (real, FAKE, REAL_WEIGHTS, FAKE_WEIGHTS)),)
    found = discriminator_loss(loss, *scores), generator_loss(loss, *scores)
    np.testing.assert_allclose(found, EXPECTED[loss], rtol=1e-5)


def test_entropy() -> None:
    p = np.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    expected = [1.5 * np.log(2), np.log(3)]
    np.testing.assert_allclose(entropy(jnp.log(p) + 7), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: entropy(x).sum())(jnp.log(p))
    np.testing.assert_allclose(gradient[1], 0, atol=1e-6)  # it is largest there

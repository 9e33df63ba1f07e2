"""Reliability, temperature and threshold against scikit-learn, SciPy and trying every one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve

from jaxgen.errors import UserError
from jaxgen.evaluation.calibration import best_threshold, fit_temperature, reliability
from jaxgen.evaluation.classification import log_probabilities, nll_of_logits, predictions

seeds = st.integers(0, 2**32 - 1)


def draw(seed, count, classes, multi_label):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)).round(1)
    if multi_label:
        return (rng.random((count, classes)) < 0.4).astype(np.float64), logits
    return rng.integers(0, classes, count), logits


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 60), st.integers(2, 4), st.booleans())
def test_the_bins_equal_scikit_learns(seed, count, classes, multi_label):
    labels, logits = draw(seed, count, classes, multi_label)
    probabilities = np.exp(log_probabilities(logits, multi_label=multi_label))
    found = reliability(labels, probabilities)
    if multi_label:
        top = np.maximum(probabilities, 1 - probabilities).ravel()
        right = ((probabilities >= 0.5) == labels).ravel()
    else:
        top = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, top, n_bins=15)
    kept = found.counts > 0
    np.testing.assert_allclose(found.accuracy[kept], accuracy, atol=1e-12)
    np.testing.assert_allclose(found.confidence[kept], confidence, atol=1e-12)
    # By hand, bin for bin.
    inside = [(top > k / 15) & (top <= (k + 1) / 15) for k in range(15)]
    assert found.counts.tolist() == [int(rows.sum()) for rows in inside]
    gaps = [abs(right[rows].sum() - top[rows].sum()) for rows in inside]
    assert found.ece == pytest.approx(sum(gaps) / len(top), abs=1e-12)


def test_certain_predictions_and_exact_edges():
    found = reliability(np.array([1, 0, 0]), np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.4]]))
    assert found.counts[-1] == 2
    assert found.counts[8] == 1  # (8/15, 9/15]
    assert found.ece == pytest.approx(0.4 / 3)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 4), st.booleans(), st.floats(0.3, 4.0))
def test_the_temperature_is_the_likeliest(seed, classes, multi_label, sharpness):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(200, classes)) * 2
    # Labels drawn by the logits' own probabilities: the temperature undoes the sharpness.
    probabilities = np.exp(log_probabilities(logits, multi_label=multi_label))
    if multi_label:
        labels = (rng.random(logits.shape) < probabilities).astype(np.float64)
    else:
        labels = (rng.random((200, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
        labels = np.minimum(labels, classes - 1)
    found = fit_temperature(labels, logits * sharpness)
    best = minimize_scalar(
        lambda b: nll_of_logits(labels, logits * sharpness, temperature=1 / b),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert 1 / found == pytest.approx(best.x, rel=1e-4)  # the minimum is flat to half the digits
    assert nll_of_logits(labels, logits * sharpness, temperature=found) <= best.fun + 1e-12
    # Dividing all logits by a number divides the temperature by it.
    assert fit_temperature(labels, logits) * sharpness == pytest.approx(found, rel=1e-8)


def test_the_temperature_stays_within_its_bounds():
    labels = np.array([0, 1, 1])
    logits = np.array([[0.0, -1.0], [0.0, 1.0], [0.0, 2.0]])
    assert fit_temperature(labels, logits) == pytest.approx(0.05)  # no mistakes
    assert fit_temperature(1 - labels, logits) == pytest.approx(20.0)  # nothing but mistakes
    assert fit_temperature(labels, np.full((3, 2), 7.0)) == 1.0  # nothing to scale
    assert fit_temperature(np.eye(2), np.zeros((2, 2))) == 1.0


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 25), st.booleans(), st.booleans())
def test_no_threshold_is_better(seed, count, multi_label, extreme):
    labels, logits = draw(seed, count, 2, multi_label)
    probabilities = np.exp(log_probabilities(logits, multi_label=multi_label)).round(1)
    if extreme:
        probabilities[0] = 0.0, 1.0
    found = best_threshold(labels, probabilities)

    def value(threshold):
        predicted = predictions(probabilities, multi_label=multi_label, threshold=threshold)
        right = ((predicted == 1) & (labels == 1)).sum()
        if multi_label:
            return 2 * right / max((predicted == 1).sum() + (labels == 1).sum(), 1)
        return (predicted == labels).mean()

    assert 0 < found.threshold < 1
    assert value(found.threshold) == pytest.approx(found.value, abs=1e-12)
    # One on each side of every probability there is.
    assert found.value == pytest.approx(max(map(value, np.arange(0.05, 1, 0.1))), abs=1e-12)


def test_the_threshold_lies_midway_and_near_one_half():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]])
    assert best_threshold(np.array([0, 0, 1, 1]), probabilities) == (pytest.approx(0.6), 1.0)
    # 0.25 and 0.85 are equally good.
    found = best_threshold(np.array([0, 1, 0, 1]), probabilities)
    assert found == (pytest.approx(0.25), 0.75)
    close = np.array([[0.5, 0.5], [0.5, np.nextafter(0.5, 1)]])
    found = best_threshold(np.array([0, 1]), close)
    assert found == (np.nextafter(0.5, 1), 1.0)


def test_many_classes_have_no_threshold():
    with pytest.raises(UserError, match="`threshold` is for two classes"):
        best_threshold(np.array([0]), np.full((1, 3), 1 / 3))

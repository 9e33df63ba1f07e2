"""A classifier's figures against scikit-learn and SciPy, with ties and classes that are absent."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from jaxgen.errors import UserError
from jaxgen.evaluation import classification as figures
from jaxgen.evaluation.classification_report import report

seeds = st.integers(0, 2**32 - 1)


def draw(seed, count, classes, levels=4):
    """Labels of some of the classes, and logits of few different values: ties are common."""
    rng = np.random.default_rng(seed)
    present = rng.integers(0, classes, size=rng.integers(1, classes + 1))
    labels = rng.choice(present, size=count)
    return labels, rng.integers(-levels, levels, (count, classes)).astype(np.float32)


def draw_multi(seed, count, classes):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < rng.choice([0.0, 0.3, 0.6, 1.0], classes)).astype(
        np.float64
    )
    return labels, rng.integers(-3, 4, (count, classes)).astype(np.float32)


def same_per_class(found, labels, predicted, classes):
    wanted = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def same_f1(found, labels, predicted, classes):
    for average in ("macro", "micro", "weighted"):
        wanted = metrics.f1_score(
            labels, predicted, labels=range(classes), average=average, zero_division=0
        )
        assert found[f"f1_{average}"] == pytest.approx(wanted, abs=1e-12)


def same_auc(found, positive, scores):
    if positive.all() or not positive.any():
        assert found is None
    else:
        wanted = metrics.roc_curve(positive, scores, drop_intermediate=False)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
        assert found.auc == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 30), st.integers(2, 5))
def test_one_label_equals_scikit_learn(seed, count, classes):
    labels, logits = draw(seed, count, classes)
    probabilities = np.exp(figures.log_probabilities(logits))
    predicted = figures.predictions(probabilities)
    confusion = figures.confusion_matrix(labels, predicted, classes)
    wanted = metrics.confusion_matrix(labels, predicted, labels=range(classes))
    np.testing.assert_array_equal(confusion, wanted)
    same_per_class(figures.class_figures(confusion), labels, predicted, classes)
    found = figures.figures_from_confusion(confusion)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    same_f1(found, labels, predicted, classes)
    assert found == figures.figures_from_confusion(confusion.astype(np.float32))  # sums of training
    wanted = metrics.log_loss(labels, probabilities, labels=range(classes))
    assert figures.nll(labels, probabilities) == pytest.approx(wanted, rel=1e-12)
    assert figures.nll_of_logits(labels, logits) == pytest.approx(wanted, rel=1e-12)
    # Two classes: written out, as scikit-learn wants its `labels` as strings there.
    wanted = (
        np.mean((probabilities[:, 1] - labels) ** 2)
        if classes == 2
        else metrics.brier_score_loss(labels, probabilities, labels=list(range(classes)))
    )
    assert figures.brier(labels, probabilities) == pytest.approx(wanted, abs=1e-12)
    for c, curve in enumerate(figures.roc_curves(labels, probabilities)):
        same_auc(curve, labels == c, probabilities[:, c])


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 30), st.integers(2, 4))
def test_several_labels_equal_scikit_learn(seed, count, classes):
    labels, logits = draw_multi(seed, count, classes)
    probabilities = np.exp(figures.log_probabilities(logits, multi_label=True))
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    predicted = figures.predictions(probabilities, multi_label=True, threshold=0.4)
    np.testing.assert_array_equal(predicted, (probabilities >= 0.4).astype(np.float64))
    confusion = figures.confusion_matrix(labels, predicted, classes)
    np.testing.assert_array_equal(confusion, metrics.multilabel_confusion_matrix(labels, predicted))
    same_per_class(figures.class_figures(confusion), labels, predicted, classes)
    found = figures.figures_from_confusion(confusion)
    assert found["label_accuracy"] == pytest.approx(1 - metrics.hamming_loss(labels, predicted))
    same_f1(found, labels, predicted, classes)
    right = figures.is_right(labels, predicted).mean()
    assert right == pytest.approx(metrics.accuracy_score(labels, predicted))
    each = [
        metrics.log_loss(labels[:, c], probabilities[:, c], labels=[0, 1]) for c in range(classes)
    ]
    assert figures.nll(labels, probabilities) == pytest.approx(np.mean(each), rel=1e-9)
    assert figures.nll_of_logits(labels, logits) == pytest.approx(np.mean(each), rel=1e-9)
    each = np.mean([(probabilities[:, c] - labels[:, c]) ** 2 for c in range(classes)])
    assert figures.brier(labels, probabilities) == pytest.approx(each)
    for c, curve in enumerate(figures.roc_curves(labels, probabilities)):
        same_auc(curve, labels[:, c] == 1, probabilities[:, c])


def test_two_classes_equal_scikit_learns_binary_brier():
    labels, logits = draw(3, 50, 2)
    labels[:2] = 0, 1
    probabilities = np.exp(figures.log_probabilities(logits, temperature=2.5))
    wanted = metrics.brier_score_loss(labels, probabilities[:, 1])
    assert figures.brier(labels, probabilities) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 40), (7, 9), (22837, 25000)])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_is_wilsons(correct, total, level):
    wanted = binomtest(correct, total).proportion_ci(level, method="wilson")
    found = figures.accuracy_interval(correct, total, level)
    assert found == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert 0 <= found[0] <= correct / total <= found[1] <= 1


def test_a_certain_mistake_costs_a_finite_number_of_nats():
    labels = np.array([0, 1])
    probabilities = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert figures.nll(labels, probabilities) == pytest.approx(52 * math.log(2) / 2, rel=1e-12)
    logits = np.array([[-500.0, 500.0], [0.0, 0.0]])
    assert figures.nll_of_logits(labels, logits) == pytest.approx((1000 + math.log(2)) / 2)
    several = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert figures.nll_of_logits(several, logits) == pytest.approx(math.log(2) / 2)


def test_the_threshold_is_that_of_the_second_class():
    probabilities = np.array([[0.3, 0.7], [0.31, 0.69], [0.1, 0.9]])
    assert figures.predictions(probabilities, threshold=0.7).tolist() == [1, 0, 1]
    three = np.array([[0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])
    assert figures.predictions(three, threshold=0.9).tolist() == [1, 2]


def test_the_majority_class():
    labels = np.array([0, 2, 2, 2, 1])
    found = figures.majority_figures(labels, 4)
    assert found == pytest.approx({"accuracy": 0.6, "f1_macro": 0.75 / 4})
    assert figures.majority_figures(labels, 4, np.array([5, 1, 4, 0]))["accuracy"] == 0.2
    several = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    found = figures.majority_figures(several, 2)
    assert found == pytest.approx({"accuracy": 2 / 3, "f1_macro": 0.5})


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["random", "perfect", "constant", "one class"])
def test_a_report_equals_scikit_learn_and_goes_into_json(kind, classes, multi_label):
    labels, logits = (draw_multi if multi_label else draw)(11, 40, classes)
    true = labels if multi_label else np.eye(classes)[labels]
    if kind == "perfect":
        logits = (20 * true - 10).astype(np.float32)
    elif kind == "constant":
        logits = np.broadcast_to(logits[:1], logits.shape)
    elif kind == "one class":
        labels = np.ones_like(labels)
    names = ["no", "yes", "예"][:classes]
    found = report(labels, logits, names, multi_label, threshold=0.6, temperature=2.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    scores = np.exp(figures.log_probabilities(logits, multi_label=multi_label, temperature=2.0))
    predicted = figures.predictions(scores, multi_label=multi_label, threshold=0.6)
    assert found["examples"] == 40
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    low, high = found["accuracy_interval"]
    assert low <= found["accuracy"] <= high
    assert found["nll"] == pytest.approx(figures.nll(labels, scores), rel=1e-9, abs=1e-12)
    same_f1(found, labels, predicted, classes)
    wanted = metrics.classification_report(
        labels, predicted, labels=range(classes), target_names=names, output_dict=True,
        zero_division=0,
    )  # fmt: skip
    areas = []
    for c, name in enumerate(names):
        row = found["per_class"][name]
        assert row["precision"] == pytest.approx(wanted[name]["precision"])
        assert row["recall"] == pytest.approx(wanted[name]["recall"])
        assert row["f1"] == pytest.approx(wanted[name]["f1-score"])
        assert row["support"] == wanted[name]["support"]
        positive = labels[:, c] if multi_label else labels == c
        if len(np.unique(positive)) == 2:
            areas.append(metrics.roc_auc_score(positive, scores[:, c]))
            assert row["auc"] == pytest.approx(areas[-1], abs=1e-12)
        else:
            assert row["auc"] is None
    if classes == 2 and not multi_label:
        assert found["auc"] == found["per_class"]["yes"]["auc"]
    else:
        mean = pytest.approx(np.mean(areas)) if areas else None
        assert found["auc_macro"] == mean
    if kind == "perfect":
        assert found["accuracy"] == found["accuracy_interval"][1] == 1.0


def test_what_does_not_go_together_is_refused():
    logits = np.zeros((2, 2))
    labels = np.array([0, 1])
    with pytest.raises(UserError, match="at least one labelled example, got none"):
        report(labels[:0], logits[:0], ["a", "b"])
    with pytest.raises(UserError, match=r"must have the shape \[2\]"):
        figures.check_labels(np.array([0]), logits)
    with pytest.raises(UserError, match="from 0 to 1, got numbers from 0 to 2"):
        report(np.array([0, 2]), logits, ["a", "b"])
    with pytest.raises(UserError, match="must be 0 or 1"):
        report(np.full((2, 2), 0.5), logits, ["a", "b"], multi_label=True)
    with pytest.raises(UserError, match=r"must be finite.* for example 1"):
        report(labels, np.array([[0.0, 1.0], [0.0, np.nan]]), ["a", "b"])
    with pytest.raises(UserError, match="must go together"):
        report(labels, logits, ["a", "b"], multi_label=True)
    with pytest.raises(UserError, match="`total` must be at least 1"):
        figures.accuracy_interval(0, 0)

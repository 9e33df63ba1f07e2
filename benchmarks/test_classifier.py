"""Suite: epochs of a classifier over batches of similar length, and its predictions."""

import dataclasses
from typing import Any

import pytest

from benchmarks import costs
from benchmarks.classifier_cases import ClassifierCase
from benchmarks.jaxgen_classifier import JaxgenPrediction, JaxgenTraining, planned

CASE = ClassifierCase(B=32, H=64, E=32, V=5000, rows=256, max_length=100, buckets=3)
POOLED = dataclasses.replace(CASE, bidirectional=True, pooling=("mean", "max"))


@pytest.mark.parametrize("case", [CASE, POOLED], ids=lambda case: case.name)
def test_epoch(case: ClassifierCase, measure: Any) -> None:
    """Examples a second of training, batches cut and padded on the way."""
    case = planned(case)
    contestant = JaxgenTraining(case.as_dict())
    measure(
        contestant.run,
        suite="classifier, training",
        shape=case.shape,
        unit="examples",
        cost=costs.classifier(case),
        amount=case.examples,
        **contestant.facts(),
    )


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("case", [CASE, POOLED], ids=lambda case: case.name)
def test_predictions(case: ClassifierCase, batch: int, measure: Any) -> None:
    """Texts a second, from tokens to probabilities on the host."""
    case = planned(dataclasses.replace(case, B=batch, rows=8 * batch))
    contestant = JaxgenPrediction(case.as_dict())
    calls = len(case.plan)
    measure(
        lambda units: contestant.run(units * calls),
        suite="classifier, predicting",
        shape=case.shape,
        unit="examples",
        cost=costs.classifier(case, train=False),
        amount=case.examples,
        **contestant.facts(),
    )

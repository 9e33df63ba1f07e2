"""What mypy must know of the answers of a `Classifier`; `test_prediction_types.py` runs it."""

from typing import assert_type

from jaxgen import Classifier, Prediction


def calls(classifier: Classifier, texts: tuple[str, ...]) -> None:
    """One call of each shape."""
    assert_type(classifier.predict("a"), Prediction)
    assert_type(classifier.predict(["a"], threshold=0.7), list[Prediction])
    assert_type(classifier.predict(texts, temperature=2), list[Prediction])
    assert_type(next(classifier.stream(iter(texts))), Prediction)
    classifier.predict("a", temprature=1)  # type: ignore[call-overload]

"""A classifier behind a queue: the texts of many clients in shared batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.prediction.classifier import Classifier, says_nothing
from jaxgen.prediction.explain import Explanation
from jaxgen.prediction.predictions import (
    Prediction,
    check_temperature,
    check_threshold,
    index_of,
    predictions_of,
    probabilities_of,
)
from jaxgen.serving.gather import Gatherer

BATCH = 256
"""Texts of a batch, at most: four full batches of the compiled program, sorted by length."""


class ClassifierService(Gatherer):
    """Classifies texts; the answers are those of `Classifier.predict`, whoever else is served."""

    def __init__(self, classifier: Classifier, *, queue: int = 10_000) -> None:
        """Serve a classifier; `queue` texts wait at most, over all requests."""
        super().__init__(most=BATCH, queue=queue)
        self.classifier = classifier

    def warm_up(self) -> None:
        """Compile all that a request may need."""
        self.classifier.warm_up()

    async def classify(
        self,
        texts: Sequence[str],
        *,
        threshold: float | None = None,
        temperature: float | None = None,
        explain: bool = False,
        label: str | None = None,
    ) -> dict[str, Any]:
        """What `POST /v1/classify` answers but for the model's name.

        Args:
            texts: at least one; an empty one is classified as well.
            threshold: as in `Classifier.predict`, and so is the temperature.
            temperature: see above.
            explain: whether to weigh the words of each text.
            label: what to explain; None is the predicted label of each text.

        Raises:
            UserError: an option is out of its range, or there is no such label.
            FullError: too many texts wait already.
        """
        model, settings = self.classifier, self.classifier.config.prediction
        check_threshold(threshold, model.labels)
        if temperature is not None:
            check_temperature(temperature)
        if label is not None:
            index_of(label, model.labels.names)
        threshold = settings.threshold if threshold is None else threshold
        temperature = settings.temperature if temperature is None else temperature
        rows = await self.submit(texts)
        logits = np.stack([row for row, _ in rows])
        probabilities = probabilities_of(logits, model.labels.multi_label, temperature)
        found = predictions_of(probabilities, model.labels, threshold)
        data = [_as_object(number, one) for number, one in enumerate(found)]
        if explain:
            for text, one, shown in zip(texts, found, data, strict=True):
                explained = await self.call(self._explain, text, one, label, temperature)
                shown["explanation"] = _explanation(explained)
        silent = sum(unread for _, unread in rows)
        warnings = [says_nothing(silent, len(texts))] if silent else []
        return {"threshold": threshold, "data": data, "warnings": warnings}

    def run(self, settings: None, texts: list[str]) -> list[tuple[np.ndarray, bool]]:
        """The logits of each text, and whether it holds nothing that the model knows."""
        rows, silent = self.classifier.read(texts)
        unread = [False] * len(texts)
        if silent:  # which of them: seldom asked
            unread = [bool(self.classifier.read([text])[1]) for text in texts]
        return list(zip(self.classifier.logits_of_rows(rows), unread, strict=True))

    def _explain(
        self, text: str, prediction: Prediction, label: str | None, temperature: float
    ) -> Explanation:
        return self.classifier.explain_prediction(
            text, prediction, label=label, temperature=temperature
        )


def _as_object(number: int, prediction: Prediction) -> dict[str, Any]:
    return {"index": number, **{name: getattr(prediction, name) for name in vars(prediction)}}


def _explanation(explained: Explanation) -> dict[str, Any]:
    """Words with their places in the text, in characters, and their weights in nats."""
    weights = explained.weights.tolist()
    each = zip(explained.words, explained.spans, weights, strict=True)
    words = [
        {"word": word, "start": start, "stop": stop, "weight": weight}
        for word, (start, stop), weight in each
    ]
    return {"label": explained.label, "words": words}

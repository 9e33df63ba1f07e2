"""`jaxgen predict`: labels of texts from a trained classifier."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import DisallowNone, Positional, arg

from jaxgen.cli.options import Checkpoint, Flag, RunArgument, said
from jaxgen.cli.texts import SLOW, TextSource, check_texts, read_texts, with_progress

if TYPE_CHECKING:
    from jaxgen.prediction.classifier import Classifier
    from jaxgen.prediction.explain import Explanation
    from jaxgen.prediction.predictions import Prediction

Number = Annotated[float | None, DisallowNone, said]
Name = Annotated[str | None, DisallowNone, said]


@dataclass(frozen=True)
class Predict:
    """Print the label of each text, its probability and the text, with tabs between.

    Texts of a file or of standard input have a line each, in their order, and are not printed
    again. Of several labels at once all that reach the threshold are printed, with commas between.
    """

    run: RunArgument
    """Run directory or export of a classifier."""
    text: Positional[Annotated[tuple[str, ...], arg(metavar="TEXT", help_behavior_hint="")]] = ()
    """Texts to classify; without any and without --file, the lines of standard input. One that
    begins with a dash comes after --."""
    file: Annotated[Path | None, DisallowNone, said] = None
    """Classify the lines of this file, or the rows of a csv, tsv, json, jsonl or parquet file, also
    gzipped; - is standard input. An empty line is an empty text."""
    column: Name = None
    """Column of the texts, or its number where a csv or tsv has no header (default: as the model
    was trained)."""
    separator: Name = None
    """Character between the fields of a csv or tsv (default: found in its first line)."""
    errors: Annotated[Literal["strict", "replace", "ignore"], said] = "strict"
    """What to do with bytes that are not UTF-8."""
    threshold: Number = None
    """Probability from which the second of two classes, or each of several labels, is predicted
    (default: `prediction.threshold` of the run)."""
    temperature: Number = None
    """Divides the logits; above 1 probabilities are less sure (default: `prediction.temperature` of
    the run)."""
    explain: Flag = False
    """Show which words decided: how the log-odds of the label change where each is taken out."""
    ensemble: Flag = False
    """RUN is a directory of seeds: use all its runs as one model, whose probabilities are the mean
    of theirs."""
    json: Flag = False
    """Print one JSON object a text."""
    checkpoint: Checkpoint = None
    """Which parameters of a run (default: the best, or the last where none was evaluated)."""

    def __call__(self) -> None:
        """Classify and print."""
        source = TextSource(self.file, self.column, self.separator, self.errors)
        check_texts(self.text, source, "classify")

        from jaxgen.experiment import load
        from jaxgen.saved import check_command, load_ensemble
        from jaxgen.training.parallel import request_host_devices

        check_command(self.run, "predict")
        request_host_devices()
        classifier: Classifier = (
            load_ensemble(self.run, which=self.checkpoint)
            if self.ensemble
            else load(self.run, self.checkpoint)
        )
        if self.text:
            self._print(self._answers(classifier, self.text), echo=True)
            return
        texts = read_texts(source, classifier.config.data.column)
        slow = source.is_standard_input  # a program at the other end may wait for each answer
        answers = self._answers(classifier, texts, max_wait=SLOW if slow else None)
        answers = with_progress(answers, f"classifying {source.name}")
        self._print(answers, echo=False, flush=slow)

    def _answers(
        self, classifier: "Classifier", texts: Iterable[str], max_wait: float | None = None
    ) -> Iterator["Answer"]:
        """What is to be printed of each text."""
        threshold, temperature = self.threshold, self.temperature
        if self.explain:
            for text in texts:
                explained = classifier.explain(text, threshold=threshold, temperature=temperature)
                yield Answer(explained.prediction, text, explained)
            return
        # Texts of a file are not kept: nothing prints them.
        kept = texts if isinstance(texts, tuple) else itertools.repeat("")
        predictions = classifier.stream(
            texts, threshold=threshold, temperature=temperature, max_wait=max_wait
        )
        for prediction, text in zip(predictions, kept, strict=False):
            yield Answer(prediction, text, None)

    def _print(self, answers: Iterable["Answer"], *, echo: bool, flush: bool = False) -> None:
        for answer in answers:
            if self.json:
                print(json.dumps(as_object(answer, echo)), flush=flush)
                continue
            print(as_line(answer.prediction, answer.text if echo else None), flush=flush)
            if answer.explanation is not None:
                from jaxgen.cli.shading import print_explanation

                print_explanation(answer.explanation)
                print()


class Answer(NamedTuple):
    """What there is to print of one text."""

    prediction: "Prediction"
    text: str
    explanation: "Explanation | None"


def as_line(prediction: "Prediction", text: str | None = None) -> str:
    """Labels, their probabilities, and the text where there is one, with tabs between."""
    probabilities = [prediction.probabilities[label] for label in prediction.labels]
    fields = [",".join(prediction.labels), ",".join(f"{p:.4f}" for p in probabilities)]
    return "\t".join(fields if text is None else [*fields, " ".join(text.split())])


def as_object(answer: Answer, echo: bool) -> dict[str, Any]:
    """An answer as JSON has it, with its text where that is asked for."""
    prediction, _, explanation = answer
    found: dict[str, Any] = {"text": answer.text} if echo else {}
    found |= {name: getattr(prediction, name) for name in vars(prediction)}
    if explanation is not None:
        weights = explanation.weights.tolist()
        words = zip(explanation.words, weights, strict=True)
        found["explained"] = explanation.label
        found["words"] = [{"word": word, "weight": weight} for word, weight in words]
    return found

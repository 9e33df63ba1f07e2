"""Measured control: a labelled language model's samples, judged by two other models."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.data.labelled import LabelledCorpus
from jaxgen.data.labels import LabelSet
from jaxgen.data.progress import Progress
from jaxgen.errors import UserError
from jaxgen.evaluation.classification import predictions
from jaxgen.evaluation.control import (
    Judged,
    TrainingWords,
    distinct_words,
    strengths_that_meet,
    targets_met,
    text_figures,
    unguided_perplexity,
)
from jaxgen.evaluation.control_plots import plot_control
from jaxgen.evaluation.control_tables import control_tables
from jaxgen.evaluation.pictures import check_picture
from jaxgen.generation.lines import Sample
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.text import TextModel
from jaxgen.prediction.classifier import Classifier
from jaxgen.types import Float, Int

CONTROL_OPTIONS = (
    *("control", "judge", "curve", "samples", "strengths"),
    *("temperature", "top_p", "seed"),
)
"""What `evaluate_control` takes, for `Task.evaluate_options`."""
CONTROL_MODELS = {"control": ("classifier",), "judge": ("language_model",)}
"""Those of them that name a trained model, and of which tasks, for `Task.evaluates_with`."""
STRENGTHS = (0.0, 1.0, 2.0, 3.0)
SAMPLES = 1000
_ROWS = 256
"""Texts that are written side by side."""
_SCORED = 32
"""Texts that are scored side by side: their logits are held at once, over a vocabulary of words."""


def evaluate_control(
    lm: TextModel, data: LabelledCorpus, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure control as `jaxgen evaluate RUN --control CLASSIFIER_RUN --judge LM_RUN` asks.

    Args:
        lm: the labelled language model.
        data: its corpus.
        options: `split`, and those in `CONTROL_OPTIONS` that are given; `control` and `judge` as
            loaded models; `curve`, a PNG to draw; the others as in `control`.

    Returns:
        The figures of `control`; `curve`, the picture's path, or None where the disk is full.

    Raises:
        UserError: an option is out of range or of no use, or as in `control`.
    """
    options = {name: value for name, value in options.items() if value is not None}
    check_control(data, options)
    names = ("samples", "strengths", "temperature", "top_p", "seed")
    given = {name: options[name] for name in names if name in options}
    figures = control(
        lm,
        options["control"],
        options["judge"],
        data,
        options["split"],
        max_new_tokens=lm.config.data.max_length + 1,  # and the end
        progress=Progress("measuring control").say,
        **given,
    )
    if "curve" in options:
        drawn = plot_control(Path(options["curve"]), figures)
        figures["curve"] = None if drawn is None else str(drawn)
    return figures


def show(figures: Mapping[str, Any]) -> str | None:
    """The figures as tables, for `Task.show`; None for those of an evaluation without control."""
    return control_tables(figures) if "strengths" in figures else None


def check_control(data: LabelledCorpus, options: Mapping[str, Any]) -> None:
    """UserError for the first option that is missing, of no use, or out of its range."""
    given = [name for name in CONTROL_OPTIONS if name in options]
    missing = [name for name in CONTROL_MODELS if name not in given]
    if missing:
        flags = [f"`{name}` (--{name.replace('_', '-')})" for name in given]
        raise UserError(
            f"control is measured by a classifier, `control` (--control), and a language model, "
            f"`judge` (--judge), got {' and '.join(flags) or 'neither'} without "
            f"{' and '.join(f'`{name}`' for name in missing)}; give both, or leave all out"
        )
    if getattr(data, options["split"]) is data.train:
        raise UserError(
            "control is measured beside texts that the model was not trained on, got its training "
            "texts, or other files; choose the split test or validation"
        )
    samples, strengths = options.get("samples", SAMPLES), options.get("strengths", STRENGTHS)
    if samples < 1:
        raise UserError(f"`samples` must be at least 1 text a label, got {samples}")
    for strength in strengths:
        if not 0 <= strength < math.inf:
            raise UserError(
                f"`strengths` must be finite numbers, 0 or more, got {strength}; 0 follows no "
                "label, 1 is plain conditioning"
            )
    temperature = options.get("temperature", 1.0)
    if temperature == 0:
        raise UserError(
            "`temperature` must be more than 0, got 0, at which all samples of a label are one "
            "text; use 1.0 for the model's own probabilities"
        )
    SamplingParams(temperature=temperature, top_p=options.get("top_p", 1.0))
    if "curve" in options:
        check_picture(Path(options["curve"]), "`curve`")


def control(
    lm: TextModel,
    classifier: Classifier,
    judge: TextModel,
    data: LabelledCorpus,
    split: str,
    *,
    max_new_tokens: int,
    samples: int = SAMPLES,
    strengths: Sequence[float | int] = STRENGTHS,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda done: None,
) -> dict[str, Any]:
    """Write texts of each label at several strengths of guidance, and have them judged.

    Texts of one place and label are drawn with the same noise at every strength, so that what
    differs between strengths is the strength. All go through one compiled program.

    Args:
        lm: the labelled language model.
        classifier: tells the label of a text; trained on other texts than `lm`.
        judge: gives the perplexity of a text; trained on other texts than either.
        data: the corpus of `lm`.
        split: the part of it with the real texts, which `lm` was not trained on.
        max_new_tokens: of a text; one that does not end by then is cut.
        samples: texts a label.
        strengths: of guidance. 0, the null label, and 1, plain conditioning, are always measured.
        temperature: of the samples.
        top_p: of the samples.
        seed: of the samples, and of the texts whose distinct-n is measured.
        progress: told now and then how far it is.

    Returns:
        `text`, `labels`, `samples`, `temperature`, `top_p`, `max_new_tokens`, `seed`;
        `distinct_texts`, of so many texts each distinct-n is; `real`, the figures of
        `jaxgen.evaluation.control.text_figures` of the real texts, and distinct-n of texts from all
        parts of the corpus; `strengths`, for each those of its samples, with `strength`, `cut`
        texts, `perplexity_ratio` to texts without guidance, and `targets`, which of them it
        reaches; `meeting`, the strengths that reach all.

    Raises:
        UserError: the model has no labels, or the classifier tells apart others.
    """
    names = lm.labels
    check_labels(names, classifier)
    parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    corpus = [text for part in parts for text in as_written(part.texts, lm)]
    part, training = getattr(data, split), TrainingWords(as_written(data.train.texts, lm))
    known = LabelSet(names, multi_label=False).encode(part.labels, part.name)
    real = judged(as_written(part.texts, lm), known, names, classifier, judge)
    count = min(samples * len(names), len(corpus))
    write = _writer(lm, samples, max_new_tokens, temperature, top_p, seed)
    rows: list[dict[str, Any]] = []
    for strength in sorted({0.0, 1.0, *map(float, strengths)}):
        found: list[Sample] = []
        for number, name in enumerate(names):
            progress(f"strength {strength:g}, {name}")
            found += write(number, strength)
        texts = [sample.text for sample in found]
        wanted = np.repeat(np.arange(len(names)), samples)
        row = text_figures(judged(texts, wanted, names, classifier, judge), names, training)
        row |= distinct_words(texts, count, seed)
        rows.append({"strength": strength, **row, "cut": sum(not x.finished for x in found)})
    figures: dict[str, Any] = {
        "text": part.name,
        "labels": list(names),
        **{"samples": samples, "temperature": temperature, "top_p": top_p, "seed": seed},
        **{"max_new_tokens": max_new_tokens, "distinct_texts": count},
        "real": text_figures(real, names, training) | distinct_words(corpus, count, seed),
        "strengths": rows,
    }
    unguided = unguided_perplexity(rows)
    for row in rows:
        known_ratio = unguided is not None and row["perplexity"] is not None
        row["perplexity_ratio"] = row["perplexity"] / unguided if known_ratio else None
        row["targets"] = targets_met(figures, row)
    return figures | {"meeting": strengths_that_meet(figures)}


def check_labels(names: Sequence[str], classifier: Classifier) -> None:
    """UserError where a classifier cannot judge texts of these labels."""
    labels = classifier.labels
    if not names:
        raise UserError("`control` needs a model that writes texts of a label, and this has none")
    if labels.multi_label:
        raise UserError(
            "`control` must be a classifier that gives each text one label, got one that gives any "
            "number; train one without `data.multi_label`"
        )
    if set(labels.names) != set(names):
        raise UserError(
            f"the classifier of `control` must tell apart the labels of the model, "
            f"{', '.join(names)}, got one of {', '.join(labels.names)}; name another"
        )


def _writer(
    lm: TextModel,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> Callable[[int, float], list[Sample]]:
    """The function that writes all samples of a label, by its number, at a strength."""
    calls = -(-samples // _ROWS)
    rows = -(-samples // calls)
    noise = jax.random.key(seed)

    def write(label: int, strength: float) -> list[Sample]:
        found: list[Sample] = []
        for call in range(calls):
            found += lm.sample(
                [""] * rows,
                label=lm.labels[label],
                guidance=strength,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=None if top_p == 1.0 else top_p,  # of no use, but not without cost
                key=jax.random.fold_in(noise, label * calls + call),
                logprobs=False,
            )
        return found[:samples]

    return write


def as_written(texts: Sequence[str], lm: TextModel) -> list[str]:
    """Texts in the form in which a model writes: in small letters, say; of words, without lines."""
    apart = lm.tokenizer.kind == "word"
    return [lm.tokenizer.normalize(" ".join(x.split()) if apart else x) for x in texts]


def judged(
    texts: Sequence[str],
    labels: Int[np.ndarray, " N"],
    names: Sequence[str],
    classifier: Classifier,
    judge: TextModel,
) -> Judged:
    """Ask both judges about some texts; labels are numbers of `names`."""
    return Judged(texts, labels, _predicted(texts, names, classifier), token_logprobs(texts, judge))


def _predicted(
    texts: Sequence[str], names: Sequence[str], classifier: Classifier
) -> Int[np.ndarray, " N"]:
    """The number in `names` of the label that each text is judged to have; -1 where it is empty."""
    written = np.array([bool(text.strip()) for text in texts], bool)
    probabilities = classifier.probabilities([text for text in texts if text.strip()])
    found = predictions(probabilities, threshold=classifier.config.prediction.threshold)
    predicted = np.full(len(texts), -1)
    predicted[written] = np.array([names.index(name) for name in classifier.labels.names])[found]
    return predicted


def token_logprobs(texts: Sequence[str], judge: TextModel) -> list[Float[np.ndarray, "_"]]:
    """Nats of each token of each text, in batches of one size and of texts of similar length."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found: dict[int, np.ndarray] = {}
    for first in range(0, len(order), _SCORED):
        some = order[first : first + _SCORED]
        batch = [texts[row] for row in some] + [""] * (_SCORED - len(some))
        found |= zip(some, judge.score(batch), strict=False)
    return [found[row] for row in range(len(texts))]

"""How a classifier is measured on a corpus, and shown."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.labelled import LabelledCorpus, LabelledTexts
from jaxgen.errors import UserError
from jaxgen.evaluation.baselines import tfidf_logistic_regression
from jaxgen.evaluation.calibration import best_threshold, fit_temperature
from jaxgen.evaluation.classification import log_probabilities, majority_figures
from jaxgen.evaluation.classification_plots import plot_classification
from jaxgen.evaluation.classification_report import report
from jaxgen.evaluation.classification_tables import grid, report_tables
from jaxgen.prediction.classifier import Classifier
from jaxgen.prediction.predictions import check_temperature, check_threshold


def evaluate(
    classifier: Classifier, data: LabelledCorpus, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a classifier on a part of a corpus.

    Args:
        classifier: The trained model.
        data: The corpus.
        options: `split`, the part; `threshold` and `temperature` in the place of those of the
            settings; `plots`, a directory for confusion.png, roc.png and calibration.png;
            `baselines`, whether to measure TF-IDF with logistic regression on the same texts.

    Returns:
        The figures of `jaxgen.evaluation.classification_report.report`. Where the corpus has
        validation texts, `chosen_on_validation` has the temperature that makes them likeliest,
        the best threshold (of two labels, or several at once), and the nll, ECE and accuracy that
        the two give on the part. `baselines` has each baseline's figures.

    Raises:
        UserError: An option is out of range, a label is one that training never saw, or baselines
            are asked for on the part that they are trained on.
    """
    settings, labels = classifier.config.prediction, classifier.labels
    threshold = options.get("threshold", settings.threshold)
    temperature = options.get("temperature", settings.temperature)
    check_threshold(options.get("threshold"), labels)
    check_temperature(temperature)
    pictures = None if options.get("plots") is None else _made(Path(options["plots"]))
    part = getattr(data, options["split"])
    if options.get("baselines") and part is data.train:
        raise UserError(
            "baselines are trained on the training texts, so they cannot be measured on them, nor "
            "on other files; choose the split test or validation, or leave `baselines` out"
        )
    true = labels.encode(part.labels, part.name)
    logits = classifier.logits(part.texts)
    measure = partial(report, true, logits, labels.names, labels.multi_label)
    figures = {"text": part.name, **measure(threshold, temperature)}
    if data.validation is not None:
        chosen = _chosen(classifier, data.validation)
        found = measure(chosen.get("threshold", threshold), chosen["temperature"])
        figures["chosen_on_validation"] = chosen | {
            name: found[name] for name in ("accuracy", "f1_macro", "nll", "ece")
        }
    if options.get("baselines"):
        figures["baselines"] = _baselines(classifier, data, options["split"])
    if pictures is not None:
        shown = {"threshold": threshold, "temperature": temperature}
        if "chosen_on_validation" in figures:
            shown["temperature"] = figures["chosen_on_validation"]["temperature"]
        paths = plot_classification(pictures, true, logits, labels.names, **shown)
        figures["plots"] = [str(path) for path in paths]
    return figures


def _made(directory: Path) -> Path:
    """The directory, made where it is missing."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"`plots` must be a directory that can be written, got {directory}: {error.strerror}; "
            "choose another"
        ) from error
    return directory


def _chosen(classifier: Classifier, part: LabelledTexts) -> dict[str, float]:
    """The temperature and the threshold that are best on some texts."""
    labels = classifier.labels
    true = labels.encode(part.labels, part.name)
    logits = classifier.logits(part.texts)
    temperature = fit_temperature(true, logits)
    chosen = {"temperature": temperature}
    if labels.multi_label or len(labels.names) == 2:
        scores = log_probabilities(logits, multi_label=labels.multi_label, temperature=temperature)
        chosen["threshold"] = best_threshold(true, np.exp(scores))[0]
    return chosen


def _baselines(
    classifier: Classifier, data: LabelledCorpus, split: str
) -> dict[str, dict[str, float]]:
    """The majority class, and TF-IDF with logistic regression, trained on the same texts."""
    labels, clean, part = classifier.labels, classifier.reader.clean, getattr(data, split)
    train, true = (labels.encode(x.labels, x.name) for x in (data.train, part))
    found = tfidf_logistic_regression(
        list(map(clean, data.train.texts)), train, list(map(clean, part.texts)), len(labels)
    )
    counts = train.sum(0) if labels.multi_label else np.bincount(train, minlength=len(labels))
    with np.errstate(divide="ignore"):
        scores = np.log(found) - np.log1p(-found) if labels.multi_label else np.log(found)
    rows = {
        "majority": majority_figures(true, len(labels), counts),
        "tfidf_logistic_regression": report(true, scores, labels.names, labels.multi_label),
    }
    return {
        name: {figure: row[figure] for figure in ("accuracy", "f1_macro")}
        for name, row in rows.items()
    }


def show(figures: Mapping[str, Any]) -> str:
    """The figures as tables for the terminal."""
    width = shutil.get_terminal_size((100, 24)).columns
    low, high = figures["accuracy_interval"]
    plain = {
        "text": figures["text"],
        "examples": f"{figures['examples']:,}",
        "accuracy": f"{figures['accuracy']:.4f}  (95 %: {low:.4f} to {high:.4f})",
    }
    names = ("label_accuracy", "f1_macro", "nll", "ece", "brier", "auc", "auc_macro")
    plain |= {name: f"{figures[name]:.4f}" for name in names if figures.get(name) is not None}
    blocks = [
        "\n".join(f"{name:18}{value}" for name, value in plain.items()),
        report_tables(dict(figures), width),
    ]
    rows = [["", "accuracy", "f1_macro"]]
    rows.append(["this model", *_two(figures)])
    if chosen := figures.get("chosen_on_validation"):
        values = [
            f"{name} {chosen[name]:.2f}" for name in ("temperature", "threshold") if name in chosen
        ]
        rows.append([f"with {', '.join(values)}, chosen on validation", *_two(chosen)])
    for name, row in figures.get("baselines", {}).items():
        rows.append([name.replace("_", " "), *_two(row)])
    if len(rows) == 2:
        rows.append(["majority class", f"{figures['majority_accuracy']:.4f}", ""])
    blocks.append(grid(rows))
    if chosen:
        blocks.append(f"with that temperature: nll {chosen['nll']:.4f}, ece {chosen['ece']:.4f}")
    if "plots" in figures:
        blocks.append("pictures: " + (", ".join(figures["plots"]) or "none (needs jaxgen[plot])"))
    return "\n\n".join(blocks)


def _two(row: Mapping[str, float]) -> list[str]:
    return [f"{row['accuracy']:.4f}", f"{row['f1_macro']:.4f}"]

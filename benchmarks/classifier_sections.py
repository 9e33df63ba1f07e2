"""The report's sections on classifiers: beside the peers, over folds and over seeds."""

from typing import Any

from benchmarks import results
from benchmarks.comparison_tables import FASTER_TORCH, Rows, contestants_table, targets_table

TRAINING = "classifier training"
"""The suite of rows whose unit is an epoch."""
TARGETS = {"torch packed": 1.5, FASTER_TORCH: 1.1, "keras": 3.0}
"""How many times faster an epoch is meant to be, by the group beside it."""


def classifiers(data: dict[str, Any]) -> str:
    """Epochs and predictions beside the peers."""
    parts = ["## Classifiers beside the peers"]
    keys = dict.fromkeys((row["suite"], row["case"]) for row in data["rows"])
    for key in keys:
        chosen = [
            [entry for entry in data[kind] if (entry["suite"], entry["case"]) == key]
            for kind in ("rows", "ratios")
        ]
        parts.append(case_section(*chosen))
    parts.append(
        "Texts have lengths drawn from the log-normal distribution fitted to IMDB's training "
        "reviews; examples and tokens count no padding. Each contestant trains the same rows in "
        "the same batches. jaxgen shuffles, pads and moves its batches within the time; the "
        "peers' are ready. *classifier.predict* is given strings, the others are given tokens. "
        "*Keras unmasked* is another model: it reads the padding, all texts padded to one length."
    )
    return "\n\n".join(parts)


def case_section(rows: Rows, ratios: Rows) -> str:
    """One case: its contestants, and what was aimed at."""
    training = rows[0]["suite"] == TRAINING
    unit, scale = ("s/epoch", 1.0) if training else ("ms/call", 1e3)
    shape = rows[0]["shape"]
    what = "Epochs" if training else "Predictions"
    title = f"### {what}, {rows[0]['case']}"
    drawn = (
        f"{shape['examples']:,} texts, {shape['tokens']:,} tokens, {shape['padded']:,} steps with "
        f"the padding, {shape['batches']} batches."
    )
    parts = [title, contestants_table(rows, ratios, unit, scale, "examples"), drawn]
    if training and ratios:
        parts.append(targets_table(rows, ratios, TARGETS))
    return "\n\n".join(parts)


def trainings(data: dict[str, Any]) -> str:
    """Figures of several trainings of one configuration: folds, or seeds."""
    names = [name for name in data["mean"] if name in data["runs"][0]]
    headers = [data["over"], *names]
    lines = [[row["name"], *(f"{row[name]:.4f}" for name in names)] for row in data["runs"]]
    for title, kind in (("mean", "mean"), ("standard deviation", "deviation")):
        lines.append([title, *(f"{data[kind][name]:.4f}" for name in names)])
    lines += [
        [row["name"], *(f"{row[n]:.4f}" if n in row else "" for n in names)]
        for row in data["baselines"]
    ]
    title = f"## {data['name'].capitalize()}: {data['split']} figures over {data['over']}s"
    facts = f"`{data['command']}`, {data['seconds']:,.0f} s."
    return "\n\n".join([title, results.table(headers, lines), facts])


def keras_reference(data: dict[str, Any]) -> str:
    """The reference recipe in Keras."""
    lines = []
    for run in data["runs"]:
        best = max(run["epochs"], key=lambda epoch: epoch["validation_accuracy"])
        test = run.get("test_accuracy")
        figures = [best["validation_accuracy"], test]
        shown = ["" if x is None else f"{x:.4f}" for x in figures]
        lines.append([run["seed"], *shown, f"{run['seconds']:.1f}"])
    headers = ["seed", "validation accuracy", "test accuracy", "s of fit"]
    kind = "masked" if data["masked"] else "as the tutorial has it, without a mask"
    parts = [
        f"## The reference classifier in Keras, {kind}",
        results.table(headers, lines),
        f"{data['sizes']['train']:,} training texts, vocabulary {data['sizes']['vocabulary']:,}, "
        f"padded or cut to {data['sizes']['length']} tokens; `{data['command']}`.",
    ]
    return "\n\n".join(parts)

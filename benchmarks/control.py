"""Measured control over seeds: a labelled language model, and two judges that saw other texts.

    python -m benchmarks.control --files TRAIN --judge-files VAL TEST [-- OPTION ...]

For each seed the labelled texts are divided into two halves, each label in both by its share. The
labelled language model trains on one half, the classifier on the other, and the judging language
model on the judge's files; then `jaxgen evaluate --control` measures at each strength, beside
texts of the first half that were held out of its training. What follows `--` are options of
`jaxgen train` for the labelled language model. `--dry-run` goes through all of it with models and
texts of no size.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.train_for import shown
from benchmarks.trainings import folds_of, write_texts
from benchmarks.worker import ROOT

CONFIGS = ROOT / "configs"
FIGURES = (
    *("accuracy", "perplexity", "perplexity_ratio", "distinct_1", "distinct_2", "copied"),
    *("longest_copy", "mean_words", "empty", "cut"),
)
OTHER_FILES = {
    **{"dataset": None, "subset": None, "split": "train", "validation_split": None},
    **{"test_split": None, "validation_files": (), "test_files": ()},
    **{"column": "text", "separator": None},
}
LABELLED_FILES = {"format": "auto", "label_column": "label"}
HELD_OUT = {"validation_fraction": 0.1, "test_fraction": 0.15}
"""Of the labelled model's half: to choose a checkpoint, and to measure the judges on."""
JUDGES_HELD_OUT = {"validation_fraction": 0.1, "test_fraction": 0.0}
Figures = dict[str, Any]


def divide(texts: Any, seed: int, folder: Path) -> tuple[Path, Path]:
    """Write two halves of labelled texts, each label in both by its share, as files."""
    halves = folds_of(list(texts.labels), 2, seed)
    paths = (folder / "model.jsonl", folder / "classifier.jsonl")
    for half, path in enumerate(paths):
        write_texts(path, texts.take(np.flatnonzero(halves == half), path.stem), ",")
    return paths


def tiny(experiment: Any) -> Any:
    """The same with a model of no size and a training of a few steps."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"hidden_size": 8, "embedding_size": 8},
        "training": {"max_steps": 4, "batch_size": 8, "steps_per_dispatch": 2, "devices": 1},
    }
    if experiment.tokenizer.kind == "bpe":
        sections["tokenizer"] = {"vocab_size": 300}
    if hasattr(experiment, "samples"):
        shown_at = ("guidance", "temperatures")
        sections["samples"] = {x: () for x in shown_at if hasattr(experiment.samples, x)}
    return experiment.updated(**sections)


def measured(
    experiments: Sequence[Any], texts: Any, judge_file: Path, seed: int, folder: Path, options: Any
) -> Figures:
    """Train the three models of one seed and measure.

    Args:
        experiments: of the labelled language model, the classifier and the judge.
        texts: labelled ones, to be divided.
        judge_file: what the judge learns from.
        seed: of the division, the order of the data, the trainings and the samples.
        folder: for files and runs.
        options: of the evaluation.
    """
    from jaxgen.experiment import evaluate, train

    files = (*divide(texts, seed, folder), judge_file)
    fractions = (HELD_OUT, JUDGES_HELD_OUT, JUDGES_HELD_OUT)
    runs = [folder / name for name in ("model", "classifier", "judge")]
    for experiment, file, fraction, run in zip(experiments, files, fractions, runs, strict=True):
        data = OTHER_FILES | fraction | {"files": (file,), "seed": seed}
        data |= LABELLED_FILES if hasattr(experiment.data, "label_column") else {}
        train(experiment.updated(data=data, training={"seed": seed}), out=run)
    return evaluate(runs[0], split="test", control=runs[1], judge=runs[2], seed=seed, **options)


def combined(runs: Sequence[Figures], how: Callable[[list[float]], float]) -> Figures:
    """Figures made of those of several runs, in the same form; None where one run has none.

    Args:
        runs: figures of `jaxgen evaluate --control`.
        how: makes one number of the runs' numbers.
    """

    def one(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return how(known) if len(known) == len(values) else None

    def of(rows: Sequence[Figures]) -> Figures:
        figures: Figures = {x: one([row[x] for row in rows]) for x in FIGURES if x in rows[0]}
        labels = {x: one([row["per_label"][x] for row in rows]) for x in rows[0]["per_label"]}
        return figures | {"per_label": labels}

    strengths = [row["strength"] for row in runs[0]["strengths"]]
    return {
        "labels": runs[0]["labels"],
        "real": of([run["real"] for run in runs]),
        "strengths": [
            {"strength": strength, **of([run["strengths"][place] for run in runs])}
            for place, strength in enumerate(strengths)
        ],
    }


def deviation(values: list[float]) -> float:
    """The standard deviation (n - 1); 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def summary(runs: Sequence[Figures]) -> Figures:
    """What the record keeps: each run, mean and deviation, and which strengths meet the targets."""
    from jaxgen.evaluation.control import strengths_that_meet

    mean = combined(runs, statistics.fmean)
    strengths = [row["strength"] for row in mean["strengths"]]
    settings = ("samples", "temperature", "top_p", "max_new_tokens", "distinct_texts")
    return {
        **{name: runs[0][name] for name in settings},
        "runs": [{"seed": run["seed"], **combined([run], statistics.fmean)} for run in runs],
        "mean": mean,
        "deviation": combined(runs, deviation),
        "mean_meets": strengths_that_meet(mean),
        "runs_that_meet": [sum(s in run["meeting"] for run in runs) for s in strengths],
    }


def section(data: Figures) -> str:
    """The report's section: mean and deviation of the figures at each strength."""
    mean, spread = data["mean"], data["deviation"]
    names = {
        **{"accuracy": "{:.3f}", "perplexity": "{:.1f}", "perplexity_ratio": "{:.3f}"},
        **{"distinct_1": "{:.3f}", "distinct_2": "{:.3f}", "copied": "{:.1%}"},
        "mean_words": "{:.1f}",
    }

    def line(title: str, row: Figures, deviations: Figures, met: str) -> list[str]:
        cells = [
            ""
            if row.get(name) is None
            else f"{form.format(row[name])} ± {form.format(deviations[name])}"
            for name, form in names.items()
        ]
        return [title, *cells, met]

    count = len(data["runs"])
    lines = [
        line(f"strength {row['strength']:g}", row, dev, f"{met} of {count}")
        for row, dev, met in zip(
            mean["strengths"], spread["strengths"], data["runs_that_meet"], strict=True
        )
    ]
    lines.append(line("real texts", mean["real"], spread["real"], ""))
    titles = [name.replace("_", " ") for name in names]
    met = ", ".join(f"{strength:g}" for strength in data["mean_meets"]) or "no strength"
    parts = [
        "## Measured control",
        results.table(["", *titles, "seeds that meet all targets"], lines),
        f"Mean and standard deviation over {count} seeds, {data['samples']:,} texts a label at "
        f"temperature {data['temperature']:g}, top-p {data['top_p']:g}. Accuracy: the classifier's "
        "verdict, beside its recall of real texts. Perplexity by a third model; its ratio to texts "
        "without guidance, the lower one of strengths 0 and 1. Copied: more than 8 words in a row "
        f"out of a training text. The means meet all targets at {met}.",
        f"`{data['command']}`" + (f", {data['seconds']:,.0f} s." if data["seconds"] else "."),
        *([data["remark"]] if "remark" in data else []),
    ]
    return "\n\n".join(parts)


def parsed(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this command, and those of the labelled language model."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, nargs="+", help="labelled texts, to be divided")
    parser.add_argument("--judge-files", type=Path, nargs="+", help="labelled texts of the judge")
    parser.add_argument("--config", type=Path, default=CONFIGS / "emotion.toml")
    parser.add_argument("--classifier", type=Path, default=CONFIGS / "emotion_classifier.toml")
    parser.add_argument("--judge", type=Path, default=CONFIGS / "emotion_judge.toml")
    parser.add_argument("--seeds", type=int, default=5, help="from 0 on")
    parser.add_argument("--samples", type=int, default=1000, help="texts a label and strength")
    strengths = (0.0, 1.0, 1.4, 2.0, 3.0)
    parser.add_argument("--strengths", type=float, nargs="+", default=strengths)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    out = ROOT / "benchmarks/results/control.json"
    parser.add_argument("--out", type=Path, default=out, help="JSON file")
    parser.add_argument("--curve", type=Path, help="PNG file for the means over the seeds")
    parser.add_argument("--runs", type=Path, help="keep the run directories here")
    parser.add_argument("--dry-run", action="store_true", help="models and texts of no size")
    args = parser.parse_args(arguments[:cut])
    if not args.dry_run and not (args.files and args.judge_files):
        parser.error("--files and --judge-files are needed (without them only --dry-run)")
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    return args, arguments[cut + 1 :]


def run(args: argparse.Namespace, extra: list[str], folder: Path) -> list[Figures]:
    """The figures of each seed."""
    from jaxgen.cli.train import parse_train
    from jaxgen.config.toml import read_toml
    from jaxgen.data.labelled import load_labelled, read_labelled

    experiment = parse_train([str(args.config), *extra]).experiment
    experiments = [experiment, read_toml(args.classifier), read_toml(args.judge)]
    options = {name: getattr(args, name) for name in ("samples", "temperature", "top_p")}
    options["strengths"] = tuple(args.strengths)
    if args.dry_run:
        experiments = [tiny(each) for each in experiments]
        options |= {"samples": 3, "strengths": (2.0,)}
    if args.files:
        texts, others = (read_labelled(experiment.data, x) for x in (args.files, args.judge_files))
    else:  # the embedded sentences serve all three
        texts = others = load_labelled(experiment.data.model_copy(update=OTHER_FILES)).train
    write_texts(judge_file := folder / "judge.jsonl", others, ",")
    found = []
    for seed in range(1 if args.dry_run else args.seeds):
        each = folder / f"seed-{seed}"
        found.append(measured(experiments, texts, judge_file, seed, each, options))
        print(f"seed {seed}: all targets met at {found[-1]['meeting']}", flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    args, extra = parsed(given)
    from jaxgen.errors import UserError
    from jaxgen.evaluation.control_plots import plot_control

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            content = summary(run(args, extra, args.runs or Path(scratch)))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    content |= {
        "command": " ".join(["python -m benchmarks.control", *map(shown, given)]),
        "seconds": time.perf_counter() - started,
    }
    results.write(args.out, "control", **content)
    if args.curve:
        plot_control(args.curve, content["mean"])
    print(section(content) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Several trainings of one classifier's settings, and the mean and deviation of their figures.

    python -m benchmarks.trainings CONFIG --seeds 5 --out FILE [--split test] [-- OPTION ...]
    python -m benchmarks.trainings CONFIG --folds 10 --out FILE [-- OPTION ...]

`--seeds` trains so many seeds together, as `jaxgen train --seeds` does, and measures each on a
held-out part: the validation texts, or with `--split test` the test texts. `--folds` is stratified
cross-validation: each fold is the test part of one training, which draws its own validation texts
from the other folds; only texts that train are divided, so a test part of the corpus stays out.
What follows `--` are options of `jaxgen train`. Two rows stand beside: the commonest class, and
TF-IDF with logistic regression on the same texts (where scikit-learn is installed). With several
seeds a third has the figures of their ensemble.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.classifier_sections import trainings
from benchmarks.train_for import shown

FIGURES = ("accuracy", "f1_macro", "nll", "ece")
Figures = dict[str, Any]


def folds_of(classes: Sequence[Hashable], count: int, seed: int) -> np.ndarray:
    """The fold, in [0, count), of each row.

    Rows are shuffled within their class and dealt out one after the other, so that folds differ by
    one row at most, and by one row of each class.

    Raises:
        UserError: there are not two folds, or fewer rows than folds.
    """
    from jaxgen.errors import UserError

    if not 2 <= count <= len(classes):
        raise UserError(
            f"`folds` must be at least 2 and at most the {len(classes)} texts, got {count}"
        )
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(classes):
        rows.setdefault(name, []).append(row)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(members) for members in rows.values()])
    folds = np.empty(len(classes), np.int64)
    folds[order] = np.arange(len(classes)) % count
    return folds


def baselines_of(config: Any, train: Any, test: Any) -> list[Figures]:
    """The figures of the commonest class and of TF-IDF, on the texts as the model reads them."""
    from jaxgen.data.cleaning import make_cleaner
    from jaxgen.data.labels import LabelSet
    from jaxgen.errors import UserError
    from jaxgen.evaluation.baselines import tfidf_logistic_regression
    from jaxgen.evaluation.classification import majority_figures
    from jaxgen.evaluation.classification_report import report

    labels = LabelSet.fit(train.labels, config.multi_label)
    known, true = (labels.encode(part.labels, part.name) for part in (train, test))
    counts = known.sum(0).astype(int) if config.multi_label else np.bincount(known)
    majority = majority_figures(true, len(labels), counts)
    found = [{"name": "commonest class", **majority}]
    clean = make_cleaner(config)
    texts = [[clean(text) for text in part.texts] for part in (train, test)]
    started = time.perf_counter()
    try:
        p = tfidf_logistic_regression(texts[0], known, texts[1], len(labels))
    except UserError as error:
        print(f"left out: {error}", file=sys.stderr)
        return found
    seconds = time.perf_counter() - started
    p = np.clip(p, 1e-12, 1 - 1e-12)
    logits = np.log(p) - np.log1p(-p) if config.multi_label else np.log(p)
    figures = report(true, logits, labels.names, config.multi_label)
    kept = {name: figures[name] for name in FIGURES}
    return [*found, {"name": "TF-IDF and logistic regression", **kept, "seconds": seconds}]


def over_seeds(experiment: Any, seeds: int, split: str, out: Path) -> tuple[list, list]:
    """Figures of so many seeds, and of what stands beside: their ensemble, and the baselines."""
    from jaxgen.data.labelled import load_labelled
    from jaxgen.errors import UserError
    from jaxgen.experiment import train

    data = load_labelled(experiment.data)
    if getattr(data, split) is None:
        raise UserError(f"the settings hold out no {split} texts; choose another --split")
    train(experiment, out=out, seeds=seeds)
    first = experiment.training.seed
    runs = [
        measured(out / f"seed-{seed}", split, f"seed {seed}")
        for seed in range(first, first + seeds)
    ]
    joined = [measured(out, split, "all seeds as one", ensemble=True)] if seeds > 1 else []
    return runs, baselines_of(experiment.data, data.train, getattr(data, split)) + joined


def over_folds(
    experiment: Any, count: int, out: Path, most: int | None = None
) -> tuple[list, list]:
    """Figures of each fold, and the means of the baselines'.

    Args:
        experiment: settings.
        count: folds.
        out: directory for the texts and runs.
        most: stop after so many folds, for a trial.
    """
    from jaxgen.data.labelled import load_labelled
    from jaxgen.experiment import train

    nothing = {"validation_files": (), "test_files": (), "test_fraction": 0.0}
    whole = experiment.updated(data={**nothing, "validation_fraction": 0.0})
    texts = load_labelled(whole.data).train
    multi_label = experiment.data.multi_label
    classes = [() if multi_label else names for names in texts.labels]
    folds = folds_of(classes, count, experiment.data.seed)
    runs: list[Figures] = []
    baselines: list[list[Figures]] = []
    for fold in range(count if most is None else most):
        parts = {
            "train": texts.take(np.flatnonzero(folds != fold), "the other folds"),
            "test": texts.take(np.flatnonzero(folds == fold), f"fold {fold}"),
        }
        paths = {name: out / f"{name}-{fold}.jsonl" for name in parts}
        for name, part in parts.items():
            write_texts(paths[name], part, experiment.data.label_separator)
        files = {
            **{"dataset": None, "subset": None, "format": "auto", "separator": None},
            **{"column": "text", "label_column": "label"},
            **{**nothing, "files": (paths["train"],), "test_files": (paths["test"],)},
        }
        run = out / f"fold-{fold}"
        train(experiment.updated(data=files), out=run)
        runs.append(measured(run, "test", f"fold {fold}"))
        baselines.append(baselines_of(experiment.data, parts["train"], parts["test"]))
        print(f"fold {fold}: accuracy {runs[-1]['accuracy']:.4f}", flush=True)
    return runs, [{"name": same[0]["name"], **means(same)} for same in zip(*baselines, strict=True)]


def write_texts(path: Path, part: Any, separator: str) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text, names in zip(part.texts, part.labels, strict=True):
            file.write(json.dumps({"text": text, "label": separator.join(names)}) + "\n")


def measured(run: Path, split: str, name: str, ensemble: bool = False) -> Figures:
    """The figures of a run's best checkpoint, or of the ensemble of a directory's."""
    from jaxgen.experiment import evaluate

    figures = evaluate(run, split=split, ensemble=ensemble)
    return {"name": name, **{key: figures[key] for key in FIGURES}}


def means(rows: Sequence[Figures]) -> dict[str, float]:
    """The mean of each figure."""
    names = [name for name in rows[0] if name != "name"]
    return {name: statistics.fmean(row[name] for row in rows) for name in names}


def deviations(rows: Sequence[Figures]) -> dict[str, float]:
    """The standard deviation of each figure over trainings (n - 1); 0 of a single one."""
    names = [name for name in rows[0] if name != "name"]
    if len(rows) == 1:
        return dict.fromkeys(names, 0.0)
    return {name: statistics.stdev(row[name] for row in rows) for name in names}


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file of a classifier")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--seeds", type=int, help="train so many seeds together")
    how.add_argument("--folds", type=int, help="cross-validate with so many folds")
    parser.add_argument("--only-folds", type=int, help="stop after so many folds, for a trial")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--runs", type=Path, help="keep the run directories here")
    args = parser.parse_args(given[:cut])

    from jaxgen.cli.train import parse_train
    from jaxgen.errors import UserError
    from jaxgen.training.parallel import request_host_devices

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = args.runs or Path(folder, "runs")
        try:
            command = parse_train([str(args.config), *given[cut + 1 :]])
            experiment = command.experiment
            request_host_devices(experiment.training.devices)
            if args.folds:
                runs, baselines = over_folds(experiment, args.folds, out, args.only_folds)
            else:
                runs, baselines = over_seeds(experiment, args.seeds, args.split, out)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    content = {
        "name": args.out.stem.replace("_", " "),
        "over": "fold" if args.folds else "seed",
        "split": "held-out" if args.folds else args.split,
        "command": " ".join(["python -m benchmarks.trainings", *map(shown, given)]),
        "seconds": time.perf_counter() - started,
        **{"runs": runs, "mean": means(runs), "deviation": deviations(runs)},
        "baselines": baselines,
    }
    results.write(args.out, "trainings", **content)
    print(trainings(content) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

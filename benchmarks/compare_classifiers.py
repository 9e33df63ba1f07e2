"""Training and using a classifier beside the peers: `python -m benchmarks.compare_classifiers`.

Every contestant trains from the same parameters on the same rows in the same batches, and must
show the same first loss (the same probabilities, where it predicts) before it is timed. Texts have
lengths drawn like IMDB's. jaxgen cuts, pads and moves its batches while it trains; the peers have
theirs ready in memory. PyTorch packs its sequences, or reads batches padded to the same lengths;
Keras masks them, by its fastest way, and once without the mask and padded to one length, as
tutorials have it (which is another model, whose loss need not agree).
"""

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import classifier_sections, costs, machine, results
from benchmarks.classifier_cases import ALL_WORDS, ClassifierCase
from benchmarks.classifier_sections import TRAINING
from benchmarks.comparison import compared
from benchmarks.contestants import (
    Contestant,
    agreeing,
    each_case,
    installed,
    start_all,
    stop_all,
)
from benchmarks.jaxgen_classifier import planned

REFERENCE = ClassifierCase(B=128, H=64, E=32)
POOLED = ClassifierCase(
    B=32,
    H=128,
    E=128,
    rows=1024,
    log_lengths=ALL_WORDS,
    max_length=400,
    bidirectional=True,
    pooling=("mean", "max"),
)
CASES = {"reference": REFERENCE, "pooled": POOLED}
SMALL = ClassifierCase(
    B=4, H=5, E=3, V=50, rows=24, log_lengths=(1.5, 0.5), max_length=8, buckets=2
)
SMALL_POOLED = dataclasses.replace(SMALL, bidirectional=True, pooling=("mean", "max"))
PREDICTED = {1: 64, 64: 512}
"""Batch of a call, and how many texts there are."""
LOSSES = 5
PREDICTING = "classifier predicting"
TEXTS = "classifier.predict"
"""The contestant that is given strings."""
OURS = "benchmarks.jaxgen_classifier:"
TORCH = "benchmarks.peers.torch_classifier:"
KERAS = "benchmarks.peers.keras_classifier:"


class Comparison(NamedTuple):
    """A case, to be trained or used."""

    suite: str
    case: ClassifierCase

    @property
    def name(self) -> str:
        return f"{self.suite}, {self.case.name}"


def training_contestants(args: argparse.Namespace) -> list[Contestant]:
    """Everyone that is installed; jaxgen first, the reference."""
    entries = []
    for count in args.devices:
        name = f"jaxgen {count} device{'s' if count > 1 else ''}"
        entries.append(Contestant(name, "jaxgen", OURS + "JaxgenTraining", {"devices": count}))
    if installed("torch"):
        for kind in ("packed", "padded"):
            for count in args.threads:
                for mkldnn in (True, False):
                    name = f"torch {kind} {count}t {'onednn' if mkldnn else 'aten'}"
                    options = {"packed": kind == "packed", "threads": count, "mkldnn": mkldnn}
                    target = TORCH + "TorchTraining"
                    entries.append(Contestant(name, f"torch {kind}", target, options))
    if _keras_is_here(args):
        for to_longest in (False, True):
            for jit in (False, True):
                name = f"keras{' one length' if to_longest else ''}{' jit' if jit else ''}"
                options = {"to_longest": to_longest, "jit_compile": jit}
                entries.append(_keras(name, "keras", "KerasTraining", options, args))
        for jit in (False, True):
            options = {"masked": False, "to_longest": True, "jit_compile": jit}
            name = f"keras unmasked{' jit' if jit else ''}"
            entry = _keras(name, "keras unmasked", "KerasTraining", options, args)
            entries.append(dataclasses.replace(entry, tolerance=math.inf))
    return entries


def prediction_contestants(args: argparse.Namespace) -> list[Contestant]:
    """Everyone that is installed; jaxgen first. `model.predict` stands for itself."""
    entries = [
        Contestant("jaxgen", "jaxgen", OURS + "JaxgenPrediction"),
        Contestant(TEXTS, "text", OURS + "JaxgenTexts", tolerance=math.inf),
    ]
    if installed("torch"):
        variants = [(kind, True) for kind in ("packed", "padded", "exact", "traced", "compiled")]
        variants += [("packed", False), ("exact", False)]
        for count in args.threads:
            for variant, mkldnn in variants:
                if args.quick and variant == "compiled":
                    continue
                name = f"torch {variant} {count}t{'' if mkldnn else ' aten'}"
                options = {"variant": variant, "threads": count, "mkldnn": mkldnn}
                entries.append(Contestant(name, "torch", TORCH + "TorchPrediction", options))
    if _keras_is_here(args):
        for method in ("predict_on_batch", "call"):
            for jit in (False, True):
                name = f"keras {method}{' jit' if jit else ''}"
                options = {"method": method, "jit_compile": jit}
                entries.append(_keras(name, "keras", "KerasPrediction", options, args))
        entries.append(_keras("keras predict", "keras predict", "KerasPrediction", {}, args))
    return entries


def _keras_is_here(args: argparse.Namespace) -> bool:
    return bool(args.keras_python) or (installed("keras") and installed("tensorflow"))


def _keras(
    name: str, group: str, kind: str, options: dict[str, Any], args: argparse.Namespace
) -> Contestant:
    return Contestant(name, group, KERAS + kind, options, args.keras_python)


def compare(
    case: ClassifierCase, suite: str, ceilings: dict[str, Any], args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and ratios of one case.

    Args:
        case: with its plan.
        suite: `TRAINING` (a unit is an epoch) or `PREDICTING` (a unit is a call on B texts).
        ceilings: `machine.ceilings()`.
        args: of the command.
    """
    training = suite == TRAINING
    entries = (training_contestants if training else prediction_contestants)(args)
    running = start_all(entries, case.as_dict(), args.deadline)
    cost = costs.classifier(case, train=training)
    units = 1 if training else len(case.plan)

    def figures(seconds: float) -> dict[str, float]:
        own = costs.figures(cost, case.tokens, seconds * units, ceilings)
        return {"examples_per_second": case.examples / units / seconds, **own}

    def facts(contestant: Contestant) -> dict[str, Any]:
        steps = min(LOSSES, len(case.plan))
        return {"losses": contestant.call("losses", steps=steps)} if training else {}

    try:
        if training:
            running = agreeing(running, "losses", mean=True, steps=1)
        else:
            running = agreeing(running, "probabilities", mean=True, steps=len(case.plan))
        # An epoch takes seconds: one in the trial, and one a round.
        head = {"suite": suite, "case": case.name, "shape": case.shape}
        ours = ("jaxgen", "text")
        return compared(running, args, ours=ours, head=head, figures=figures, facts=facts)
    finally:
        stop_all(running)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/classifiers.json"))
    parser.add_argument("--keras-python", help="interpreter that has keras and tensorflow")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of one run")
    parser.add_argument("--minutes", type=float, default=90.0, help="cases not begun are left out")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", choices=("training", "predicting"), help="half of it")
    parser.add_argument("--quick", action="store_true", help="3 rounds of small epochs")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes")
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    cases = [CASES[name] for name in args.cases]
    if args.quick:
        args.rounds, args.seconds = 3, 0.1
        cases = [dataclasses.replace(case, rows=4 * case.B) for case in cases]
    if args.dry_run:
        args.rounds, args.seconds, cases = 1, 1e-4, [SMALL, SMALL_POOLED]
    ceilings = machine.ceilings(quick=args.quick or args.dry_run)

    def one(item: Comparison) -> tuple[list, list]:
        suite, case = item
        rows, found = compare(planned(case), suite, ceilings, args)
        print(classifier_sections.case_section(rows, found) + "\n", flush=True)
        return rows, found

    items = [Comparison(TRAINING, case) for case in cases]
    for batch, rows in {2: 6}.items() if args.dry_run else PREDICTED.items():
        smaller = [dataclasses.replace(case, B=batch, rows=rows) for case in cases]
        items += [Comparison(PREDICTING, case) for case in smaller]
    items = [item for item in items if args.only in (None, item.suite.split()[-1])]
    rows, found = each_case(items, one, args.deadline)
    results.write(args.out, "classifiers", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

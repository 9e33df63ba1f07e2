"""An adaptive softmax beside the full one, and PyTorch's: `python -m benchmarks.compare_adaptive`.

Training: all four contestants get the same tokens, distributed as words are; those with the same
output layer start from the same parameters and must show the same first loss. Sampling: jaxgen's
adaptive model beside its full one. PyTorch's variants (threads, flavours of Adam) first run a
trial; the fastest of each output layer meets the others, interleaved.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.adaptive_cases import AdaptiveCase
from benchmarks.comparison import Rows, compared
from benchmarks.contestants import (
    Contestant,
    agreeing,
    each_case,
    installed,
    start_all,
    stop_all,
)
from benchmarks.timing import Spread

TRAINING = (AdaptiveCase(B=32, T=35, H=256, V=33_278, E=256),)
SAMPLING = (
    AdaptiveCase(B=1, T=100, H=512, V=33_000),
    AdaptiveCase(B=64, T=20, H=512, V=33_000),
)
TINY = {"T": 4, "H": 16, "V": 61, "cutoffs": (7, 20)}
SETTINGS = ("temperature", "top_p", "top_k", "greedy")
OURS = "benchmarks.jaxgen_adaptive:Adaptive"
TORCH = "benchmarks.peers.torch_adaptive:TorchAdaptiveTraining"


def trainers(threads: tuple[int, ...]) -> list[Contestant]:
    """Everyone that is installed; jaxgen first, the reference of its output layer."""
    entries = [Contestant("jaxgen", "jaxgen", OURS + "Training")]
    if installed("torch"):
        for count in threads:
            for adam in ("fused", "foreach"):
                options = {"threads": count, "adam": adam}
                entries.append(Contestant(f"torch {count}t {adam}", "torch", TORCH, options))
    return entries


def of_layer(entries: list[Contestant], case: AdaptiveCase, args: Any) -> list[Contestant]:
    """The contestants started with one output layer, by its name."""
    layer = "adaptive" if case.adaptive else "full"
    named = [
        dataclasses.replace(c, name=f"{c.name} {layer}", group=f"{c.group} {layer}")
        for c in entries
    ]
    return start_all(named, case.as_dict(), args.deadline)


def compare_training(case: AdaptiveCase, args: Any) -> tuple[Rows, Rows]:
    """Rows and ratios of training steps."""
    running: list[Contestant] = []
    try:
        for adaptive in (True, False):
            started = of_layer(
                trainers(tuple(args.threads)), dataclasses.replace(case, adaptive=adaptive), args
            )
            running += agreeing(started, "losses", mean=True, steps=1)
        head = {"suite": "adaptive training", "case": case.name, "shape": case.as_dict()}
        return compared(
            running,
            args,
            ours=("jaxgen adaptive",),
            head=head,
            figures=lambda seconds: {"tokens_per_second": case.B * case.T / seconds},
        )
    finally:
        stop_all(running)


def compare_sampling(case: AdaptiveCase, args: Any) -> tuple[Rows, Rows]:
    """Rows and ratios of `generate`, setting by setting."""
    rows: Rows = []
    found: Rows = []
    for sampling in SETTINGS:
        options = {"sampling": sampling, "inside_jit": True}
        entry = Contestant(f"jaxgen {sampling}", f"jaxgen {sampling}", OURS + "Sampling", options)
        running: list[Contestant] = []
        try:
            for adaptive in (True, False):
                running += of_layer([entry], dataclasses.replace(case, adaptive=adaptive), args)
            head = {"suite": "adaptive sampling", "case": case.name, "shape": case.as_dict()}
            both = compared(
                running,
                args,
                ours=(f"jaxgen {sampling} adaptive",),
                head=head,
                figures=lambda seconds: {"tokens_per_second": case.B * case.T / seconds},
            )
        finally:
            stop_all(running)
        rows += both[0]
        found += both[1]
    return rows, found


def section(data: dict[str, Any]) -> str:
    """The report's section."""
    parts = ["## An adaptive softmax beside a full one"]
    for case in dict.fromkeys(row["case"] for row in data["rows"]):
        rows, ratios = ([r for r in data[name] if r["case"] == case] for name in ("rows", "ratios"))
        parts += [f"### {rows[0]['suite'].capitalize()}, {case}", table(rows, ratios)]
    return "\n\n".join(parts)


def table(rows: Rows, ratios: Rows) -> str:
    """Contestants of a case, and how many times faster the adaptive jaxgen is."""
    times = {entry["slower"]: Spread(**entry["times"]) for entry in ratios}
    lines = [
        [
            row["contestant"] + ("" if row["final"] else " (trial)"),
            f"{row['seconds']['median'] * 1e3:.3g}",
            f"{row['tokens_per_second']:,.0f}",
            str(times.get(row["contestant"], "")) if row["final"] else "",
        ]
        for row in rows
    ]
    return results.table(["", "ms", "tokens/s", "jaxgen adaptive is faster by"], lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/adaptive.json"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one run")
    parser.add_argument("--minutes", type=float, default=60.0, help="cases not begun are left out")
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes")
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    if args.quick:
        args.rounds, args.seconds = 3, 0.2
    training, sampling = TRAINING, SAMPLING
    if args.dry_run:
        args.rounds, args.seconds = 1, 1e-4
        training, sampling = (
            tuple(dataclasses.replace(case, **TINY, B=min(case.B, 3)) for case in cases)
            for cases in (training, sampling)
        )

    rows: Rows = []
    found: Rows = []
    for compare, cases in ((compare_training, training), (compare_sampling, sampling)):

        def shown(case: AdaptiveCase, compare: Any = compare) -> tuple[Rows, Rows]:
            case_rows, case_ratios = compare(case, args)
            title = f"{case_rows[0]['suite']}, {case.name}"
            print(f"{title}\n\n{table(case_rows, case_ratios)}\n", flush=True)
            return case_rows, case_ratios

        more = each_case(cases, shown, args.deadline)
        rows, found = rows + more[0], found + more[1]
    ceilings = machine.ceilings(quick=args.quick or args.dry_run)
    results.write(args.out, "adaptive", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sampling beside PyTorch's and Keras's loops: `python -m benchmarks.compare_sampling`.

Every contestant gets the same parameters and must show the same greedy tokens before it is timed.
PyTorch takes part three times, each with its fastest variant (threads, oneDNN, way of drawing): by
its own modules (`nn.LSTM`, `nn.LSTMCell`), spelled out by hand with the first projection folded,
and that through `torch.compile`. The notebook's `model.predict` loop joins at batch 1.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import costs, machine, results
from benchmarks.cases import Case
from benchmarks.contestants import (
    Contestant,
    agreeing,
    best_of_groups,
    each_case,
    gpu_arguments,
    gpu_is_here,
    installed,
    measure,
    ratios,
    start_all,
    stop_all,
)
from benchmarks.timing import Spread
from benchmarks.variants import variants

CASES = (
    Case(B=1, T=400, H=128),
    Case(B=1, T=400, H=128, L=2),
    Case(B=64, T=200, H=128, L=2),
    Case(B=1024, T=50, H=128, L=2),
    Case(B=1, T=200, H=512, L=2),
    Case(B=64, T=50, H=512, L=2),
)
VOCABULARY_CASES = (
    Case(B=1, T=100, H=512, V=33_000),
    Case(B=64, T=20, H=512, V=33_000),
)
GPU_CASES = tuple(Case(B=B, T=200, H=128, L=2) for B in (1, 64, 1024, 16384))
TINY = (Case(B=2, T=4, H=8, V=11),)
GREEDY = 20
KERAS_PARTS = 40
"""Its loop is timed on a 40th of the characters: each of them costs the same."""
OURS = "benchmarks.jaxgen_sampler:JaxgenSampling"
TORCH = "benchmarks.peers.torch_sampler:TorchSampling"


def contestants(case: Case, threads: tuple[int, ...], keras: str | None, quick: bool) -> list:
    """Everyone that is installed; jaxgen's `generate` first."""
    entries = [
        Contestant("jaxgen.generate", "jaxgen", OURS),
        Contestant("generate in jit", "jaxgen in jit", OURS, {"inside_jit": True}),
    ]
    if case.V <= 1000:  # a vocabulary of characters
        entries.append(Contestant("lm.generate", "text", "benchmarks.jaxgen_sampler:JaxgenText"))
    if installed("torch"):
        entries += torch_variants(threads, quick)
    if case.B == 1 and case.L == 1 and (keras or installed("tensorflow")):
        target = "benchmarks.peers.keras_lm:KerasPredictSampling"
        options = {"parts": KERAS_PARTS}
        name = "keras predict loop"
        entries.append(Contestant(name, "keras", target, options, keras, parts=KERAS_PARTS))
    return entries


def torch_variants(threads: tuple[int, ...], quick: bool) -> list[Contestant]:
    entries = []

    def add(group: str, variant: str, draw: str, count: int, mkldnn: bool = True) -> None:
        options = {"variant": variant, "draw": draw, "threads": count, "mkldnn": mkldnn}
        name = f"torch {variant} {count}t {draw}" + ("" if mkldnn else " aten")
        entries.append(Contestant(name, group, TORCH, options))

    for count in threads[:1] if quick else threads:
        for draw in ("multinomial", "race"):
            add("torch modules", "lstm", draw, count)
            add("torch modules", "lstm", draw, count, mkldnn=False)
            add("torch modules", "cell", draw, count)
        add("torch by hand", "manual", "race", count)
        if not quick:
            add("torch.compile", "compiled", "race", count)
    return entries


def gpu_contestants(device: str, trials: bool) -> list[Contestant]:
    """On one GPU: PyTorch eager and CUDA-graphed; jaxgen also with what may cut its launches.

    Products are in TF32 where a library allows it, so a few first tokens may differ.
    """
    entries = [Contestant("jaxgen.generate", "jaxgen", OURS)]
    for suffix, options, env in variants(trials):
        name = f"generate in jit{suffix}"
        entries.append(Contestant(name, name, OURS, {"inside_jit": True, **options}, env=env))
    if installed("torch"):
        for variant in ("lstm", "manual", "graph"):
            options = {"variant": variant, "draw": "race", "device": device}
            entries.append(Contestant(f"torch {variant}", f"torch {variant}", TORCH, options))
    return [dataclasses.replace(entry, tolerance=0.1) for entry in entries]


def same_tokens(running: list[Contestant], steps: int) -> list[Contestant]:
    """Without those whose greedy tokens differ; some cannot show theirs."""
    able = [c for c in running if c.target in (OURS, TORCH)]
    kept = agreeing(able, "greedy", steps=steps)
    return [c for c in running if c in kept or c not in able]


def row(case: Case, name: str, spread: Spread, ceilings: dict[str, Any]) -> dict[str, Any]:
    """A result row; seconds are those of one step, a token for each row of the batch."""
    cost = costs.sampler_step(case)
    return {
        "suite": "sampling",
        "case": case.name,
        "shape": case.as_dict(),
        "contestant": name,
        "seconds": spread.as_dict(),
        **costs.figures(cost, case.B, spread.median, ceilings),
    }


def per_step(seconds: list[float], case: Case) -> Spread:
    return Spread.of([value / case.T for value in seconds])


def compare(case: Case, ceilings: dict[str, Any], args: Any) -> tuple[list, list]:
    """Rows and ratios of one case."""
    if args.gpu:
        entries = gpu_contestants("cpu" if args.dry_run else "cuda", args.trials)
    else:
        entries = contestants(case, tuple(args.threads), args.keras_python, args.quick)
    running = start_all(entries, case.as_dict(), args.deadline)
    try:
        running = same_tokens(running, 1 if args.gpu else GREEDY)
        finalists, trial = best_of_groups(running, rounds=1, seconds=args.seconds / 2)
        seconds = measure(finalists, rounds=args.rounds, seconds=args.seconds)
        rows = []
        for contestant in running:
            final = contestant.name in seconds
            times = seconds[contestant.name] if final else trial[contestant.name]
            facts = contestant.facts() if final else {"options": contestant.options}
            entry = row(case, contestant.name, per_step(times, case), ceilings)
            rows.append({**entry, "group": contestant.group, "final": final, **facts})
        ours = [c for c in finalists if c.target != TORCH and c.group != "keras"]
        peers = [c for c in finalists if c not in ours]
        ours = [c for c in ours if not c.is_trial]
        found = ratios(seconds, ours, peers)
        return rows, [{"suite": "sampling", "case": case.name, **entry} for entry in found]
    finally:
        stop_all(running)


def show(case: Case, rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Print one case's table."""
    times = {(r["slower"], r["faster"]): str(Spread(**r["times"])) for r in found}
    ours = list(dict.fromkeys(r["faster"] for r in found))
    lines = []
    for entry in sorted(rows, key=lambda row: (not row["final"], row["seconds"]["median"])):
        name = entry["contestant"]
        lines.append(
            [
                name + ("" if entry["final"] else " (trial)"),
                f"{entry['seconds']['median'] * 1e6:.1f}",
                f"{entry['tokens_per_second']:,.0f}",
                f"{entry['share_of_floor']:.1%}",
                *[times.get((name, our), "") if entry["final"] else "" for our in ours],
            ]
        )
    print(results.table([case.name, "us/step", "tokens/s", "of floor", *ours], lines), flush=True)
    print(
        "Last columns: how many times faster, median [quartiles]. Floor: the measured ceilings.\n"
    )


def vocabulary(case: Case, ceilings: dict[str, Any], args: Any) -> list[dict[str, Any]]:
    """What drawing adds to a step of the bare model, for each way of drawing."""
    entries = [
        Contestant(name, name, OURS, {"sampling": name, "inside_jit": True})
        for name in ("model", "greedy", "temperature", "top_k", "top_p")
    ]
    running = start_all(entries, case.as_dict())
    try:
        seconds = measure(running, rounds=args.rounds, seconds=args.seconds)
    finally:
        stop_all(running)
    rows, lines = [], []
    for name, times in seconds.items():
        spread = per_step(times, case)
        added = Spread.of([a / b - 1 for a, b in zip(times, seconds["model"], strict=True)])
        entry = row(case, f"jaxgen {name}", spread, ceilings)
        rows.append({**entry, "final": True, "added": added.as_dict()})
        median = f"{spread.median * 1e6:.0f}"
        quartiles = f"{added.median:+.0%} [{added.lower:+.0%}, {added.upper:+.0%}]"
        lines.append([name, median, "" if name == "model" else quartiles])
    print(results.table([case.name, "us/step", "over the bare model"], lines) + "\n", flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sampling.json"))
    parser.add_argument("--keras-python", help="interpreter that has keras and tensorflow")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one run")
    parser.add_argument("--quick", action="store_true", help="3 short rounds of a few cases")
    parser.add_argument("--gpu", action="store_true", help="the cases and peers of one GPU")
    parser.add_argument("--only", choices=("peers", "drawing"), help="half of it")
    gpu_arguments(parser)
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    if args.gpu and not args.dry_run and not gpu_is_here():
        return 2
    if args.quick:
        args.rounds, args.seconds = 3, 0.05
    cases, drawing = GPU_CASES if args.gpu else CASES, VOCABULARY_CASES
    if args.dry_run:
        args.rounds, args.seconds = 1, 1e-4
        cases, drawing = TINY, ()
    cases = () if args.only == "drawing" else cases
    drawing = () if args.only == "peers" else drawing
    ceilings = machine.ceilings(quick=args.quick or args.dry_run)

    def compared(case: Case) -> tuple[list, list]:
        case_rows, case_ratios = compare(case, ceilings, args)
        show(case, case_rows, case_ratios)
        return case_rows, case_ratios

    rows, found = each_case(cases[:2] if args.quick else cases, compared, args.deadline)
    for case in drawing[:1] if args.quick else drawing:
        if time.monotonic() < args.deadline:
            rows += vocabulary(case, ceilings, args)
    results.write(args.out, "sampling", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

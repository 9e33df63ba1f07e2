"""One LSTM layer beside cuDNN's: `python -m benchmarks.compare_recurrence`, on a GPU.

Forward, and forward and backward, on dense inputs of H numbers a step; the input projection is in
the time. Scan and cuDNN backends, float32, TF32 and bfloat16, and the scan with what may cut its
launches, against PyTorch's `nn.LSTM` in float32, TF32, bfloat16 and half precision.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import costs, machine, results
from benchmarks.cases import Case
from benchmarks.contestants import (
    Contestant,
    agreeing,
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

OURS = "benchmarks.jaxgen_recurrence:JaxgenRecurrence"
TORCH = "benchmarks.peers.torch_recurrence:TorchRecurrence"
CASES = (Case(B=16, T=1024, H=768, V=2, E=768), Case(B=64, T=256, H=512, V=2, E=512))
TINY = (Case(B=2, T=4, H=8, V=2, E=8),)
MODES = {"forward": 1, "both": 3}
FULL, ROUNDED = 1e-4, 2e-2
"""Largest difference of the mean absolute output, of exact float32 and of rounded products."""


def contestants(device: str, trials: bool) -> list[Contestant]:
    """Exact float32 scan first: the others are held to it."""
    entries = []

    def ours(name: str, tolerance: float, **options: Any) -> None:
        entries.append(Contestant(f"jaxgen {name}", name, OURS, options, tolerance=tolerance))

    ours("scan float32", FULL, precision="float32")
    for suffix, options, env in variants(trials):
        for dtype, more in (("tf32", {"precision": "tensorfloat32"}), ("bfloat16", {})):
            kind = "float32" if dtype == "tf32" else dtype
            ours(f"scan {dtype}{suffix}", ROUNDED, dtype=kind, **more, **options)
            entries[-1].env = env
    ours("cudnn float32", FULL, backend="cudnn", precision="float32")
    ours("cudnn tf32", ROUNDED, backend="cudnn", precision="tensorfloat32")
    if installed("torch"):
        for name, options in {
            "float32": {},
            "tf32": {"tf32": True},
            "bfloat16": {"dtype": "bfloat16"},
            "half": {"dtype": "float16"},
        }.items():
            name, options = f"torch cudnn {name}", {"device": device, **options}
            tolerance = FULL if name.endswith("float32") else ROUNDED
            entries.append(Contestant(name, name, TORCH, options, tolerance=tolerance))
    return entries


def compare(case: Case, ceilings: dict[str, Any], args: Any) -> tuple[list, list]:
    """Rows and ratios of one case, forward and both."""
    device = "cpu" if args.dry_run else "cuda"
    running = start_all(contestants(device, args.trials), case.as_dict(), args.deadline)
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    try:
        for mode, times in MODES.items():
            for contestant in running:
                contestant.call("choose", mode=mode)
            running = agreeing(running, "check", mean=True)
            seconds = measure(running, rounds=args.rounds, seconds=args.seconds)
            name = f"B={case.B} T={case.T} H={case.H} {mode}"
            cost = costs.recurrence(case, times)
            for c in running:
                kind = "float32" if "float32" in c.name or "tf32" in c.name else "bfloat16"
                spread = Spread.of(seconds[c.name])
                figures = costs.figures(cost, case.B * case.T, spread.median, ceilings, kind)
                row = {"suite": "recurrence", "case": name, "contestant": c.name, "final": True}
                shape = {**case.as_dict(), "dtype": kind}
                rows.append({**row, "shape": shape, "seconds": spread.as_dict(), **figures})
                rows[-1].update(c.facts())
            ours = [c for c in running if c.target == OURS and not c.is_trial]
            peers = [c for c in running if c.target == TORCH]
            named = {"suite": "recurrence", "case": name}
            found += [{**named, **entry} for entry in ratios(seconds, ours, peers)]
            lines = [[r["contestant"], f"{r['seconds']['median'] * 1e3:.3f}"] for r in rows]
            print(results.table([name, "ms"], lines[-len(running) :]) + "\n", flush=True)
    finally:
        stop_all(running)
    return rows, found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu-recurrence.json"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one run")
    gpu_arguments(parser)
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    if args.dry_run:
        args.rounds, args.seconds = 1, 1e-4
    elif not gpu_is_here():
        return 2
    ceilings = machine.ceilings(quick=args.dry_run)
    cases = TINY if args.dry_run else CASES
    rows, found = each_case(cases, lambda case: compare(case, ceilings, args), args.deadline)
    results.write(args.out, "recurrence", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

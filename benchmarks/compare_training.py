"""Training throughput beside the peers: `python -m benchmarks.compare_training`.

Every contestant gets the same parameters and batches, and must show the same first loss before it
is timed. Variants of a library (threads, oneDNN, flavours of Adam, jit) first run a trial; the
fastest then meets the others, interleaved, and the ratios of the rounds are the result.
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
    Case(B=50, T=50, H=128),
    Case(B=32, T=64, H=256),
    Case(B=32, T=64, H=512),
)
GPU_CASES = (
    Case(B=64, T=256, H=512),
    Case(B=16, T=1024, H=768),
    Case(B=256, T=128, H=1024),
)
TINY = (Case(B=2, T=4, H=8, V=11),)
LOSSES = 5
OURS = "benchmarks.jaxgen_lm:JaxgenTraining"
FLAX = "benchmarks.peers.flax_rnn:FlaxTraining"
TORCH = "benchmarks.peers.torch_lm:TorchTraining"
KERAS = "benchmarks.peers.keras_lm:KerasTraining"


def contestants(devices: tuple[int, ...], threads: tuple[int, ...], keras: str | None) -> list:
    """Everyone that is installed; the first, jaxgen on one device, is the reference."""
    entries = []
    for folded in (True, False):
        suffix = "" if folded else ", not folded"
        for count in devices:
            name = f"jaxgen {count} device{'s' if count > 1 else ''}{suffix}"
            options = {"devices": count, "folded": folded}
            entries.append(Contestant(name, "jaxgen" + suffix, OURS, options))
    entries.append(Contestant("flax nn.RNN", "flax", FLAX))
    if installed("torch"):
        for count in threads:
            for mkldnn in (True, False):
                for adam in ("fused", "foreach"):
                    name = f"torch {count}t {'onednn' if mkldnn else 'aten'} {adam}"
                    options = {"threads": count, "mkldnn": mkldnn, "adam": adam}
                    entries.append(Contestant(name, "torch", TORCH, options))
    if keras or (installed("keras") and installed("tensorflow")):
        for method in ("train_on_batch", "fit"):
            for jit in (False, True):
                name = f"keras {method}{' jit' if jit else ''}"
                options = {"method": method, "jit_compile": jit}
                entries.append(Contestant(name, "keras", KERAS, options, keras))
    return entries


def gpu_contestants(device: str, trials: bool) -> list[Contestant]:
    """On one GPU: float32 (TF32 products where the library allows them) and bfloat16.

    Losses in TF32 and bfloat16 carry the rounding of their products, hence the tolerances.
    """
    entries = []

    def ours(name: str, tolerance: float, env: dict[str, str], **options: Any) -> None:
        name = f"jaxgen {name}"
        entries.append(Contestant(name, name, OURS, options, tolerance=tolerance, env=env))

    ours("scan", 5e-3, {}, backend="scan")
    ours("scan, not folded", 5e-3, {}, backend="scan", folded=False)
    ours("cudnn", 5e-3, {}, backend="cudnn")
    for suffix, options, env in variants(trials):
        ours(f"scan bfloat16{suffix}", 3e-2, env, backend="scan", dtype="bfloat16", **options)
    entries.append(Contestant("flax nn.RNN", "flax", FLAX, tolerance=5e-3))
    if installed("torch"):
        for name, options, tolerance in (
            ("float32", {"tf32": False}, 5e-3),
            ("tf32", {"tf32": True}, 5e-3),
            ("bfloat16", {"dtype": "bfloat16", "tf32": True}, 3e-2),
            ("half", {"dtype": "float16", "tf32": True}, 3e-2),
        ):
            name, options = f"torch cudnn {name}", {"device": device, **options}
            entries.append(Contestant(name, name, TORCH, options, tolerance=tolerance))
    return entries


def compare(case: Case, entries: list[Contestant], ceilings: dict[str, Any], args: Any) -> Any:
    """Rows and ratios of one case."""
    running = start_all(entries, case.as_dict(), args.deadline)
    try:
        running = agreeing(running, "losses", mean=True, steps=1)
        losses = {c.name: c.call("losses", steps=LOSSES) for c in running}
        finalists, trial = best_of_groups(
            running, rounds=1 if args.quick else 3, seconds=args.seconds / 2
        )
        seconds = measure(finalists, rounds=args.rounds, seconds=args.seconds)
        ours = [c for c in finalists if c.target == OURS and not c.is_trial]
        peers = [c for c in finalists if c.target != OURS]
        rows = []
        for contestant in running:
            final = contestant.name in seconds
            facts = contestant.facts() if final else {"options": contestant.options}
            spread = Spread.of(seconds[contestant.name] if final else trial[contestant.name])
            folded = contestant.target == OURS and contestant.options.get("folded", True)
            cost = costs.train_step(case, folded=folded)
            half = contestant.options.get("dtype", "float32") != "float32"
            kind = "bfloat16" if half else "float32"
            rows.append(
                {
                    "suite": "training",
                    "case": case.name,
                    "shape": case.as_dict(),
                    "contestant": contestant.name,
                    "group": contestant.group,
                    "final": final,
                    "seconds": spread.as_dict(),
                    **costs.figures(cost, case.B * case.T, spread.median, ceilings, kind),
                    "losses": losses[contestant.name],
                    **facts,
                }
            )
        found = [
            {"suite": "training", "case": case.name, **r} for r in ratios(seconds, ours, peers)
        ]
        return rows, found
    finally:
        stop_all(running)


def show(case: Case, rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Print one case's table."""
    times = {(r["slower"], r["faster"]): str(Spread(**r["times"])) for r in found}
    ours = list(dict.fromkeys(r["faster"] for r in found))
    lines = []
    for row in sorted(rows, key=lambda row: (not row["final"], row["seconds"]["median"])):
        spread = Spread(**row["seconds"])
        name, final = row["contestant"], row["final"]
        lines.append(
            [
                name + ("" if final else " (trial)"),
                f"{spread.median * 1e3:.2f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['flops_per_second'] / 1e9:.0f}",
                f"{row['share_of_matmul']:.0%}",
                *[times.get((name, our), "") if final else "" for our in ours],
            ]
        )
    headers = [case.name, "ms/step", "tokens/s", "GFLOP/s", "of matmul", *ours]
    print(results.table(headers, lines), flush=True)
    print("Last columns: how many times faster, median [quartiles].\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--keras-python", help="interpreter that has keras and tensorflow")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one run")
    parser.add_argument("--quick", action="store_true", help="3 short rounds of the first case")
    parser.add_argument("--gpu", action="store_true", help="the cases and peers of one GPU")
    gpu_arguments(parser)
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    if args.gpu and not args.dry_run and not gpu_is_here():
        return 2
    if args.quick:
        args.rounds, args.seconds = 3, 0.1
    cases = GPU_CASES if args.gpu else CASES
    if args.dry_run:
        args.rounds, args.seconds = 1, 1e-4
        cases = TINY
    ceilings = machine.ceilings(quick=args.quick or args.dry_run)

    def compared(case: Case) -> tuple[list, list]:
        if args.gpu:
            entries = gpu_contestants("cpu" if args.dry_run else "cuda", args.trials)
        else:
            entries = contestants(tuple(args.devices), tuple(args.threads), args.keras_python)
        case_rows, case_ratios = compare(case, entries, ceilings, args)
        show(case, case_rows, case_ratios)
        return case_rows, case_ratios

    rows, found = each_case(cases[:1] if args.quick else cases, compared, args.deadline)
    results.write(args.out, "training", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training throughput beside the peers: `python -m benchmarks.compare_training`.

Every contestant gets the same parameters and batches, and must show the same first loss before it
is timed. Variants of a library (threads, oneDNN, flavours of Adam, jit) first run a trial; the
fastest then meets the others, interleaved, and the ratios of the rounds are the result.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import costs, machine, results
from benchmarks.cases import Case
from benchmarks.contestants import (
    Contestant,
    best_of_groups,
    installed,
    measure,
    ratios,
    start_all,
    stop_all,
)
from benchmarks.timing import Spread

CASES = (
    Case(B=50, T=50, H=128),
    Case(B=32, T=64, H=256),
    Case(B=32, T=64, H=512),
)
REFERENCE = "jaxgen 1 device"
LOSSES = 5


def contestants(devices: tuple[int, ...], threads: tuple[int, ...], keras: str | None) -> list:
    """Everyone that is installed; jaxgen first, its single-device form the reference."""
    ours = "benchmarks.jaxgen_lm:JaxgenTraining"
    entries = []
    for folded in (True, False):
        suffix = "" if folded else ", not folded"
        for count in devices:
            name = f"jaxgen {count} device{'s' if count > 1 else ''}{suffix}"
            options = {"devices": count, "folded": folded}
            entries.append(Contestant(name, "jaxgen" + suffix, ours, options))
    entries.append(Contestant("flax nn.RNN", "flax", "benchmarks.peers.flax_rnn:FlaxTraining"))
    if installed("torch"):
        for count in threads:
            for mkldnn in (True, False):
                for adam in ("fused", "foreach"):
                    name = f"torch {count}t {'onednn' if mkldnn else 'aten'} {adam}"
                    options = {"threads": count, "mkldnn": mkldnn, "adam": adam}
                    target = "benchmarks.peers.torch_lm:TorchTraining"
                    entries.append(Contestant(name, "torch", target, options))
    if keras or (installed("keras") and installed("tensorflow")):
        for method in ("train_on_batch", "fit"):
            for jit in (False, True):
                name = f"keras {method}{' jit' if jit else ''}"
                options = {"method": method, "jit_compile": jit}
                target = "benchmarks.peers.keras_lm:KerasTraining"
                entries.append(Contestant(name, "keras", target, options, keras))
    return entries


def check_losses(entries: list[Contestant]) -> dict[str, list[float]]:
    """First losses of each contestant.

    Raises:
        SystemExit: a first loss is not the reference's: its time would compare nothing.
    """
    found = {c.name: c.worker.call("losses", steps=LOSSES) for c in entries}
    reference = found[entries[0].name][0]
    for contestant in entries:
        difference = abs(found[contestant.name][0] - reference)
        if difference > contestant.tolerance:
            raise SystemExit(
                f"{contestant.name} starts at a loss of {found[contestant.name][0]:.7f}, "
                f"{entries[0].name} at {reference:.7f}: not the same problem"
            )
    return found


def compare(case: Case, entries: list[Contestant], ceilings: dict[str, Any], args: Any) -> Any:
    """Rows and ratios of one case."""
    running = start_all(entries, case.as_dict())
    try:
        losses = check_losses(running)
        finalists, trial = best_of_groups(
            running, rounds=1 if args.quick else 3, seconds=args.seconds / 2
        )
        seconds = measure(finalists, rounds=args.rounds, seconds=args.seconds)
        ours = [c for c in finalists if c.name.startswith("jaxgen")]
        peers = [c for c in finalists if c not in ours]
        rows = []
        for contestant in running:
            final = contestant.name in seconds
            facts = contestant.facts() if final else {"options": contestant.options}
            spread = Spread.of(seconds[contestant.name] if final else trial[contestant.name])
            folded = contestant.group == "jaxgen"
            flops = costs.train_step(case, folded=folded).flops
            rows.append(
                {
                    "suite": "training",
                    "case": case.name,
                    "shape": case.as_dict(),
                    "contestant": contestant.name,
                    "group": contestant.group,
                    "final": final,
                    "seconds": spread.as_dict(),
                    "tokens_per_second": case.B * case.T / spread.median,
                    "flops_per_second": flops / spread.median,
                    "share_of_matmul": flops / spread.median / ceilings["matmul"]["float32"],
                    "intensity": costs.train_step(case, folded=folded).intensity,
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
    best = {r["slower"]: {} for r in found}
    for entry in found:
        key = "folded" if "not folded" not in entry["faster"] else "plain"
        best[entry["slower"]][key] = str(Spread(**entry["times"]))
    lines = []
    for row in sorted(rows, key=lambda row: (not row["final"], row["seconds"]["median"])):
        spread = Spread(**row["seconds"])
        times = best.get(row["contestant"], {}) if row["final"] else {}
        lines.append(
            [
                row["contestant"] + ("" if row["final"] else " (trial)"),
                f"{spread.median * 1e3:.2f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['flops_per_second'] / 1e9:.0f}",
                f"{row['share_of_matmul']:.0%}",
                times.get("plain", ""),
                times.get("folded", ""),
            ]
        )
    headers = [
        case.name,
        "ms/step",
        "tokens/s",
        "GFLOP/s",
        "of matmul",
        "jaxgen not folded",
        "jaxgen",
    ]
    print(results.table(headers, lines), flush=True)
    print("The last two columns: how many times faster jaxgen is, median [quartiles].\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--keras-python", help="interpreter that has keras and tensorflow")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one run")
    parser.add_argument("--quick", action="store_true", help="3 short rounds of the first case")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 3, 0.1
    ceilings = machine.ceilings(quick=args.quick)
    rows, found = [], []
    for case in CASES[:1] if args.quick else CASES:
        entries = contestants(tuple(args.devices), tuple(args.threads), args.keras_python)
        case_rows, case_ratios = compare(case, entries, ceilings, args)
        show(case, case_rows, case_ratios)
        rows += case_rows
        found += case_ratios
    results.write(args.out, "training", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()

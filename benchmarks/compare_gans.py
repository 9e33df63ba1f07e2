"""Training a text GAN beside PyTorch: `python -m benchmarks.compare_gans`.

SeqGAN's setup. The contestants begin with the same parameters, and must agree in the generator's
cross-entropy of some texts and the discriminator's score of others before they are timed; their
roll-outs are random, and must agree in what a token is worth in the mean. Each unit has its share
of `--minutes`, and the file is written anew after each.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.contestants import (
    Contestant,
    agreeing,
    best_of_groups,
    installed,
    measure,
    ratios,
    start_all,
    stop_all,
)
from benchmarks.gan_cases import GanCase
from benchmarks.timing import Spread
from jaxgen.training.parallel import usable_cores

CASE = GanCase(rollouts=4)
SMALL = GanCase(B=3, T=4, V=9, E=3, H=4, D=3, rollouts=2, widths=(1, 2), filters=(3, 2))
UNITS = {
    "rollouts": "roll-outs alone",
    "returns": "roll-outs and their scores",
    "generator": "a step of the generator",
    "discriminator": "a step of the discriminator",
    "both": "a step of both, seeds together",
}
SEEDS = 5
WORTH_TOLERANCE = 0.02
"""Of the mean return of roll-outs: with 16 of them its standard error is some 0.001."""


def contestants(unit: str, args: argparse.Namespace) -> list[Contestant]:
    """Everyone that is installed; jaxgen first, the reference."""
    target = "benchmarks.jaxgen_gan:JaxgenGan"
    if unit == "both":
        kinds = {"one run": 0, f"{SEEDS} seeds": SEEDS}
        return [
            Contestant(name, name, target, {"unit": unit, "seeds": seeds})
            for name, seeds in kinds.items()
        ]
    entries = [Contestant("jaxgen", "jaxgen", target, {"unit": unit}, tolerance=1e-4)]
    if not installed("torch"):
        return entries
    ways = {"batched": True} if unit == "discriminator" else {"batched": True, "one by one": False}
    for way, batched in ways.items():
        for threads in args.threads:
            options = {"unit": unit, "batched": batched, "threads": threads}
            name = f"torch {way} {threads}t"
            target = "benchmarks.peers.torch_gan:TorchGan"
            entries.append(Contestant(name, f"torch {way}", target, options, tolerance=1e-4))
    return entries


def compare(
    case: GanCase, unit: str, until: float, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and ratios of one unit; no round begins after `until`, but for the first."""
    running = start_all(contestants(unit, args), case.as_dict(), args.deadline)
    most = 1 if args.dry_run else 10**6
    try:
        _say(args, f"{UNITS[unit]}: {len(running)} contestants compiled")
        running = agreeing(running, "figures", mean=True)
        if unit == "returns" and not args.dry_run:
            running = _agreeing_in_the_mean(running)
        _say(args, f"{UNITS[unit]}: {len(running)} contestants agree")
        times: dict[str, Any] = {"seconds": args.seconds, "most": most, "warm_up": 0}
        finalists = running
        trial: dict[str, list[float]] = {}
        if len(args.threads) > 1:
            finalists, trial = best_of_groups(running, rounds=1, **times)
        seconds = measure(finalists, rounds=args.rounds, until=until, **times)
        rows = []
        for contestant in running:
            final = contestant.name in seconds
            spread = Spread.of(seconds[contestant.name] if final else trial[contestant.name])
            facts = contestant.facts() if final else {"options": contestant.options}
            rows.append(
                {
                    **{"suite": UNITS[unit], "case": case.name, "shape": case.as_dict()},
                    **{"contestant": contestant.name, "group": contestant.group, "final": final},
                    "seconds": spread.as_dict(),
                    **facts,
                }
            )
        found = ratios(seconds, finalists[:1], finalists[1:])
        return rows, [{"suite": UNITS[unit], "case": case.name, **entry} for entry in found]
    finally:
        stop_all(running)


def _agreeing_in_the_mean(running: list[Contestant]) -> list[Contestant]:
    expected, kept = None, []
    for contestant in running:
        worth = contestant.call("worth")
        expected = worth if expected is None else expected
        if abs(worth - expected) <= WORTH_TOLERANCE:
            kept.append(contestant)
            continue
        print(f"{contestant.name} does not take part: its mean return is {worth}, not {expected}")
        contestant.stop()
    return kept


def _say(args: argparse.Namespace, text: str) -> None:
    print(f"{time.monotonic() - args.started:5.0f} s  {text}", flush=True)


def section(data: dict[str, Any]) -> str:
    """The report's section: a table of each unit."""
    parts = ["## Text GANs beside PyTorch"]
    for suite in dict.fromkeys(row["suite"] for row in data["rows"]):
        chosen = [
            [entry for entry in data[kind] if entry["suite"] == suite]
            for kind in ("rows", "ratios")
        ]
        parts.append(unit_table(*chosen))
    parts.append(
        "SeqGAN's setup but for N, the roll-outs from each token, of which SeqGAN makes 16: all "
        "contestants of a table make as many, and nothing is scaled up. A unit is one step on a "
        "batch, or the roll-outs of one. *Batched* writes all roll-outs of a prefix at once and "
        "reads the prefix once for them; *one by one* is how published programs have it. PyTorch "
        "runs eagerly, with its own sampling. A step of both is one of the discriminator and one "
        "of the generator."
    )
    return "\n\n".join(parts)


def unit_table(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """The contestants in one unit, and how many times faster jaxgen is."""
    times = {entry["slower"]: Spread(**entry["times"]) for entry in found}
    lines = [
        [
            row["contestant"] + ("" if row["final"] else " (trial)"),
            f"{1e3 * row['seconds']['median']:.4g}",
            str(times.get(row["contestant"], "")),
        ]
        for row in rows
    ]
    of_seeds = rows[0]["suite"] == UNITS["both"]
    what = "times one run" if of_seeds else "jaxgen is faster by"
    headers = (f"{rows[0]['suite']}, {rows[0]['case']}", "ms", what)
    return results.table(headers, lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gans.json"))
    parser.add_argument("--threads", type=int, nargs="+", default=[usable_cores()])
    parser.add_argument("--rounds", type=int, default=7, help="at most")
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of one run")
    parser.add_argument("--minutes", type=float, default=8.0, help="shared by the units")
    parser.add_argument("--units", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--rollouts", type=int, default=CASE.rollouts)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes")
    args = parser.parse_args(arguments)
    args.started = time.monotonic()
    args.deadline = args.started + 60 * args.minutes
    case = dataclasses.replace(CASE, rollouts=args.rollouts)
    if args.dry_run:
        args.rounds, args.seconds, case = 1, 1e-4, SMALL
    content: dict[str, Any] = {"rows": [], "ratios": []}
    for number, unit in enumerate(args.units):
        now = time.monotonic()
        if now > args.deadline:
            print(f"left out, the minutes are over: {UNITS[unit]}")
            continue
        until = now + (args.deadline - now) / (len(args.units) - number)
        # The seeds differ in how often they take a step, whatever that is: one of few roll-outs.
        own = dataclasses.replace(case, rollouts=1) if unit == "both" else case
        rows, found = compare(own, unit, until, args)
        content["rows"] += rows
        content["ratios"] += found
        results.write(args.out, "gans", **content)  # what is measured stays, whatever follows
        print(unit_table(rows, found) + "\n", flush=True)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

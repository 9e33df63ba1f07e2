"""What steering costs beside the plain sampler: `python -m benchmarks.steering`.

The plain sampler is a language model under one label. Beside it, in one process and in turn: one
label with a strength, a mixture of two, an ensemble of eight models, and texts that a finite
automaton constrains. All draw from `generate`, with parameters that were prepared beforehand.

No peer takes part. The guidance of `transformers` (`guidance_scale`) is a processor of logits that
calls a transformer a second time with its own cache of keys and values; what it costs there says
nothing of a recurrent model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.cases import Case
from benchmarks.jaxgen_steering import (
    AVERAGE,
    GUIDED,
    MEMBERS,
    PLAIN,
    PRODUCT,
    SENTENCES,
    Sampling,
    kinds_of,
)
from benchmarks.timing import Spread, Timer, first_call, interleave, ratio, timer, units_for

BYTES = Case(B=1, T=100, H=128, V=256)
SMALL = Case(B=1, T=100, H=128, V=4096, E=128)
LARGE = Case(B=1, T=100, H=256, V=4096, E=256)
TINY = (Case(B=1, T=2, H=3, V=256), Case(B=1, T=2, H=3, V=300, E=3))
"""Of a dry run."""
TARGETS = {
    (GUIDED, 1): 1.3,
    (GUIDED, 64): 1.9,
    **{(name, 1, SMALL.H): 7.0 for name in (PRODUCT, AVERAGE)},
}
"""How many times the plain sampler's time is aimed at, by contestant, batch and hidden units."""


def measure(
    case: Case, kinds: Sequence[str], rounds: int, target: float
) -> dict[str, list[dict[str, Any]]]:
    """Rows and ratios of a case.

    Args:
        case: the batch and the shapes of the model.
        kinds: of `KINDS`, the plain sampler among them.
        rounds: how often each contestant is timed.
        target: seconds of one timing.
    """
    contestants = {kind: Sampling(case, kind) for kind in kinds}
    compiled = {kind: first_call(run.run, 1) for kind, run in contestants.items()}
    timers: dict[str, Timer] = {}
    for kind, contestant in contestants.items():
        calls = units_for(lambda calls, run=contestant.run: timer(run, calls)(), target)
        timers[kind] = timer(contestant.run, calls, units=calls * case.T)
    seconds = interleave(timers, rounds=rounds)
    rows = [
        {
            "suite": "steering",
            "case": case.name,
            "shape": case.as_dict(),
            "contestant": kind,
            "seconds": (spread := Spread.of(seconds[kind])).as_dict(),
            "tokens_per_second": case.B / spread.median,
            "compile_seconds": compiled[kind],
        }
        for kind in kinds
    ]
    ratios = [
        {
            "suite": "steering",
            "case": case.name,
            "slower": kind,
            "faster": PLAIN,
            "times": ratio(values, seconds[PLAIN]).as_dict(),
        }
        for kind, values in seconds.items()
        if kind != PLAIN
    ]
    return {"rows": rows, "ratios": ratios}


def case_section(rows: Sequence[dict[str, Any]], ratios: Sequence[dict[str, Any]]) -> str:
    """One case: its contestants, how they compare with the plain sampler, what was aimed at."""
    times = {entry["slower"]: Spread(**entry["times"]) for entry in ratios}
    shape, lines, aims = rows[0]["shape"], [], []
    for row in rows:
        kind = row["contestant"]
        each = {k: v * 1e6 for k, v in row["seconds"].items() if k != "count"}
        compared = [str(times.get(kind, 1)), f"{row['compile_seconds']:.1f}"]
        spread = str(Spread(**each, count=1))
        lines.append([kind, spread, f"{row['tokens_per_second']:,.0f}", *compared])
        aim = TARGETS.get((kind, shape["B"]), TARGETS.get((kind, shape["B"], shape["H"])))
        if aim and kind in times:
            met = "reached" if times[kind].median <= aim else "missed"
            aims.append([kind, f"{aim:g}", str(times[kind]), met])
    headers = ["", "us/step", "tokens/s", "times the plain sampler's", "compile s"]
    parts = [f"### {rows[0]['case']}", results.table(headers, lines)]
    if aims:
        parts.append(results.table(["aimed at, at most", "times", "measured", ""], aims))
    return "\n\n".join(parts)


def section(data: dict[str, Any]) -> str:
    """The report's section."""

    def of(case: str) -> str:
        return case_section(
            *([x for x in data[kind] if x["case"] == case] for kind in ("rows", "ratios"))
        )

    cases = dict.fromkeys(row["case"] for row in data["rows"])
    parts = ["## What steering costs", *map(of, cases)]
    parts.append(
        "`generate` at temperature 1 without log-probabilities, parameters prepared; a step is a "
        "token for each row. Models with an embedding are tied, those without read bytes. *Guided* "
        "runs 2 rows of the model for each text, a mixture of 2 runs 3, an ensemble "
        f"{MEMBERS} models. The expression is `{SENTENCES}` over byte-level pieces."
    )
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/steering.json"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.25, help="least length of one timing")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes")
    args = parser.parse_args(arguments)
    cases: Sequence[Case] = (BYTES, SMALL, LARGE)
    if args.dry_run:
        args.rounds, args.seconds, args.batches, cases = 1, 1e-4, [2], TINY
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "ratios": []}
    for case in cases:
        for batch in args.batches:
            of_case = Case(**{**case.as_dict(), "B": batch})
            content = measure(of_case, kinds_of(case), args.rounds, args.seconds)
            print(case_section(**content) + "\n", flush=True)
            for name, entries in content.items():
                found[name] += entries
    results.write(args.out, "steering", **found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What comparisons by the epoch or the call share: a trial, the finals, rows and ratios."""

import argparse
from collections.abc import Callable, Collection
from typing import Any

from benchmarks.comparison_tables import FASTER_TORCH
from benchmarks.contestants import Contestant, best_of_groups, measure, ratios
from benchmarks.timing import Spread, ratio

Rows = list[dict[str, Any]]


def compared(
    running: list[Contestant],
    args: argparse.Namespace,
    *,
    ours: Collection[str],
    head: dict[str, Any],
    figures: Callable[[float], dict[str, Any]],
    facts: Callable[[Contestant], dict[str, Any]] = lambda _: {},
) -> tuple[Rows, Rows]:
    """Rows of all contestants, and ratios of the fastest of each group.

    Args:
        running: contestants that agree.
        args: of the command: `rounds`, `seconds`, `dry_run`.
        ours: groups of jaxgen's own.
        head: `suite` and `case`, of the rows and the ratios, and `shape` of the rows.
        figures: what a row says, given the median seconds of a unit.
        facts: what it says beside, of contestants in the finals.
    """
    times = {"seconds": args.seconds, "most": 1 if args.dry_run else 10**6}
    finalists, trial = best_of_groups(running, rounds=1, **times)
    seconds = measure(finalists, rounds=args.rounds, **times)
    rows = []
    for contestant in running:
        final = contestant.name in seconds
        spread = Spread.of(seconds[contestant.name] if final else trial[contestant.name])
        known = contestant.facts() | facts(contestant) if final else {"options": contestant.options}
        rows.append(
            {
                **head,
                **{"contestant": contestant.name, "group": contestant.group, "final": final},
                "seconds": spread.as_dict(),
                **figures(spread.median),
                **known,
            }
        )
    mine = [contestant for contestant in finalists if contestant.group in ours]
    peers = [contestant for contestant in finalists if contestant not in mine]
    found = ratios(seconds, mine, peers) + _faster_torch(seconds, mine, peers)
    return rows, [{"suite": head["suite"], "case": head["case"], **entry} for entry in found]


def _faster_torch(
    seconds: dict[str, list[float]], ours: list[Contestant], peers: list[Contestant]
) -> Rows:
    """Ratios to whichever of PyTorch's two took less time, round by round."""
    both = [seconds[c.name] for c in peers if c.group in ("torch packed", "torch padded")]
    if len(both) < 2:
        return []
    fastest = list(map(min, *both))
    return [
        {
            "slower": FASTER_TORCH,
            "faster": c.name,
            "times": ratio(fastest, seconds[c.name]).as_dict(),
        }
        for c in ours
    ]

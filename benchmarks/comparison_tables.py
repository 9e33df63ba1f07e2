"""Tables of comparisons by the epoch or the call: the contestants, and what was aimed at."""

from collections.abc import Mapping
from typing import Any

from benchmarks import results
from benchmarks.timing import Spread

FASTER_TORCH = "the faster of PyTorch's two"
"""What a ratio to whichever of packed and padded took less time is called."""
Rows = list[dict[str, Any]]


def contestants_table(rows: Rows, ratios: Rows, unit: str, scale: float, per: str) -> str:
    """Contestants, the fastest first, and how many times faster jaxgen's are.

    Args:
        rows: of one case.
        ratios: of the same.
        unit: of the times shown.
        scale: from seconds to it.
        per: what `examples_per_second` counts.
    """
    times = {(entry["slower"], entry["faster"]): Spread(**entry["times"]) for entry in ratios}
    ours = list(dict.fromkeys(entry["faster"] for entry in ratios))
    lines = []
    for row in sorted(rows, key=lambda row: (not row["final"], row["seconds"]["median"])):
        name, compiled, held = row["contestant"], row.get("compile_seconds"), row.get("peak_bytes")
        lines.append(
            [
                name + ("" if row["final"] else " (trial)"),
                f"{row['seconds']['median'] * scale:.3g}",
                f"{row['examples_per_second']:,.0f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['flops_per_second'] / 1e9:.3g}",
                "" if compiled is None else f"{compiled:.1f}",
                "" if held is None else f"{held / 2**20:,.0f}",
                *[str(times.get((name, our), "")) if row["final"] else "" for our in ours],
            ]
        )
    headers = ["", unit, f"{per}/s", "tokens/s", "GFLOP/s", "compile s", "peak MiB"]
    headers += [f"{our} is faster by" for our in ours]
    return results.table(headers, lines)


def targets_table(rows: Rows, ratios: Rows, targets: Mapping[str, float]) -> str:
    """What was aimed at beside a group, and what was measured; nothing where there is no aim."""
    groups = {row["contestant"]: row["group"] for row in rows}
    lines = []
    for entry in ratios:
        group = groups.get(entry["slower"], entry["slower"])
        if group in targets:
            spread = Spread(**entry["times"])
            met = "reached" if spread.median >= targets[group] else "missed"
            lines.append([entry["slower"], f"{targets[group]:g}", str(spread), met])
    return results.table(["aimed at beside", "times", "measured", ""], lines) if lines else ""

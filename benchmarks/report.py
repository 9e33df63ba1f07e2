"""One page from the result files: `python -m benchmarks.report benchmarks/results -o REPORT.md`."""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import plots, results, tpu_compiled, train_for
from benchmarks.timing import Spread

Rows = list[dict[str, Any]]
PLOT_TITLES = {
    "peers_training": "How many times faster jaxgen trains than each peer",
    "peers_sampling": "How many times faster jaxgen samples than each peer",
    "training_over_batch": "Train step over batch",
    "training_over_time": "Train step over sequence length",
    "training_over_hidden": "Train step over hidden size",
    "sampling_over_batch": "Sampler over batch",
    "roofline": "Roofline",
}


def page(files: dict[str, dict[str, Any]], plot_paths: list[str]) -> str:
    """The Markdown of the report.

    Args:
        files: result files by name.
        plot_paths: plots, relative to the page.
    """
    parts = ["# Benchmarks", INTRODUCTION, _machines(files)]
    for kind, section in SECTIONS.items():
        parts += [section(data) for data in files.values() if data["kind"] == kind]
    trainings = [data for data in files.values() if data["kind"] == "whole_training"]
    parts += [train_for.section(trainings)] if trainings else []
    shown = [f"![{PLOT_TITLES[Path(path).stem]}]({path})" for path in plot_paths]
    parts += ["## Plots", *shown] if shown else []
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
Times are medians; in brackets stand the quartiles. Compilation is not in them. Beside a peer, both
start from the same parameters and batches and show the same first loss (or the same greedy
tokens), then run in turn, each in a process of its own; the ratio is taken round by round.
*Of matmul* is the share of the machine's measured matrix-product rate; *of floor* the share of the
speed at which the step's weights are read, or its products made, at the measured rates. FLOPs are
closed forms of the matrix products. *Folded* means that the first layer's input projection is a
table of V rows, which the peers' modules do not do; *not folded* does the peers' arithmetic."""


def _machines(files: dict[str, dict[str, Any]]) -> str:
    parts = ["## What was measured where"]
    for name, data in files.items():
        machine = data["machine"]
        versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items())
        flags = ", ".join(f"{k}={v}" for k, v in machine.get("flags", {}).items()) or "none"
        parts.append(
            f"- `{name}`: {machine.get('device', '?')} ({machine.get('platform', '?')}), "
            f"{machine.get('cores', '?')} cores, load {machine.get('load_average', '?')}; "
            f"{machine.get('date', '?')} UTC; revision {machine.get('git', '?')}; "
            f"Python {machine.get('python', '?')}, {versions}; flags {flags}"
        )
    ceilings = next((d["ceilings"] for d in files.values() if d.get("ceilings")), None)
    if ceilings:
        parts.append(_ceilings(ceilings))
    return "\n\n".join(parts)


def _ceilings(ceilings: dict[str, Any]) -> str:
    matmul = ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in ceilings["matmul"].items())
    names = {"cache_small": "1 MiB", "cache_large": "8 MiB", "memory": "memory"}
    speeds = [
        f"{kind} "
        + ", ".join(f"{v / 1e9:.0f} GB/s ({names[k]})" for k, v in ceilings[kind].items())
        for kind in ("read", "copy")
    ]
    return f"Measured ceilings: matmul {matmul}; {'; '.join(speeds)}."


def _recipe(data: dict[str, Any]) -> str:
    s = data["summary"]
    rows = [
        ["Keras, three epochs of fit", f"{s['keras_seconds']:.1f}", f"{s['keras_nll']:.4f}", ""],
        [
            "jaxgen train, the whole command",
            f"{s['jaxgen_seconds']:.1f}",
            f"{s['jaxgen_nll']:.4f}",
            f"{s['times_faster']:.1f}",
        ],
        [
            "jaxgen train, its loop (compilation included)",
            f"{s['jaxgen_loop_seconds']:.1f}",
            f"{s['jaxgen_nll']:.4f}",
            f"{s['times_faster_loop']:.1f}",
        ],
    ]
    epochs = " / ".join(f"{epoch['nll']:.4f}" for epoch in data["keras"])
    return "\n\n".join(
        [
            "## The Keras Nietzsche recipe",
            results.table(["", "s", "nats per character", "times faster"], rows),
            f"Keras after each epoch: {epochs}. jaxgen: medians of {len(data['jaxgen'])} runs.",
        ]
    )


def _comparison(title: str, unit: float, unit_name: str) -> Any:
    """A section with one table a case: contestants, then how many times faster jaxgen is."""

    def section(data: dict[str, Any]) -> str:
        parts = [f"## {title}"]
        cases = dict.fromkeys(row["case"] for row in data["rows"])
        for case in cases:
            rows = [r for r in data["rows"] if r["case"] == case and r["final"]]
            if not any("added" in row for row in rows):
                ratios = [r for r in data["ratios"] if r["case"] == case]
                parts += [f"### {case}", _case_table(rows, ratios, unit, unit_name)]
        extra = _vocabulary([row for row in data["rows"] if "added" in row])
        return "\n\n".join([*parts, extra] if extra else parts)

    return section


def _case_table(rows: Rows, ratios: Rows, unit: float, unit_name: str) -> str:
    times = {(r["slower"], r["faster"]): str(Spread(**r["times"])) for r in ratios}
    ours = list(dict.fromkeys(r["faster"] for r in ratios))
    lines = []
    for row in sorted(rows, key=lambda row: row["seconds"]["median"]):
        share = row.get("share_of_floor", row["share_of_matmul"])
        lines.append(
            [
                row["contestant"],
                f"{row['seconds']['median'] * unit:.3g}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['flops_per_second'] / 1e9:.3g}",
                f"{share:.1%}",
                _seconds(row.get("compile_seconds")),
                _mebibytes(row.get("peak_bytes")),
                *[times.get((row["contestant"], our), "") for our in ours],
            ]
        )
    limit = "of floor" if any("share_of_floor" in row for row in rows) else "of matmul"
    headers = [unit_name, "tokens/s", "GFLOP/s", limit, "compile s", "peak MiB"]
    return results.table(["", *headers, *[f"{our} is faster by" for our in ours]], lines)


def _vocabulary(rows: Rows) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        added = row["added"]
        share = f"{added['median']:+.0%} [{added['lower']:+.0%}, {added['upper']:+.0%}]"
        own = row["contestant"].endswith(" model")
        microseconds = f"{row['seconds']['median'] * 1e6:.0f}"
        lines.append([row["case"], row["contestant"], microseconds, "" if own else share])
    heading = "### What drawing adds to a step of the bare model, large vocabulary"
    return f"{heading}\n\n" + results.table(["", "", "us/step", "added"], lines)


def _suite(data: dict[str, Any]) -> str:
    parts = ["## The suite"]
    for suite in dict.fromkeys(row["suite"] for row in data["rows"]):
        lines = []
        for row in data["rows"]:
            if row["suite"] != suite:
                continue
            seconds = row["seconds"]
            scaled = Spread(**{k: v * 1e3 for k, v in seconds.items() if k != "count"}, count=1)
            rate = row.get("tokens_per_second", row.get("characters_per_second", 0.0))
            line = [row["case"].partition("[")[2].rstrip("]"), str(scaled), f"{rate:,.0f}"]
            if "flops_per_second" in row:
                share = row.get("share_of_floor", row["share_of_matmul"])
                line += [f"{row['flops_per_second'] / 1e9:.3g}", f"{share:.1%}"]
                line += [_seconds(row.get("compile_seconds"))]
                line += [_mebibytes(row.get("temporary_bytes"))]
            lines.append(line)
        headers = ["", "ms/step", "tokens/s", "GFLOP/s", "of limit", "compile s", "temporary MiB"]
        if suite == "data":
            headers = ["", "ms", "characters or tokens/s"]
        parts += [f"### {suite.capitalize()}", results.table(headers, lines)]
    return "\n\n".join(parts)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _mebibytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f}"


def _session(data: dict[str, Any]) -> str:
    lines = [
        [
            name,
            f"{data[name]['import_and_build_seconds']:.2f}",
            f"{data[name]['first_token_seconds']:.3f}",
            data[name]["programs"],
            f"{data[name]['slowest_seconds']:.3f}",
        ]
        for name in ("cold", "warm")
    ]
    headers = ["compilation cache", "import and build s", "first token s"]
    headers += [f"programs in {data['cold']['calls']} mixed calls", "slowest call s"]
    return f"## A session with `lm.generate`, {data['case']}\n\n" + results.table(headers, lines)


SECTIONS = {
    "keras_recipe": _recipe,
    "training": _comparison("Training beside the peers", 1e3, "ms/step"),
    "sampling": _comparison("Sampling beside the peers", 1e6, "us/step"),
    "session": _session,
    "suite": _suite,
    "tpu": tpu_compiled.section,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder with result files")
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/REPORT.md"))
    args = parser.parse_args()
    files = {path.name: results.read(path) for path in sorted(args.results.glob("*.json"))}
    if not files:
        raise SystemExit(f"no result files (*.json) in {args.results}; run `make bench` first")
    rows = [row for data in files.values() for row in data.get("rows", [])]
    ratios = [entry for data in files.values() for entry in data.get("ratios", [])]
    ceilings = next((d["ceilings"] for d in files.values() if d.get("ceilings")), {})
    drawn = plots.draw_all(rows, ratios, ceilings, args.out.parent / "plots")
    relative = [os.path.relpath(path, args.out.parent) for path in drawn]
    args.out.write_text(page(files, relative))
    print(f"written to {args.out}, with {len(drawn)} plots")


if __name__ == "__main__":
    main()

"""One page from the result files: `python -m benchmarks.report benchmarks/results -o REPORT.md`."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    addition,
    classifier_sections,
    compare_adaptive,
    compare_gans,
    control,
    fra_eng,
    gan_quality,
    hosts,
    plots,
    results,
    sections,
    seeds,
    self_bleu,
    seq2seq_sections,
    serve_load,
    steering,
    tpu_compiled,
    translator,
    tune_trials,
)
from benchmarks.timing import Spread
from jaxgen.errors import UserError

Files = dict[str, dict[str, Any]]
Rows = list[dict[str, Any]]
INTRODUCTION = """\
Times are medians; in brackets stand the quartiles. Compilation is not in them. Beside a peer, both
start from the same parameters and batches and show the same first loss (or the same greedy
tokens), then run in turn, each in a process of its own; the ratio is taken round by round.
*Of matmul* is the share of the machine's measured matrix-product rate; *of ceiling* the share of
the speed at which the step's products are made, or its bytes read, at the measured rates,
whichever takes longer. FLOPs and bytes are closed forms. *Folded* means that the first layer's
input projection is a table of V rows, which the peers' modules do not do; *not folded* does the
peers' arithmetic."""


def page(files: Files, plot_paths: list[str]) -> str:
    """The Markdown of the report.

    Args:
        files: result files by name.
        plot_paths: plots, relative to the page.

    Raises:
        UserError: a file is of a kind unknown here, or lacks what its kind has.
    """
    parts = ["# Benchmarks", INTRODUCTION, _machines(files)]
    known = {*SECTIONS, "whole_training"}
    for name, data in files.items():
        if data["kind"] not in known:
            raise UserError(
                f"{name} is of the kind {data['kind']!r}, which this report does not know; it "
                f"knows {', '.join(sorted(known))}"
            )
    for kind, section in SECTIONS.items():
        for name, data in files.items():
            if data["kind"] == kind:
                shown = _plots(kind, data["machine"].get("platform"), plot_paths)
                parts += [_checked(name, section, data), *shown]
    trainings = {name: data for name, data in files.items() if data["kind"] == "whole_training"}
    if trainings:
        names = ", ".join(trainings)
        parts.append(_checked(names, sections.whole_trainings, list(trainings.values())))
    if not any(data["machine"].get("platform") == "gpu" for data in files.values()):
        parts.append(sections.GPU_MISSING)
    return "\n\n".join(part for part in parts if part) + "\n"


def _checked(name: str, section: Callable[[Any], str], data: Any) -> str:
    try:
        return section(data)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{name} is incomplete ({type(error).__name__}: {error}); measure it again, or move "
            "it away"
        ) from error


def _plots(kind: str, platform: str | None, paths: list[str]) -> list[str]:
    """The plots that belong to a file of a kind, as Markdown."""
    wanted = {"suite": [t for t in plots.TITLES if not t.startswith("peers")]}
    names = wanted.get(kind, [f"peers_{kind}"])
    prefix = "" if platform == "cpu" else f"{platform}_"
    chosen = [path for path in paths if Path(path).stem in {prefix + name for name in names}]
    return [f"![{plots.TITLES[Path(path).stem.removeprefix(prefix)]}]({path})" for path in chosen]


def _machines(files: Files) -> str:
    """A table of what was measured where, and one of the ceilings measured with it."""
    rows, limits, versions = [], [], {}
    for name, data in files.items():
        machine = data["machine"]
        flags = " ".join(f"{k}={v}" for k, v in machine.get("flags", {}).items()) or "none"
        device = f"{machine.get('device', '?')} ({machine.get('platform', '?')})"
        facts = [machine.get(key, "?") for key in ("cores", "load_average", "date", "git")]
        rows.append([f"`{name}`", device, *facts, flags])
        numbers = {"Python": machine.get("python", "?"), **machine.get("versions", {})}
        said = ", ".join(f"{k} {v}" for k, v in numbers.items())
        versions.setdefault(said, []).append(f"`{name}`")
        if data.get("ceilings"):
            limits.append([f"`{name}`", *_ceilings(data["ceilings"])])
    headers = ["file", "device", "cores", "load", "UTC", "revision", "flags"]
    parts = ["## What was measured where", results.table(headers, rows)]
    parts += [f"{said}: {', '.join(names)}." for said, names in versions.items()]
    headers = ["measured ceilings", "matmul float32", "matmul bfloat16"]
    headers += [f"{kind} {size}" for kind in ("read", "copy") for size in ("1 MiB", "8 MiB", "RAM")]
    parts += [results.table(headers, limits), "Ceilings in TFLOP/s and GB/s."] if limits else []
    return "\n\n".join(parts)


def _ceilings(ceilings: dict[str, Any]) -> list[str]:
    products = [f"{ceilings['matmul'][dtype] / 1e12:.3g}" for dtype in ("float32", "bfloat16")]
    levels = ("cache_small", "cache_large", "memory")
    return products + [f"{ceilings[k][v] / 1e9:.0f}" for k in ("read", "copy") for v in levels]


def _comparison(title: str, unit: float, unit_name: str) -> Any:
    """A section with one table a case: contestants, then how many times faster jaxgen is."""

    def section(data: dict[str, Any]) -> str:
        parts = [f"## {title}", *([data["remark"]] if "remark" in data else [])]
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
    # What is passed was no ceiling: a GPU reads weights from caches that were not measured.
    holds = all(row.get("share_of_floor", 2) <= 1 for row in rows)
    share, limit = ("share_of_floor", "of ceiling") if holds else ("share_of_matmul", "of matmul")
    lines = [
        [
            row["contestant"],
            f"{row['seconds']['median'] * unit:.3g}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['flops_per_second'] / 1e9:.3g}",
            f"{row[share]:.1%}",
            _seconds(row.get("compile_seconds")),
            _mebibytes(row.get("peak_bytes")),
            *[times.get((row["contestant"], our), "") for our in ours],
        ]
        for row in sorted(rows, key=lambda row: row["seconds"]["median"])
    ]
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
            name = row["case"].partition("[")[2].rstrip("]")
            name = name or row["case"].removeprefix("test_").replace("_", " ")
            seconds = {k: v * 1e3 for k, v in row["seconds"].items() if k != "count"}
            rate = f"{row['tokens_per_second']:,.0f}"
            unit = row.get("unit", "tokens")
            flops = row["flops_per_second"]
            lines.append(
                [
                    name,
                    str(Spread(**seconds, count=1)),
                    rate if unit == "tokens" else f"{rate} {unit}",
                    f"{flops / 1e9:.3g}" if flops else "",
                    f"{row['share_of_floor']:.1%}",
                    _seconds(row.get("compile_seconds")),
                    _mebibytes(row.get("peak_bytes")),
                ]
            )
        headers = ["", "ms/step", "tokens/s", "GFLOP/s", "of ceiling", "compile s", "peak MiB"]
        parts += [f"### {suite.capitalize()}", results.table(headers, lines)]
    parts.append(
        "Peak memory: of a compiled program its arguments, results and temporaries by XLA's "
        "accounting; of host code what it holds beyond its inputs."
    )
    return "\n\n".join(parts)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _mebibytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.{0 if value >= 2**23 else 1}f}"


SECTIONS: dict[str, Callable[[Any], str]] = {
    "training": _comparison("Training beside the peers", 1e3, "ms/step"),
    "sampling": _comparison("Sampling beside the peers", 1e6, "us/step"),
    "recurrence": _comparison("The recurrence alone", 1e3, "ms"),
    "classifiers": classifier_sections.classifiers,
    "trainings": classifier_sections.trainings,
    "seq2seq": seq2seq_sections.section,
    "keras_reference": classifier_sections.keras_reference,
    "translator": translator.section,
    "addition": addition.section,
    "fra_eng": fra_eng.section,
    "control": control.section,
    "steering": steering.section,
    "gans": compare_gans.section,
    "gan_quality": gan_quality.section,
    "self_bleu": self_bleu.section,
    "adaptive": compare_adaptive.section,
    "seeds": seeds.section,
    "hosts": hosts.section,
    "serve": serve_load.section,
    "keras_recipe": sections.recipe,
    "session": sections.session,
    "import_time": sections.import_time,
    "bounded_memory": sections.bounded_memory,
    "suite": _suite,
    "tpu": tpu_compiled.section,
    "tune_trials": tune_trials.section,
}


def read_all(source: Path) -> Files:
    """The result files of a folder, or one of them, by name.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    if not source.exists():
        raise UserError(f"there is no folder {source}; run `make bench` first")
    paths = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not paths:
        raise UserError(f"no result files (*.json) in {source}; run `make bench` first")
    return {path.name: results.read(path) for path in paths}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path("benchmarks/results")
    parser.add_argument("results", type=Path, nargs="?", default=default, help="folder or file")
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/REPORT.md"))
    args = parser.parse_args()
    try:
        files = read_all(args.results)
        page(files, [])  # what cannot be shown is said before anything is drawn
        args.out.parent.mkdir(parents=True, exist_ok=True)
        drawn = plots.draw_all(files, args.out.parent / "plots")
        relative = [os.path.relpath(path, args.out.parent) for path in drawn]
        args.out.write_text(page(files, relative))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {args.out}, with {len(drawn)} plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The report's plots, from the rows of the result files."""

from collections import defaultdict
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#d9822b", "#3f8f5b", "#b8433f", "#8a8f98"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)
Rows = list[dict[str, Any]]


def draw_all(rows: Rows, ratios: Rows, ceilings: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the rows allow; nothing where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 4.0),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "font.size": 10,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    train = [row for row in rows if row.get("suite") == "train step"]
    samples = [row for row in rows if row.get("suite") == "sampler"]
    jobs: list[tuple[str, Any, tuple]] = [
        ("training_over_batch", scaling, (train, "B", "Train step: throughput over batch")),
        (
            "training_over_time",
            scaling,
            (train, "T", "Train step: throughput over sequence length"),
        ),
        ("training_over_hidden", scaling, (train, "H", "Train step: throughput over hidden size")),
        ("sampling_over_batch", scaling, (samples, "B", "Sampler: throughput over batch")),
        ("roofline", roofline, (train + samples, ceilings)),
        ("peers_training", peers, (ratios, "training", "Training: jaxgen over peer")),
        ("peers_sampling", peers, (ratios, "sampling", "Sampling: jaxgen over peer")),
    ]
    for name, draw, arguments in jobs:
        figure, axes = plt.subplots()
        if draw(axes, *arguments):
            path = folder / f"{name}.png"
            figure.savefig(path)
            drawn.append(path)
        plt.close(figure)
    return drawn


def scaling(axes: Any, rows: Rows, axis: str, title: str) -> bool:
    """Tokens per second over one axis, a line for each setting of the others with two points."""
    from matplotlib.ticker import LogLocator

    lines: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        shape = dict(row["shape"])
        x = shape.pop(axis)
        kept = ("B", "T", "H", "L", "V", "E", "dtype")
        # A sampler's T is only the length of the call.
        ignored = {"T"} if row["suite"] == "sampler" else set()
        rest = tuple((k, shape[k]) for k in kept if k in shape and k not in ignored)
        lines[rest].append((x, row["tokens_per_second"]))
    lines = {rest: sorted(points) for rest, points in lines.items() if len(points) > 1}
    for colour, (rest, points) in zip(COLOURS, sorted(lines.items(), key=str), strict=False):
        label = " ".join(f"{k}={v}" if k != "dtype" else str(v) for k, v in rest if v)
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
    axes.set(
        xscale="log", yscale="log", title=title, xlabel=NAMES[axis], ylabel="tokens per second"
    )
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    if lines:
        axes.legend(fontsize=8, frameon=False)
    return bool(lines)


NAMES = {"B": "batch B", "T": "sequence length T", "H": "hidden size H"}


def roofline(axes: Any, rows: Rows, ceilings: dict[str, Any]) -> bool:
    """Achieved FLOP/s over FLOPs a byte, under the measured ceilings."""
    rows = [row for row in rows if "intensity" in row]
    if not rows or not ceilings:
        return False
    import numpy as np

    x = np.geomspace(0.3, max(300, 2 * max(row["intensity"] for row in rows)), 200)
    top = ceilings["matmul"]["float32"]
    levels = (("cache_small", "-", "1 MiB"), ("memory", "--", "memory"))
    for level, style, name in levels:
        bound = np.minimum(top, x * ceilings["read"][level])
        label = f"bound, read from {name} ({ceilings['read'][level] / 1e9:.0f} GB/s)"
        axes.plot(x, bound / 1e9, style, color=GREY, label=label)
    for suite, colour in (("train step", BLUE), ("sampler", ORANGE)):
        points = [row for row in rows if row["suite"] == suite]
        if points:
            flops = [row["flops_per_second"] / 1e9 for row in points]
            axes.plot([row["intensity"] for row in points], flops, "o", color=colour, label=suite)
    axes.set(xscale="log", yscale="log", title=f"Roofline: matmul ceiling {top / 1e9:.0f} GFLOP/s")
    axes.set(xlabel="FLOPs a byte (closed form)", ylabel="achieved GFLOP/s")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return True


def peers(axes: Any, ratios: Rows, suite: str, title: str) -> bool:
    """Bars of how many times faster jaxgen is, with quartiles; 1 is parity."""
    chosen = [r for r in ratios if r["suite"] == suite]
    if not chosen:
        return False
    labels = [f"{r['case']}\n{r['faster']} / {r['slower']}" for r in chosen]
    medians = [r["times"]["median"] for r in chosen]
    low = [r["times"]["median"] - r["times"]["lower"] for r in chosen]
    high = [r["times"]["upper"] - r["times"]["median"] for r in chosen]
    axes.figure.set_size_inches(7.2, 0.42 * len(chosen) + 1.2)
    places = range(len(chosen))
    colours = [ORANGE if "not folded" in r["faster"] else BLUE for r in chosen]
    axes.barh(places, medians, xerr=[low, high], color=colours, height=0.6, ecolor="#333333")
    for place, median, extent in zip(places, medians, high, strict=True):
        axes.text((median + extent) * 1.03, place, f"{median:.3g}", va="center", fontsize=8)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_yticks(places, labels, fontsize=6.5)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="times faster (log scale)", xscale="log")
    axes.set_xlim(min(0.5, *medians), max(medians) * 2)
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100, 1000, 10_000) if t <= max(medians) * 2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    return True

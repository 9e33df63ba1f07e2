"""The report's plots, from the rows of the result files."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, told apart by the colour-blind too; each line also has its own marker.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8f98"
STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"))
AXES = {"B": "batch B", "T": "sequence length T", "H": "hidden size H"}
Rows = list[dict[str, Any]]
TITLES = {
    "peers_training": "Training: jaxgen beside its peers",
    "peers_sampling": "Sampling: jaxgen beside its peers",
    "peers_recurrence": "The recurrence alone: jaxgen beside PyTorch's cuDNN",
    "training_over_batch": "Train step: throughput over batch",
    "training_over_time": "Train step: throughput over sequence length",
    "training_over_hidden": "Train step: throughput over hidden size",
    "sampling_over_batch": "Sampler: throughput over batch",
    "roofline": "Roofline",
}


def draw_all(files: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what the files allow, each kind of device by itself; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    drawn = []
    measured = [data for data in files.values() if data.get("rows")]
    for platform in sorted({data["machine"]["platform"] for data in measured}):
        chosen = [data for data in measured if data["machine"]["platform"] == platform]
        prefix = "" if platform == "cpu" else f"{platform}_"
        drawn += _draw(chosen, folder, prefix)
    return drawn


def _draw(files: list[dict[str, Any]], folder: Path, prefix: str) -> list[Path]:
    rows = [row for data in files for row in data["rows"]]
    ratios = [entry for data in files for entry in data.get("ratios", [])]
    machine = files[0]["machine"]
    device = f"{machine['device'].removesuffix(' Processor')}, {machine['platform']}"
    device += f", {machine['cores']} cores" if machine["platform"] == "cpu" else ""
    suite = [row for row in rows if row["suite"] in ("train step", "sampler", "metrics")]
    train = [row for row in suite if row["suite"] == "train step"]
    samples = [row for row in suite if row["suite"] == "sampler"]
    newest = next((d["ceilings"] for d in reversed(files) if d["kind"] == "suite"), {})
    jobs: dict[str, Callable[[], Any]] = {
        "training_over_batch": lambda: scaling(train, "B"),
        "training_over_time": lambda: scaling(train, "T"),
        "training_over_hidden": lambda: scaling(train, "H"),
        "sampling_over_batch": lambda: scaling(samples, "B"),
        "roofline": lambda: roofline(suite, newest),
        "peers_training": lambda: peers(rows, ratios, "training", 1),
        "peers_sampling": lambda: peers(rows, ratios, "sampling", 2),
        "peers_recurrence": lambda: peers(rows, ratios, "recurrence", 1),
    }
    import matplotlib.pyplot as plt

    style = {
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "font.size": 10,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(style):
        for name, job in jobs.items():
            figure = job()
            if figure is not None:
                figure.suptitle(f"{TITLES[name]}\n{device}", fontsize=11)
                drawn.append(folder / f"{prefix}{name}.png")
                figure.savefig(drawn[-1], dpi=130)
                plt.close(figure)
    return drawn


def _rate(value: float, _: Any = None) -> str:
    """1234567 as 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def scaling(rows: Rows, axis: str) -> Any:
    """Tokens per second over one axis: a line for each setting that has three points, or two."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    lines: dict[tuple, Rows] = defaultdict(list)
    for row in rows:
        # A sampler's T is only the length of the call.
        ignored = {axis} | ({"T"} if row["suite"] == "sampler" else set())
        kept = ("B", "T", "H", "L", "V", "E", "dtype", "backend", "devices")
        lines[tuple((k, row["shape"].get(k)) for k in kept if k not in ignored)].append(row)
    longest = sorted(lines.items(), key=lambda item: -len(item[1]))
    longest = [(rest, found) for rest, found in longest if len(found) > 1][: len(STYLES)]
    if not longest:
        return None
    shared = set.intersection(*(set(rest) for rest, _ in longest))
    figure, axes = plt.subplots(figsize=(6.6, 3.9))
    for (colour, marker), (rest, found) in zip(STYLES, longest, strict=False):
        found.sort(key=lambda row: row["shape"][axis])
        y = [row["tokens_per_second"] for row in found]
        seconds = [row["seconds"] for row in found]
        low = [r * max(0.0, 1 - s["median"] / s["upper"]) for r, s in zip(y, seconds, strict=True)]
        high = [r * max(0.0, s["median"] / s["lower"] - 1) for r, s in zip(y, seconds, strict=True)]
        x = [row["shape"][axis] for row in found]
        label = _words([item for item in rest if item not in shared]) or "jaxgen"
        axes.errorbar(x, y, (low, high), color=colour, marker=marker, label=label, capsize=3)
    ticks = sorted({row["shape"][axis] for _, found in longest for row in found})
    about = _words(sorted(shared, key=str))
    axes.set(xscale="log", xlabel=f"{AXES[axis]}   ({about})", ylabel="tokens per second")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    rates = [row["tokens_per_second"] for _, found in longest for row in found]
    if max(rates) > 8 * min(rates):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.15 * max(rates))
    axes.yaxis.set_major_formatter(_rate)
    axes.tick_params(which="minor", length=0)
    if len(longest) > 1:
        axes.legend()
    return figure


def _words(items: list[tuple[str, Any]]) -> str:
    usual = {("L", 1), ("backend", "auto")}
    words = {"dtype": "{}", "backend": "{}", "devices": "{} device(s)"}
    shown = [words.get(k, k + "={}").format(v) for k, v in items if v and (k, v) not in usual]
    return " ".join(shown).replace("1 device(s)", "1 device").replace("device(s)", "devices")


def roofline(rows: Rows, ceilings: dict[str, Any]) -> Any:
    """Achieved FLOP/s over FLOPs a byte, under the measured ceilings."""
    rows = [row for row in rows if row.get("flops_per_second")]
    if not rows or not ceilings:
        return None
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(6.6, 4.3))
    x = np.geomspace(0.3, max(100, 2 * max(row["intensity"] for row in rows)), 300)
    top = ceilings["matmul"]["float32"]
    speeds = ceilings["read"]
    levels = (("cache_small", "-", "from 1 MiB"), ("memory", "--", "from memory"))
    for level, line, name in levels:
        bound = np.minimum(top, x * speeds[level])
        label = f"ceiling, read {name} at {speeds[level] / 1e9:.0f} GB/s"
        axes.plot(x, bound / 1e9, line, color=GREY, label=label)
    axes.annotate(
        f"matmul {top / 1e9:.0f} GFLOP/s", (x[-1], top / 1e9), (0, 4), ha="right",
        textcoords="offset points", fontsize=9, color="#555555",
    )  # fmt: skip
    parts = {
        "train step": [r for r in rows if r["suite"] == "train step" and _devices(r) == 1],
        "train step, 2 devices": [r for r in rows if _devices(r) > 1],
        "sampler": [r for r in rows if r["suite"] == "sampler"],
        "evaluation": [r for r in rows if r["suite"] == "metrics"],
    }
    for (colour, marker), (name, found) in zip(STYLES, parts.items(), strict=True):
        flops = [row["flops_per_second"] / 1e9 for row in found]
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", "alpha": 0.85}
        if found:
            axes.plot([row["intensity"] for row in found], flops, label=name, **style)
    axes.set(xscale="log", yscale="log", ylabel="achieved GFLOP/s")
    axes.set(xlabel="FLOPs a byte that must move (closed forms)")
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_major_formatter(lambda value, _: f"{value:g}")
        scale.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    axes.legend(loc="lower right")
    return figure


def _devices(row: dict[str, Any]) -> int:
    return row["shape"].get("devices", 1)


def peers(rows: Rows, ratios: Rows, suite: str, columns: int) -> Any:
    """A panel a case and a bar a contestant: tokens per second, and jaxgen over each peer."""
    ratios = [entry for entry in ratios if entry["suite"] == suite]
    cases = list(dict.fromkeys(entry["case"] for entry in ratios))
    if not cases:
        return None
    import matplotlib.pyplot as plt

    panels = {
        case: [r for r in rows if r["suite"] == suite and r["case"] == case and r["final"]]
        for case in cases
    }
    most = max(map(len, panels.values()))
    lines = -(-len(cases) // columns)
    size = (5.2 * columns + (2.2 if columns == 1 else 0), lines * (0.29 * most + 0.55) + 0.9)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axes, case in zip(grid.flat, cases, strict=False):
        _panel(axes, case, panels[case], [e for e in ratios if e["case"] == case])
    for axes in list(grid.flat)[len(cases) :]:
        axes.remove()
    note = "Median and quartiles. Beside a peer: jaxgen's best (blue) over it, round by round."
    figure.supxlabel(note, fontsize=9)
    return figure


def _panel(axes: Any, case: str, rows: Rows, ratios: Rows) -> None:
    rows = sorted(rows, key=lambda row: row["seconds"]["median"])
    ours, theirs = ({entry[side] for entry in ratios} for side in ("faster", "slower"))
    best = next(row["contestant"] for row in rows if row["contestant"] in ours)
    times = {e["slower"]: e["times"] for e in ratios if e["faster"] == best}
    unit = rows[0]["tokens_per_second"] * rows[0]["seconds"]["median"]
    for place, row in enumerate(rows):
        name, seconds, rate = row["contestant"], row["seconds"], row["tokens_per_second"]
        ends = (rate - unit / seconds["upper"], unit / seconds["lower"] - rate)
        spread = [[max(0.0, end)] for end in ends]  # one run has none, give or take a rounding
        own = BLUE if name in ours and "not folded" not in name else GREEN
        colour = ORANGE if name in theirs else own
        axes.barh(place, rate, xerr=spread, color=colour, height=0.68, ecolor="#333333", capsize=2)
        text = _rate(rate)
        if name in times:
            text += f"   {_times(times[name]['median'])}x"
        axes.text(unit / seconds["lower"], place, f"  {text}", va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), [row["contestant"] for row in rows], fontsize=8.5)
    axes.set_xlim(0, 1.28 * unit / rows[0]["seconds"]["lower"])
    axes.set_title(f"{case}, tokens per second", fontsize=9.5, loc="left")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(_rate)
    axes.xaxis.set_major_locator(_few())
    axes.tick_params(axis="x", labelsize=8.5)
    axes.invert_yaxis()


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _times(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

"""The report's sections on single records: recipe, session, start-up, memory, whole trainings."""

from typing import Any

from benchmarks import results
from benchmarks.timing import Spread


def recipe(data: dict[str, Any]) -> str:
    """Keras's three epochs beside the whole of `jaxgen train`."""
    s = data["summary"]
    rows = [
        ["Keras, three epochs of fit", f"{s['keras_seconds']:.1f}", f"{s['keras_nll']:.4f}", ""],
        [
            "jaxgen.train, the whole call (compilation included)",
            f"{s['jaxgen_seconds']:.1f}",
            f"{s['jaxgen_nll']:.4f}",
            f"{s['times_faster']:.1f}",
        ],
        [
            "jaxgen train, the whole command (imports too)",
            f"{s['jaxgen_command_seconds']:.1f}",
            f"{s['jaxgen_nll']:.4f}",
            f"{s['times_faster_command']:.1f}",
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


def session(data: dict[str, Any]) -> str:
    """First token and programs, on an empty and on a filled compilation cache."""
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


def import_time(data: dict[str, Any]) -> str:
    """Seconds of fresh processes."""
    rows = []
    for name, seconds in data["seconds"].items():
        added = data["added"].get(name)
        rows.append([f"`{name}`", str(Spread(**seconds)), str(Spread(**added)) if added else ""])
    headers = ["", "s", "more than `import jax`, s"]
    title = f"## Start-up, {data['rounds']} fresh processes each, in turn"
    return f"{title}\n\n" + results.table(headers, rows)


def bounded_memory(data: dict[str, Any]) -> str:
    """What a text larger than memory takes, phase by phase."""
    rows = [
        [row["phase"], f"{row['seconds']:,.1f}", f"{row['peak_megabytes']:,.0f}"]
        for row in data["phases"]
    ]
    title = f"## A text of {data['text_bytes'] / 1e9:.2g} GB, {data['tokenizer']} tokens"
    return f"{title}\n\n" + results.table(["phase", "s", "peak resident MB so far"], rows)


def whole_trainings(files: list[dict[str, Any]]) -> str:
    """The report's section on all such records."""
    lines = []
    for data in files:
        for index, figures in enumerate(data["evaluations"]):
            first = [data["name"], f"{data['minutes']:g}", f"{data['steps']:,}"]
            first += [f"{data['epochs']:.2f}"]
            bits = f"{figures['bpc']:.4f}" if "bpc" in figures else ""
            line = [*(["", "", "", ""] if index else first), figures["split"], figures["protocol"]]
            line += [figures["checkpoint"], f"{figures['nll']:.4f}"]
            lines.append([*line, f"{figures['perplexity']:.2f}", bits])
    headers = ["", "minutes", "steps", "epochs", "text", "protocol", "checkpoint"]
    headers += ["nll", "perplexity", "bpc"]
    commands = [f"- {data['name']}: `{data['command']}`" for data in files]
    title = "## Figures of whole trainings"
    return "\n\n".join([title, results.table(headers, lines), "\n".join(commands)])


GPU_MISSING = """\
## On a GPU: not yet measured

`make bench-gpu` is the one command."""

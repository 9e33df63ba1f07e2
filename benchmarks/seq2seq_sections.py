"""The report's section on encoder-decoders beside the peers: epochs, and texts decoded."""

from collections.abc import Mapping
from typing import Any

from benchmarks.comparison_tables import FASTER_TORCH, Rows, contestants_table, targets_table

TRAINING = "seq2seq training"
"""The suite of rows whose unit is an epoch; of the next two it is a call."""
GREEDY = "seq2seq greedy"
BEAM = "seq2seq beam"
TEXTS = "translator.translate"
"""The contestant that is given strings; the targets are those of the one that is given tokens."""
EPOCH_TARGETS = {"torch packed": 1.5, FASTER_TORCH: 1.1, "keras": 3.0}
"""How many times faster an epoch is meant to be, by the group beside it."""
CALL_TARGETS = {("characters", 1): 10.0, ("pieces", 1): 3.0}
"""The same of a call beside PyTorch's loop, by the case's title and the batch; else:"""
BATCH_TARGET = 3.0


def section(data: dict[str, Any]) -> str:
    """Epochs and decoding beside the peers."""
    parts = [
        "## Encoder-decoders beside the peers",
        *([data["remark"]] if "remark" in data else []),
    ]
    for key in dict.fromkeys(map(_key, data["rows"])):
        chosen = [[x for x in data[kind] if _key(x) == key] for kind in ("rows", "ratios")]
        parts.append(case_section(*chosen))
    parts.append(
        "One layer a side, without dropout and input feeding. Lengths of *characters* are drawn "
        "like those of the first 30,000 pairs of fra-eng, of *pieces* like Multi30k's in 8,000 "
        "pieces; examples and tokens count no padding. Each contestant trains the same pairs in "
        "the same batches; jaxgen shuffles, pads and moves its batches within the time, the peers' "
        "are ready. *Torch packed* packs its sources and scores the real tokens alone; *torch "
        "padded* reads the padding, told by one more input to keep its memory there.\n\n"
        "Where texts are decoded the parameters are random and the end is made impossible, so that "
        "all decode as many tokens; all look after each token whether texts have ended, and show "
        "the same tokens before they are timed. *translator.translate* is given strings, on a "
        "vocabulary of its own; the others are given tokens. Keras has no beam search. "
        "The bound is the time in which the weights that a step needs are read at the measured "
        "rate, once a token, and the sources are read."
    )
    return "\n\n".join(parts)


def _key(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["suite"], entry["case"]


def case_section(rows: Rows, ratios: Rows) -> str:
    """One case: its contestants, and what was aimed at."""
    shape, suite = rows[0]["shape"], rows[0]["suite"]
    titles = {TRAINING: "Epochs", GREEDY: "Greedy decoding"}
    what = titles.get(suite, f"Beam search of width {shape['beams']}")
    unit, scale = ("s/epoch", 1.0) if suite == TRAINING else ("ms/call", 1e3)
    title = f"### {what}, {rows[0]['case']}"
    per = "pairs" if suite == TRAINING else "sentences"
    parts = [title, contestants_table(rows, ratios, unit, scale, per)]
    if suite == TRAINING:
        parts.append(
            f"{shape['examples']:,} pairs, {shape['tokens']:,} tokens of both sides, "
            f"{shape['padded']:,} steps with the padding, {shape['batches']} batches."
        )
        targets = EPOCH_TARGETS
    else:
        parts.append(f"{shape['new_tokens']} tokens a text. {_bound(rows)}")
        targets = {"torch": CALL_TARGETS.get((shape["title"], shape["B"]), BATCH_TARGET)}
    own = [entry for entry in ratios if entry["faster"] != TEXTS]
    if own:
        parts.append(targets_table(rows, own, targets))
    return "\n\n".join(part for part in parts if part)


def _bound(rows: Rows) -> str:
    """What the machine allows a call to be, and how many times the peers' time that is."""
    floor = rows[0]["floor_seconds"] / rows[0]["shape"]["calls"]
    times = [
        f"{row['contestant']} takes {row['seconds']['median'] / floor:.3g} times it"
        for row in rows
        if row["final"]
    ]
    weights = f"A step needs {rows[0]['step_bytes'] / 1e6:.1f} MB of weights"
    return "; ".join([f"{weights}; the bound of a call is {floor * 1e3:.3g} ms", *times]) + "."

"""Encoder-decoders beside the peers: `python -m benchmarks.compare_seq2seq`.

Training: every contestant trains from the same parameters on the same pairs in the same batches,
and must show the same first loss before it is timed. jaxgen cuts, pads and moves its batches while
it trains; the peers have theirs ready in memory. PyTorch packs its sources and scores the real
tokens alone, or reads padded batches; Keras masks. No dropout, no input feeding.

Decoding: every contestant gets the same sources and parameters, and must show the same tokens. The
parameters are random and such that no text ends: all decode as many tokens, and all look at each
token whether texts have ended.
"""

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import costs, machine, results, seq2seq_costs, seq2seq_sections
from benchmarks.comparison import compared
from benchmarks.contestants import (
    Contestant,
    agreeing,
    each_case,
    installed,
    start_all,
    stop_all,
)
from benchmarks.jaxgen_seq2seq import planned
from benchmarks.seq2seq_cases import Seq2SeqCase
from benchmarks.seq2seq_sections import BEAM, GREEDY, TEXTS, TRAINING

CHARACTERS = Seq2SeqCase(
    "characters",
    H=256,
    E=64,
    V=80,
    bidirectional=False,
    attention="none",
    pairs=920,
    log_lengths=((2.81, 0.19), (3.05, 0.28)),
    correlation=0.51,
    longest=(24, 65),
    new_tokens=23,
)
"""Lengths of the first 30,000 pairs of fra-eng, in characters."""
PIECES = Seq2SeqCase(
    "pieces",
    H=256,
    E=256,
    V=8000,
    bidirectional=True,
    attention="general",
    pairs=830,
    log_lengths=((2.60, 0.35), (2.59, 0.31)),
    correlation=0.86,
    longest=(51, 47),
    new_tokens=15,
)
"""Lengths of Multi30k's training pairs, German to English, in pieces of a shared vocabulary."""
CASES = {case.title: case for case in (CHARACTERS, PIECES)}
TINY = {"H": 5, "E": 3, "V": 50, "pairs": 24, "batch_tokens": 60, "buckets": 2, "new_tokens": 4}
TINY |= {"log_lengths": ((1.5, 0.4), (1.6, 0.4)), "longest": (8, 9), "calls": 2}
WIDTHS = {GREEDY: 1, BEAM: 5}
LOSSES = 5
OURS = "benchmarks.jaxgen_seq2seq:"
TORCH = "benchmarks.peers.torch_"
KERAS = "benchmarks.peers.keras_seq2seq:"


class Comparison(NamedTuple):
    """A case, to be trained or to decode with."""

    suite: str
    case: Seq2SeqCase

    @property
    def name(self) -> str:
        return f"{self.suite}, {self.case.name}"


def training_contestants(args: argparse.Namespace) -> list[Contestant]:
    """Everyone that is installed; jaxgen first, the reference."""
    entries = []
    for count in args.devices:
        name = f"jaxgen {count} device{'s' if count > 1 else ''}"
        entries.append(Contestant(name, "jaxgen", OURS + "JaxgenTraining", {"devices": count}))
    if installed("torch"):
        # oneDNN takes no packed sequences.
        kinds = [("packed", True), ("padded", True), ("padded", False)]
        for kind, mkldnn in kinds:
            for count in args.threads:
                name = f"torch {kind} {count}t{'' if mkldnn else ' aten'}"
                options = {"packed": kind == "packed", "threads": count, "mkldnn": mkldnn}
                target = TORCH + "seq2seq:TorchTraining"
                entries.append(Contestant(name, f"torch {kind}", target, options))
    return entries + _keras("KerasTraining", args)


def decoding_contestants(suite: str, args: argparse.Namespace) -> list[Contestant]:
    """Everyone that is installed and can; jaxgen first, the reference."""
    entries = [
        Contestant("jaxgen", "jaxgen", OURS + "JaxgenDecoding"),
        Contestant(TEXTS, "text", OURS + "JaxgenTexts", tolerance=math.inf),
    ]
    if installed("torch"):
        target = TORCH + "translator:TorchDecoding"
        entries += [
            Contestant(f"torch {count}t", "torch", target, {"threads": count})
            for count in args.threads
        ]
    return entries + (_keras("KerasDecoding", args) if suite == GREEDY else [])


def _keras(kind: str, args: argparse.Namespace) -> list[Contestant]:
    """Keras, with XLA and without, where it is installed."""
    if not args.keras_python and not (installed("keras") and installed("tensorflow")):
        return []
    return [
        Contestant(name, "keras", KERAS + kind, {"jit_compile": jit}, args.keras_python)
        for name, jit in (("keras", False), ("keras jit", True))
    ]


def compare(
    case: Seq2SeqCase, suite: str, ceilings: dict[str, Any], args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and ratios of one case.

    Args:
        case: with its plan where it is to be trained.
        suite: `TRAINING` (a unit is an epoch), `GREEDY` or `BEAM` (a unit is a call on B texts).
        ceilings: `machine.ceilings()`.
        args: of the command.
    """
    training = suite == TRAINING
    entries = training_contestants(args) if training else decoding_contestants(suite, args)
    running = start_all(entries, case.as_dict(), args.deadline)
    cost = seq2seq_costs.epoch(case) if training else seq2seq_costs.decoding(case)
    units = 1 if training else case.calls
    examples = case.examples if training else case.calls * case.B
    tokens = case.tokens if training else examples * case.new_tokens

    def figures(seconds: float) -> dict[str, float]:
        own = costs.figures(cost, tokens, seconds * units, ceilings)
        return {"examples_per_second": examples / units / seconds, **own}

    def facts(contestant: Contestant) -> dict[str, Any]:
        steps = min(LOSSES, len(case.plan))
        return {"losses": contestant.call("losses", steps=steps)} if training else {}

    try:
        if training:
            running = agreeing(running, "losses", mean=True, steps=1)
        else:
            running = agreeing(running, "tokens", steps=case.calls)
        head = {"suite": suite, "case": case.name, "shape": case.shape}
        if not training:
            head["step_bytes"] = seq2seq_costs.step_bytes(case)
        ours = ("jaxgen", "text")
        return compared(running, args, ours=ours, head=head, figures=figures, facts=facts)
    finally:
        stop_all(running)


def comparisons(args: argparse.Namespace) -> list[Comparison]:
    """What is to be compared, in this order."""
    cases = [CASES[name] for name in args.cases]
    batches = (1, 64)
    if args.dry_run:
        cases, batches = [dataclasses.replace(case, **TINY) for case in cases], (1, 3)
    if args.quick:
        cases = [dataclasses.replace(case, pairs=case.pairs // 3) for case in cases]
    items = [Comparison(TRAINING, case) for case in cases]
    for suite, beams in WIDTHS.items():
        for batch in batches:
            items += [
                Comparison(suite, dataclasses.replace(case, B=batch, beams=beams)) for case in cases
            ]
    return [item for item in items if args.only in (None, KIND[item.suite])]


KIND = {TRAINING: "training", GREEDY: "decoding", BEAM: "decoding"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/seq2seq.json"))
    parser.add_argument("--keras-python", help="interpreter that has keras and tensorflow")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="least length of one run")
    parser.add_argument("--minutes", type=float, default=30.0, help="cases not begun are left out")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", choices=("training", "decoding"), help="half of it")
    parser.add_argument("--quick", action="store_true", help="3 short rounds of small epochs")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes")
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    if args.quick:
        args.rounds, args.seconds = 3, 0.1
    if args.dry_run:
        args.rounds, args.seconds = 1, 1e-4
    ceilings = machine.ceilings(quick=args.quick or args.dry_run)

    def one(item: Comparison) -> tuple[list, list]:
        suite, case = item
        case = planned(case) if suite == TRAINING else case
        rows, found = compare(case, suite, ceilings, args)
        print(seq2seq_sections.case_section(rows, found) + "\n", flush=True)
        return rows, found

    rows, found = each_case(comparisons(args), one, args.deadline)
    results.write(args.out, "seq2seq", ceilings=ceilings, rows=rows, ratios=found)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

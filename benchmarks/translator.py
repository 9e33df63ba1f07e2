"""The record of a trained encoder-decoder: `python -m benchmarks.translator RUN --out FILE`.

What `jaxgen evaluate` says of its validation and its test pairs, how long `jaxgen train` took by
its own clock, and with `--answers N` what is made of the first N test sources, as it is. Test pairs
are read by this command, so it is for the end.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.train_for import shown

SCORES = ("exact_match", "bleu", "chrf")


def record(run: Path, answers: int, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run; `options` are those of `jaxgen.evaluate`."""
    import jaxgen
    from jaxgen.data.pairs import load_pairs

    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    parts = [jaxgen.evaluate(run, split=split, **options) for split in ("validation", "test")]
    for figures in parts:
        for name in ("path", "text"):
            del figures[name]
    translator: Any = jaxgen.load(run)
    test = load_pairs(translator.config.data).test
    sources = list(test.sources[:answers]) if test else []
    triples = zip(
        sources, translator.translate(sources), test.targets if test else (), strict=False
    )
    return {
        "minutes": last["seconds"] / 60,
        "steps": last["step"],
        "epochs": last["epoch"],
        "evaluations": parts,
        "answers": [list(triple) for triple in triples],
    }


def section(data: dict[str, Any]) -> str:
    """The report's section on one record."""
    rows = []
    for figures in data["evaluations"]:
        rows.append(_row(figures["split"], figures))
        for name, part in figures.items():
            if name == "nearest_pair":
                rows.append(_row("nearest training pair", part))
            elif isinstance(part, dict):
                rows.append(_row(name.replace("_", " "), part))
    signature = data["evaluations"][0].get("bleu_signature")
    blocks = [
        f"## {data['name']}: translations",
        results.table(["", "pairs", "exact match", "BLEU", "chrF"], rows),
        f"{data['steps']:,} steps, {data['epochs']:g} epochs, {data['minutes']:.1f} minutes."
        + (f" {data['remark']}" if data["remark"] else "")
        + f" `{data['command']}`"
        + (f" BLEU: `{signature}`." if signature else ""),
    ]
    if data["answers"]:
        texts = [[text.replace("|", "\\|") for text in row] for row in data["answers"]]
        blocks.append(results.table(["source", "output", "reference"], texts))
    return "\n\n".join(blocks)


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    pairs = f"{figures['pairs']:,}" if "pairs" in figures else ""
    forms = (".4f", ".2f", ".2f")
    scores = zip(SCORES, forms, strict=True)
    return [name, pairs, *(format(figures[x], form) if x in figures else "" for x, form in scores)]


def main(arguments: list[str] | None = None) -> int:
    from jaxgen.errors import UserError

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run of `jaxgen train`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="default: the run's")
    parser.add_argument("--bleu-tokenize", help="as of `jaxgen evaluate`")
    parser.add_argument("--answers", type=int, default=0, help="test sources to show answers to")
    parser.add_argument("--remark", default="", help="what else is to be known of the training")
    args = parser.parse_args(arguments)
    options = {"bleu_tokenize": args.bleu_tokenize} if args.bleu_tokenize else {}
    try:
        found = record(args.run, args.answers, options)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = args.name or args.run.name
    given = [str(args.run), *("--answers", str(args.answers)), "--out", str(args.out)]
    given += ["--bleu-tokenize", args.bleu_tokenize] if args.bleu_tokenize else []
    command = " ".join(["python -m benchmarks.translator", *map(shown, given)])
    found |= {"name": name, "command": command, "remark": args.remark}
    results.write(args.out, "translator", **found)
    print(section(found) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The record of a text GAN's quality: `python -m benchmarks.gan_quality FIGURES --name NAME`.

FIGURES is what `jaxgen evaluate RUN --json` printed; `--command` says how the run was trained.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from jaxgen.evaluation.gan_verdict import sentences

COLUMNS = {
    **{f"bleu_{n}": f"BLEU-{n}" for n in (2, 3, 4, 5)},
    **{f"self_bleu_{n}": f"Self-BLEU-{n}" for n in (2, 3, 4, 5)},
    **{"nll_test": "NLL_test", "nll_oracle": "NLL_oracle", "fed": "FED", "lm": "LM", "rlm": "RLM"},
}
ORACLE = ("nll_oracle", "nll_test")


def section(data: dict[str, Any]) -> str:
    """The report's section on one record."""
    figures = data["figures"]
    rows = {
        "GAN": figures["gan"],
        **{f"MLE, temperature {row['temperature']:g}": row for row in figures["mle_sweep"]},
        "training texts": figures["train"],
    }
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    if "nll_oracle" in names:
        names = list(ORACLE)
    table = results.table(
        ["", *(COLUMNS[name] for name in names)],
        [[title, *(_shown(row, name) for name in names)] for title, row in rows.items()],
    )
    facts = f"{figures['gan']['seeds']} seeds, mean ± deviation; {figures['samples']:,} samples."
    said = " ".join([facts, *([data["remark"]] if data["remark"] else []), *sentences(figures)])
    return f"## {data['name']}: a text GAN beside MLE\n\n{table}\n\n{said} `{data['command']}`"


def _shown(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    return f"{row[name]:.3f} ± {row['deviation'][name]:.3f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, help="what `jaxgen evaluate RUN --json` printed")
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", required=True, help="that trained the run")
    parser.add_argument("--remark", default="")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    figures = json.loads(args.figures.read_text())
    for name in ("path", "text"):
        del figures[name]
    content = {"name": args.name, "command": args.command, "remark": args.remark}
    results.write(args.out, "gan_quality", **content, figures=figures)
    print(section({**content, "figures": figures}) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What one configuration reaches in so many minutes: trained by the command, then evaluated.

    python -m benchmarks.train_for CONFIG --minutes 10 --out FILE [-- OPTION OF jaxgen train ...]

`jaxgen train` runs as a process with `training.max-minutes`, and with the compilation cache off,
so compiling counts. Then the validation and test texts are measured, every token once
(`exact`), and on request by the Keras recipe's windows too. What follows `--` goes to `jaxgen
train`. The checkpoint measured is named beside its figures: the best one is chosen by the
validation text, so of it only the test figure is free of choice.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.sections import whole_trainings
from benchmarks.worker import ROOT

FIGURES = ("tokens", "nll", "perplexity", "bpc")


def train(config: Path, minutes: float, run: Path, extra: list[str]) -> dict[str, Any]:
    """Run `jaxgen train`; seconds of the command and of its loop, steps and epochs.

    Raises:
        SystemExit: the command failed; its output has been shown.
    """
    command = [sys.executable, "-m", "jaxgen", "train", str(config)]
    command += ["--training.max-minutes", str(minutes), "--out", str(run), *extra]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONPATH": paths}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.returncode)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "nll" in row]
    return {
        "command_seconds": round(seconds, 1),
        "loop_seconds": rows[-1]["seconds"],
        "steps": rows[-1]["step"],
        "epochs": rows[-1]["epoch"],
        "tokens_per_second": steps[-1]["tokens_per_second"],
    }


def evaluations(
    run: Path, checkpoint: str, windows: bool, cache: int | None
) -> list[dict[str, Any]]:
    """Figures of each held-out text that the run has; of the test text with a cache too."""
    from jaxgen.data.corpora import load_corpus
    from jaxgen.experiment import evaluate, settings_of

    corpus = load_corpus(settings_of(run).data)
    asked = [(s, "exact") for s in ("validation", "test") if getattr(corpus, s) is not None]
    last = asked[-1:]
    if windows and corpus.validation is not None:
        asked.append(("validation", "windows"))
    found = []
    for split, protocol in asked:
        options = {"cache": cache} if cache and (split, protocol) in last else {}
        figures = evaluate(run, split=split, protocol=protocol, which=checkpoint, **options)
        kept = {name: figures[name] for name in FIGURES if name in figures}
        found.append({"split": split, "protocol": protocol, "checkpoint": checkpoint, **kept})
        if options:
            kept |= {name: figures["cache"][name] for name in FIGURES if name in figures["cache"]}
            named = {"split": split, "protocol": f"cache {cache}", "checkpoint": checkpoint}
            found.append({**named, **kept})
    return found


def shown(argument: str) -> str:
    """An argument as the record shows it: of a file outside the repository its name alone."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if path.is_absolute():
        inside = path.is_relative_to(ROOT)
        value = str(path.relative_to(ROOT)) if inside else path.name
    return option + equals + value


def main(arguments: list[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file")
    parser.add_argument("--minutes", type=float, required=True, help="of the training loop")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--validation-protocol", choices=("exact", "windows"), default="exact")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--cache", type=int, help="evaluate with a cache of so many tokens too")
    parser.add_argument("--run", type=Path, help="keep the run directory here")
    args = parser.parse_args(given[:cut])
    extra = given[cut + 1 :]
    if args.minutes <= 0:
        parser.error(f"--minutes must be more than 0, got {args.minutes:g}")
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or Path(folder, "run")
        facts = train(args.config, args.minutes, run, extra)
        windows = args.validation_protocol == "windows"
        measured = evaluations(run, args.checkpoint, windows, args.cache)
    content = {
        "name": args.out.stem.replace("_", " "),
        "config": shown(str(args.config)),
        "command": " ".join(["python -m benchmarks.train_for", *map(shown, given)]),
        "minutes": args.minutes,
        **facts,
        "evaluations": measured,
    }
    results.write(args.out, "whole_training", **content)
    print(whole_trainings([content]) + f"\n\nwritten to {args.out}")


if __name__ == "__main__":
    main()

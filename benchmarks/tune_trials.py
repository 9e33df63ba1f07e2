"""Trials a minute of `jaxgen tune`, beside a plain loop of `jaxgen train` over the same settings.

    python -m benchmarks.tune_trials --out benchmarks/results/tune_trials.json

Both try the same learning rates on one configuration, cut short, without pruning: the loop starts a
process for each, as a shell script would. Each starts with an empty cache of compiled programs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import results
from benchmarks.worker import ROOT

CONFIG = "configs/sentiment_demo.toml"
SPACE = "[optimizer]\nlearning_rate = [{}]\n"


def rates(count: int) -> list[float]:
    """As many different learning rates, the configuration's own first."""
    return [round(5e-3 * 1.1**power, 6) for power in range(count)]


def seconds(commands: list[list[str]], folder: Path) -> float:
    """Seconds that some commands take one after the other, with a cache of their own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    started = time.perf_counter()
    for command in commands:
        words = [sys.executable, "-m", "jaxgen", *command]
        subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    return time.perf_counter() - started


def tune_commands(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    """One command for all trials. There are as many as rates, drawn with repetition."""
    space = folder / "space.toml"
    space.write_text(SPACE.format(", ".join(map(str, rates(args.trials)))))
    limits = ["--trials", str(args.trials), "--training.max-steps", str(args.steps)]
    out = ["--space", str(space), "--out", str(folder / "best")]
    return [["tune", args.config, *out, *limits]]


def loop_commands(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    """A command for each trial."""
    return [
        [
            *("train", args.config, "--out", str(folder / f"run-{number}")),
            *("--training.max-steps", str(args.steps), "--optimizer.learning-rate", str(rate)),
        ]
        for number, rate in enumerate(rates(args.trials))
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=72)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tune_trials.json"))
    args = parser.parse_args(arguments)
    rows = []
    for name, commands in (("jaxgen tune", tune_commands), ("jaxgen train", loop_commands)):
        with tempfile.TemporaryDirectory() as folder:
            taken = seconds(commands(args, Path(folder)), Path(folder))
        rate = 60 * args.trials / taken
        rows.append({"contestant": name, "seconds": round(taken, 1), "trials_per_minute": rate})
        print(f"{name}: {taken:.1f} s for {args.trials} trials, {rate:.2f} a minute")
    settings = {"config": args.config, "trials": args.trials, "steps": args.steps}
    results.write(args.out, "tune_trials", **settings, rows=rows)


if __name__ == "__main__":
    main()

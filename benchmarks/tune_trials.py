"""Trials a minute of `jaxgen tune`, beside a plain loop of `jaxgen train` over the same settings.

    python -m benchmarks.tune_trials --out benchmarks/results/tune_trials.json

Both train as many learning rates of one configuration, each for the same steps and with one
evaluation, so that nothing is pruned; the loop starts a process for each, as a shell script would.
Both start with an empty cache of compiled programs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.worker import ROOT

CONFIG = "configs/sentiment_demo.toml"
SPACE = "[optimizer]\nlearning_rate = {low = 1e-3, high = 1e-2, log = true}\n"


def seconds(commands: list[list[str]], folder: Path) -> float:
    """Seconds that some commands take one after the other, with a cache of their own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    started = time.perf_counter()
    for command in commands:
        words = [sys.executable, "-m", "jaxgen", *command]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return time.perf_counter() - started


def tune_commands(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    """One command for all trials."""
    space = folder / "space.toml"
    space.write_text(SPACE)
    where = ["--space", str(space), "--trials", str(args.trials), "--out", str(folder / "best")]
    return [["tune", args.config, *where, *length(args)]]


def loop_commands(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    """A command for each trial."""
    rates = [1e-3 * 10 ** (number / args.trials) for number in range(args.trials)]
    return [
        [
            *("train", args.config, "--out", str(folder / f"run-{number}")),
            *("--optimizer.learning-rate", str(rate), *length(args)),
        ]
        for number, rate in enumerate(rates)
    ]


def length(args: argparse.Namespace) -> list[str]:
    """The options that make each training so long."""
    return ["--training.max-steps", str(args.steps), "--training.evaluate-every", str(args.steps)]


def section(data: dict[str, Any]) -> str:
    """The report's section."""
    rows = [
        [f"`{row['contestant']}`", f"{row['seconds']:.1f}", f"{row['trials_per_minute']:.2f}"]
        for row in data["contestants"]
    ]
    what = f"{data['trials']} learning rates of `{data['config']}`, {data['steps']} steps each"
    return f"## Trials: {what}\n\n" + results.table(["", "s", "trials a minute"], rows)


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
    results.write(args.out, "tune_trials", **settings, contestants=rows)


if __name__ == "__main__":
    main()

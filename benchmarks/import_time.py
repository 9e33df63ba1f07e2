"""What starting costs: `import jaxgen` over `import jax`, and `jaxgen --help`.

`python -m benchmarks.import_time` starts fresh processes in turn, bytecode already compiled, and
takes the time from start to exit. jaxgen's names are loaded when first used, so the
imports are timed twice: bare, and with the names that most programs use.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import results, sections
from benchmarks.timing import Spread, interleave
from benchmarks.worker import ROOT

REFERENCE = "import jax"
PROGRAMS = {
    REFERENCE: ["-c", REFERENCE],
    "import jax, jaxgen": ["-c", "import jax, jaxgen"],
    "import jaxgen; jaxgen.load, jaxgen.generate": [
        "-c",
        "import jaxgen; jaxgen.load, jaxgen.generate",
    ],
    "jaxgen --help": ["-m", "jaxgen", "--help"],
    "jaxgen train --help": ["-m", "jaxgen", "train", "--help"],
}


def process(arguments: list[str]) -> Callable[[], float]:
    """A timer of one fresh process."""

    def run() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        return time.perf_counter() - started

    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/import_time.json"))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(arguments)
    timers = {name: process(command) for name, command in PROGRAMS.items()}
    seconds = interleave(timers, rounds=args.rounds)
    added = {
        name: [a - b for a, b in zip(values, seconds[REFERENCE], strict=True)]
        for name, values in seconds.items()
        if name != REFERENCE
    }
    content = {
        "rounds": args.rounds,
        "seconds": {name: Spread.of(values).as_dict() for name, values in seconds.items()},
        "added": {name: Spread.of(values).as_dict() for name, values in added.items()},
    }
    results.write(args.out, "import_time", **content)
    print(sections.import_time(content))


if __name__ == "__main__":
    main()

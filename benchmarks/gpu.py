"""Everything that is to be measured on one GPU: `make bench-gpu`, or `python -m benchmarks.gpu`.

Needs nothing from the network, and of packages jax (with CUDA), flax, optax, numpy and
pytest-benchmark; PyTorch joins where it is installed. The headline comes first and the grid last:
recurrence, sampling and training beside PyTorch, several seeds, then the suite. Each step stops at
its share of `--minutes`; one that hangs is ended 3 minutes later, and one that fails does not stop
the others.
`--dry-run` walks the same path with tiny shapes on any machine and keeps no results.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contestants import gpu_is_here
from benchmarks.worker import ROOT

GRACE = 180.0


def steps(results: Path, dry: bool, minutes: float) -> dict[str, tuple[float, list[str]]]:
    """Minutes and command of each step."""
    mode = ["--dry-run"] if dry else []
    suite = ["-m", "pytest", "benchmarks", "-q", f"--benchmark-json={results}/gpu-suite.json"]
    trial = ["--run-seconds", "0.001", "-k", "stream or perplexity"]
    suite += trial if dry else ["--grid", "full"]

    def comparison(name: str) -> list[str]:
        out = str(results / f"gpu-{name}.json")
        return ["-m", f"benchmarks.compare_{name}", "--gpu", "--out", out, *mode]

    def within(share: float, command: list[str]) -> tuple[float, list[str]]:
        return share * minutes, [*command, "--minutes", f"{share * minutes:.2f}"]

    recurrence = [part for part in comparison("recurrence") if part != "--gpu"]
    seeds = ["-m", "benchmarks.seeds", "--out", str(results / "gpu-seeds.json")]
    return {
        "recurrence": within(0.25, recurrence),
        "sampling": within(0.25, comparison("sampling")),
        "training": within(0.15, comparison("training")),
        "seeds": (0.05 * minutes, [*seeds, "--quick"] if dry else seeds),
        "suite": within(0.3, suite),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, any machine")
    args = parser.parse_args(arguments)
    if not args.dry_run and not gpu_is_here():
        return 2
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if args.dry_run else args.results.resolve()
        for name, (minutes, command) in steps(folder, args.dry_run, args.minutes).items():
            started = time.monotonic()
            try:
                command = [sys.executable, *command]
                done = subprocess.run(command, cwd=ROOT, timeout=60 * minutes + GRACE)
                code = done.returncode
            except subprocess.TimeoutExpired:
                code = -1
            seconds = time.monotonic() - started
            print(f"{name}: {'done' if code == 0 else 'FAILED'} in {seconds:.0f} s", flush=True)
            failed += [name] if code else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

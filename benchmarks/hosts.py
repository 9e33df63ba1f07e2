"""Several processes on this machine: bytes of a step, weak scaling, and what a kill costs.

    python -m benchmarks.hosts --out benchmarks/results/hosts.json

Processes of one device each, joined over loopback, each on a core of its own. On two cores this
shows that the bytes are those of the closed form and what a step waits for messages; it cannot show
a network.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from benchmarks.cases import Case
from benchmarks.communication import counted_bytes, step_bytes
from benchmarks.costs import parameter_count
from benchmarks.jaxgen_lm import loss_of, model_of, params_of
from benchmarks.timing import Spread
from benchmarks.worker import ROOT
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.parallel import jit_multi_step, make_layout, request_host_devices
from jaxgen.training.step import init_state, make_train_step

CASES = (Case(B=16, T=32, H=32), Case(B=16, T=32, H=64, L=2, E=16), Case(B=32, T=64, H=256))
"""Rows of each process."""


def child(coordinator: str, count: int, index: int, rounds: int) -> None:
    """One of the processes, on a core of its own: print what it finds, if it is the first."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    # Here, as the settings need pydantic, and the report only reads what was found.
    from jaxgen.config.distributed import Distributed
    from jaxgen.training.processes import joined

    with joined(Distributed(coordinator, count, index)) as processes:
        request_host_devices(1)
        found = [measure(case, processes, rounds) for case in CASES]
        if processes.leads:
            print(json.dumps(found))


def measure(case: Case, processes: Any, rounds: int, pool: int = 8) -> dict[str, Any]:
    """Bytes of the collectives in the compiled steps, and seconds a step."""
    layout, model = make_layout(processes.count), model_of(case)
    tx = make_optimizer(name="adam", learning_rate=case.learning_rate, clip_norm=case.clip_norm)
    carry = model.initial_carry(case.B * processes.count)
    state = layout.place_state(init_state(params_of(case), tx, jax.random.key(0), carry=carry))
    batches = layout.place_batches({"tokens": case.batches(pool)})
    train_step = make_train_step(loss_of(model), tx, axis_name=layout.axis_name)
    multi_step = jit_multi_step(train_step, layout).lower(state, batches, np.int32(pool)).compile()
    seconds = []
    for _ in range(rounds + 1):
        processes.wait_for_all("a round")
        started = time.perf_counter()
        state, metrics = multi_step(state, batches, jnp.int32(pool))
        jax.block_until_ready(metrics)
        seconds.append((time.perf_counter() - started) / pool)
    return {
        "bytes": counted_bytes(multi_step.as_text()),
        "seconds": Spread.of(seconds[1:]).as_dict(),
    }


def gang(count: int, command: list[str], folder: Path) -> list[subprocess.Popen]:
    """Start processes of one command that are told where they stand; errors go to the folder."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        address = f"localhost:{server.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    where = ["--distributed.coordinator", address, "--distributed.num-processes", str(count)]
    processes = []
    for index in range(count):
        words = [sys.executable, "-m", *command, *where, "--distributed.process-id", str(index)]
        with (folder / f"errors-{index}").open("w") as errors:
            processes.append(
                subprocess.Popen(
                    words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            )
    return processes


def said_by(processes: list[subprocess.Popen], folder: Path) -> str:
    """How the processes stand, and the end of what each wrote to its standard error."""
    ends = [(folder / f"errors-{index}").read_text()[-2000:] for index in range(len(processes))]
    return "\n".join(
        f"process {index}, exit code {process.poll()}: {end}"
        for index, (process, end) in enumerate(zip(processes, ends, strict=True))
    )


def measured(count: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """What so many processes find."""
    processes = gang(count, ["benchmarks.hosts", "--child", "--rounds", str(rounds)], folder)
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(said_by(processes, folder))
    return json.loads(said[0].strip().splitlines()[-1])


def until(
    true: Callable[[], bool], processes: list[subprocess.Popen], folder: Path, seconds: float = 240
) -> None:
    """Wait for something that running processes bring about.

    Raises:
        RuntimeError: One of them ended, or it takes too long.
    """
    limit = time.monotonic() + seconds
    while not true():
        if any(p.poll() is not None for p in processes) or time.monotonic() > limit:
            for process in processes:
                process.kill()
            raise RuntimeError(said_by(processes, folder))
        time.sleep(0.002)


def after_a_kill(folder: Path) -> dict[str, float]:
    """Seconds from the kill of one of two processes to the end of both, and to new metrics."""
    run = folder / "run"
    metrics, owner = run / "metrics.jsonl", run / ".owner"
    base = ["jaxgen", "train", "--out", str(run)]
    first = [str(ROOT / "configs" / "demo.toml"), "--model.hidden-size", "64"]
    first += ["--training.evaluate-every", "100", "--training.steps-per-dispatch", "10"]
    first += ["--training.devices", "2", "--training.max-minutes", "10"]
    processes = gang(2, [*base, *first], folder)
    until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 15, processes, folder)
    killed = time.perf_counter()
    processes[1].kill()
    for process in processes:
        process.wait()
    ended = time.perf_counter()
    saved = json.loads((run / "run.json").read_text())["last"]["metrics_bytes"]
    before = owner.stat().st_mtime_ns
    again = gang(2, [*base, "--resume"], folder)
    until(lambda: owner.stat().st_mtime_ns != before, again, folder)  # they hold the run
    until(lambda: metrics.stat().st_size <= saved, again, folder)  # cut back to the checkpoint
    until(lambda: metrics.stat().st_size > saved, again, folder)
    back = time.perf_counter()
    for process in again:
        process.kill()
        process.wait()
    return {"to_the_end": ended - killed, "to_new_metrics": back - killed}


def rows_of(alone: list[dict[str, Any]], together: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of the result file for each case, from what one process found and what two did."""
    return [
        {
            "suite": "hosts",
            "case": case.name,
            "closed_form": step_bytes(parameter_count(case)),
            "counted": sum(two["bytes"]),
            "collectives": len(two["bytes"]),
            "alone": one["seconds"],
            "together": two["seconds"],
        }
        for case, one, two in zip(CASES, alone, together, strict=True)
    ]


def section(data: dict[str, Any]) -> str:
    """The part of the report."""
    lines = [
        [
            row["case"],
            f"{row['closed_form']:,}",
            f"{row['counted']:,}",
            f"{row['alone']['median'] * 1e3:.3g}",
            f"{row['together']['median'] * 1e3:.3g}",
            f"{row['alone']['median'] / row['together']['median']:.2f}",
        ]
        for row in data["rows"]
    ]
    headers = ["rows of each process", "bytes a step", "counted", "ms alone", "ms of two", "ratio"]
    kill = data["kill"]
    return "\n\n".join(
        [
            "## Several processes",
            results.table(headers, lines),
            "*Ratio*: weak scaling, 1 where a second process with as many rows costs no time. Each "
            "has one core; they share the memory and talk over loopback, so the ratio shows what "
            "the collective and the sharing cost here, and nothing of a network.",
            f"From the kill of one of two processes: {kill['to_the_end']:.1f} s until the other "
            f"had ended, {kill['to_new_metrics']:.1f} s until the restarted two had new metrics.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hosts.json"))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--distributed.coordinator", dest="coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--distributed.num-processes", dest="count", type=int)
    parser.add_argument("--distributed.process-id", dest="index", type=int)
    args = parser.parse_args()
    if args.child:
        return child(args.coordinator, args.count, args.index, args.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, together = (measured(count, args.rounds, folder) for count in (1, 2))
        content = {"rows": rows_of(alone, together), "ratios": [], "kill": after_a_kill(folder)}
    results.write(args.out, "hosts", **content)
    print(section(content) + f"\n\nwritten to {args.out}")


if __name__ == "__main__":
    main()

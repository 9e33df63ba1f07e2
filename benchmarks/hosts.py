"""Several processes on this machine: bytes of a step, weak scaling, and what a kill costs.

    python -m benchmarks.hosts --out benchmarks/results/hosts.json

Processes of one device each, joined over loopback. On two cores this shows that the bytes are those
of the closed form and what a step waits for messages; it cannot show a network.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
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
    """One of the processes: print what it finds of each case, if it is the first."""
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


def gang(count: int, command: list[str]) -> list[subprocess.Popen]:
    """Start processes of one command that are told where they stand."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        address = f"localhost:{server.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    where = ["--distributed.coordinator", address, "--distributed.num-processes", str(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", *command, *where, "--distributed.process-id", str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(count)
    ]


def measured(count: int, rounds: int) -> list[dict[str, Any]]:
    """What so many processes find."""
    processes = gang(count, ["benchmarks.hosts", "--child", "--rounds", str(rounds)])
    said = [process.communicate()[0] for process in processes]
    return json.loads(said[0].strip().splitlines()[-1])


def rows_in(run: Path) -> int:
    """Rows of the metrics."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def after_a_kill(folder: Path) -> dict[str, float]:
    """Seconds from the kill of one of two processes to the end of both, and to new metrics."""
    run = folder / "run"
    base = ["jaxgen", "train", "--out", str(run)]
    first = [str(ROOT / "configs" / "demo.toml"), "--model.hidden-size", "64"]
    first += ["--training.evaluate-every", "100", "--training.steps-per-dispatch", "10"]
    first += ["--training.devices", "2", "--training.max-minutes", "10"]
    processes = gang(2, [*base, *first])
    while rows_in(run) < 15:
        time.sleep(0.01)
    killed = time.perf_counter()
    processes[1].kill()
    for process in processes:
        process.wait()
    ended = time.perf_counter()
    saved = json.loads((run / "run.json").read_text())["last"]["metrics_bytes"]
    before = (run / ".owner").stat().st_mtime_ns
    again = gang(2, [*base, "--resume"])
    while (run / ".owner").stat().st_mtime_ns == before:  # they do not hold the run yet
        time.sleep(0.01)
    while (run / "metrics.jsonl").stat().st_size > saved:  # not cut back to the checkpoint yet
        time.sleep(0.001)
    while (run / "metrics.jsonl").stat().st_size == saved:
        time.sleep(0.01)
    back = time.perf_counter()
    for process in again:
        process.kill()
        process.wait()
    return {"to_the_end": ended - killed, "to_new_metrics": back - killed}


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
            "*Ratio*: weak scaling, 1 where a second process with as many rows costs no time. Both "
            "share this machine's cores, so it shows the cost of a second process and not of a "
            "network.",
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
    alone, together = measured(1, args.rounds), measured(2, args.rounds)
    rows = [
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
    with tempfile.TemporaryDirectory() as folder:
        content = {"rows": rows, "ratios": [], "kill": after_a_kill(Path(folder))}
    results.write(args.out, "hosts", **content)
    print(section(content) + f"\n\nwritten to {args.out}")


if __name__ == "__main__":
    main()
